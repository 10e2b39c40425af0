"""The real Codex, driven headless against the scripted model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import codex_cli_bin

from tests.canary import canary
from tests.harnesses.surroundings import Surroundings

CODEX = Path(codex_cli_bin.__file__).parent / "bin" / "codex"

CONFIG = """
model = "gpt-scripted"
model_provider = "scripted"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false

[model_providers.scripted]
name = "scripted"
base_url = "http://127.0.0.1:{port}/v1"
env_key = "SCRIPTED_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0

[analytics]
enabled = false

[feedback]
enabled = false

[mcp_servers.lap]
command = {command}
required = true
startup_timeout_sec = 60

[mcp_servers.lap.env]
{environment}
"""


def run(around: Surroundings, codex_home: Path, script: Sequence[Mapping[str, Any]]) -> str:
    """One prompt to its end; the final answer.  `codex_home` must not lie under /tmp: Codex puts
    helper programs there and refuses to below a temporary folder."""
    environment = "\n".join(f"{k} = {json.dumps(v)}" for k, v in around.lap_environment.items())
    (codex_home / "config.toml").write_text(
        CONFIG.format(
            port=around.model_port,
            command=json.dumps(str(around.server_command())),
            environment=environment,
        )
    )
    prompt = f"Do as the script says. %%{json.dumps(list(script))}%%"
    said = around.run(
        [CODEX, "exec", "--json", "--skip-git-repo-check", "-C", around.project, prompt],
        {"CODEX_HOME": str(codex_home), "SCRIPTED_KEY": canary("model-openai")},
    )
    items = [json.loads(line).get("item", {}) for line in said.splitlines()]
    return "\n".join(i["text"] for i in items if i.get("type") == "agent_message")
