"""The real Claude Code, driven headless against the scripted model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import claude_agent_sdk

from tests.canary import canary
from tests.harnesses.surroundings import Surroundings

CLAUDE = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"


def environment(around: Surroundings) -> Mapping[str, str]:
    return {
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{around.model_port}",
        "ANTHROPIC_API_KEY": canary("model-anthropic"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "IS_SANDBOX": "1",
        "CLAUDE_CODE_TMPDIR": str(around.temporary),
    }


def command(around: Surroundings, script: Sequence[Mapping[str, Any]]) -> list[str | Path]:
    """`claude -p` with our server as its only MCP server, and the script in the prompt."""
    servers = {
        "lap": {
            "type": "stdio",
            "command": str(around.server_command()),
            "args": [],
            "env": dict(around.lap_environment),
        }
    }
    config = around.home / "mcp.json"
    config.write_text(json.dumps({"mcpServers": servers}))
    return [
        CLAUDE,
        "-p",
        f"Do as the script says. %%{json.dumps(list(script))}%%",
        "--output-format",
        "stream-json",
        "--verbose",
        "--permission-mode",
        "bypassPermissions",
        "--model",
        "claude-sonnet-4-5",
        "--mcp-config",
        config,
        "--strict-mcp-config",
    ]


def run(around: Surroundings, script: Sequence[Mapping[str, Any]]) -> str:
    """One prompt to its end; the final answer."""
    said = around.run(command(around, script), environment(around))
    lines = [json.loads(line) for line in said.splitlines()]
    result = next(line for line in lines if line["type"] == "result")
    assert not result["is_error"], result
    answer: str = result["result"]
    return answer
