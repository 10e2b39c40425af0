"""One namespace with model, agent and configuration for each harness test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.canary import canary, search
from tests.capabilities import ROOT
from tests.harnesses.namespace import Namespace
from tests.harnesses.surroundings import Surroundings, start_agent, start_model
from tests.processes import Processes

AGENT_PORT = 9101
"""In a namespace of its own nothing else can have it."""

LAP_TOML = f"""
[runtimes.example]
kind = "a2a"
url = "http://127.0.0.1:{AGENT_PORT}"
auth = {{ bearer = "file:~/agent.secret" }}

[agents.research]
runtime = "example"
description = "Answers questions about anything."

[runtimes.second]
kind = "a2a"
url = "http://127.0.0.1:{AGENT_PORT}"
auth = {{ bearer = "file:~/agent.secret" }}
discover = false
"""


@pytest.fixture
def around(started: Processes, tmp_path: Path) -> Surroundings:
    namespace = Namespace(started)
    home, project = tmp_path / "person", tmp_path / "project"
    home.mkdir()
    project.mkdir()
    record = tmp_path / "requests.jsonl"
    config = home / "lap.toml"
    config.write_text(LAP_TOML)
    secret = home / "agent.secret"
    secret.write_text(canary("a2a"))
    secret.chmod(0o600)
    start_agent(started, namespace, AGENT_PORT)
    return Surroundings(
        namespace=namespace,
        started=started,
        home=home,
        project=project,
        record=record,
        model_port=start_model(started, namespace, record),
        lap_config=config,
    )


@pytest.fixture
def codex_home() -> Iterator[Path]:
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="codex-", dir=cache))
    yield folder
    hits = search([folder])
    shutil.rmtree(folder)
    assert hits == []
