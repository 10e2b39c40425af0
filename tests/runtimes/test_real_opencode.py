"""The real opencode with a scripted model, over its HTTP server and over ACP (tier 2).

`LAP_TEST_OPENCODE` names the program; else the one on PATH, else what npm installs into `.cache`
(opencode-ai 1.18.33, 350 MB)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from lap_runtimes.acp import ACPRuntime
from lap_runtimes.base import Answer, Asked, Done, Event, Message, Started, ToolResult, Usage
from lap_runtimes.opencode import OpencodeRuntime

from tests.canary import canary
from tests.capabilities import ROOT
from tests.conftest import require
from tests.processes import Processes, free_port
from tests.runtimes.conftest import MakeTurn
from tests.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.tier2]

SECONDS = 180
QUIET = {
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
}
LOOK = [
    {"text": "let me look", "tool": "bash", "args": {"command": "echo it-ran", "description": "x"}}
]


@pytest.fixture(scope="module")
def opencode() -> str:
    found = os.environ.get("LAP_TEST_OPENCODE") or shutil.which("opencode")
    if found:
        return found
    folder = ROOT / ".cache" / "opencode"
    program = folder / "node_modules" / ".bin" / "opencode"
    if not program.exists():
        npm = shutil.which("npm")
        if npm is None:
            require("opencode", "no opencode: set LAP_TEST_OPENCODE, or install npm")
        folder.mkdir(parents=True, exist_ok=True)
        command = [str(npm), "install", "--no-audit", "--no-fund", "opencode-ai@1.18.33"]
        subprocess.run(command, cwd=folder, check=True, timeout=600)
    return str(program)


@pytest.fixture
def started() -> Iterator[Processes]:
    processes = Processes()
    yield processes
    processes.close()


@pytest.fixture
def project(tmp_path: Path, started: Processes) -> Path:
    """A folder whose opencode asks before it runs a command, and whose model is scripted."""
    port = free_port()
    record = tmp_path / "model.jsonl"
    command = [sys.executable, "-m", "tests.models.server", "--record", record, "--port", str(port)]
    started.start(command, cwd=ROOT)
    eventually(lambda: answers(f"http://127.0.0.1:{port}/v1/models"))
    options = {"baseURL": f"http://127.0.0.1:{port}/v1", "apiKey": "x"}
    provider = {"npm": "@ai-sdk/anthropic", "options": options, "models": {"words": {}}}
    folder = tmp_path / "project"
    folder.mkdir()
    settings = {
        "provider": {"scripted": provider},
        "model": "scripted/words",
        "small_model": "scripted/words",
        "permission": {"bash": "ask"},
        "share": "disabled",
        "autoupdate": False,
    }
    (folder / "opencode.json").write_text(json.dumps(settings))
    (tmp_path / "home").mkdir()
    return folder


def answers(url: str, **options: Any) -> bool:
    try:
        return httpx2.get(url, trust_env=False, timeout=20, **options).status_code == 200
    except httpx2.HTTPError:
        return False


def environment(project: Path) -> dict[str, str]:
    path = os.environ.get("PATH", os.defpath)
    return {**QUIET, "PATH": path, "HOME": str(project.parent / "home")}


async def play(runtime: Any, turn: Any, **answer: Any) -> list[Event]:
    seen: list[Event] = []
    ref: Any = {}
    with anyio.fail_after(SECONDS):
        async with runtime.start(turn) as events:
            async for event in events:
                seen.append(event)
                ref = event.ref or ref
                if isinstance(event, Asked):
                    await runtime.answer(ref, Answer(question_id=event.question.id, **answer))
    return seen


def script(*steps: Any) -> str:
    return f"do as told %%{json.dumps([*steps])}%%"


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Message)]


async def a_whole_session(runtime: Any, make_turn: MakeTurn) -> list[Event]:
    """Allow a command, go on in the same session, deny one, cancel one that waits."""
    first = await play(runtime, make_turn(script(*LOOK, {"text": "all done"})), decision="allow")
    assert texts(first) == ["let me look", "all done"]
    (result,) = [event for event in first if isinstance(event, ToolResult)]
    assert "it-ran" in result.text
    done = first[-1]
    assert isinstance(done, Done)
    assert done.outcome == "completed"
    denied = make_turn(script(*LOOK, {"text": "never mind"}), ref=done.ref)
    second = await play(runtime, denied, decision="deny")
    assert isinstance(second[-1], Done)
    assert not any(
        "it-ran" in e.text for e in second if isinstance(e, ToolResult) and not e.is_error
    )
    with anyio.fail_after(SECONDS):
        async with runtime.start(make_turn(script(*LOOK), ref=second[-1].ref)) as events:
            ref: Any = {}
            async for event in events:
                ref = event.ref or ref
                if isinstance(event, Asked):
                    await runtime.cancel(ref)
                last = event
    assert isinstance(last, Done)
    assert last.outcome == "cancelled"
    return first


async def test_a_whole_session_over_its_http_server(
    opencode: str, project: Path, started: Processes, make_turn: MakeTurn
) -> None:
    port, password = free_port(), canary("opencode")
    env = {**environment(project), "OPENCODE_SERVER_PASSWORD": password}
    started.start([opencode, "serve", "--port", str(port)], env=env, cwd=project)
    url = f"http://127.0.0.1:{port}"
    eventually(lambda: answers(f"{url}/agent", auth=("opencode", password)), within=SECONDS)
    runtime = OpencodeRuntime(
        OpencodeRuntime.Config.model_validate(
            {"url": url, "password": "env:KEY"},
            context={"resolve_secret": lambda name: password},
        )
    )
    try:
        assert "build" in [agent.name for agent in await runtime.agents()]
        first = await a_whole_session(runtime, make_turn)
        assert any(isinstance(event, Usage) and event.output_tokens for event in first)
        started_event = next(event for event in first if isinstance(event, Started))
        assert started_event.ref is not None
        with anyio.fail_after(SECONDS):
            async with runtime.attach(started_event.ref, None) as events:
                again = [event async for event in events]
        assert texts(again) == texts(first)
        stored = {str(event.id) for event in first if isinstance(event, (Message, ToolResult))}
        assert stored == {str(e.id) for e in again if isinstance(e, (Message, ToolResult))}
    finally:
        await runtime.aclose()


async def test_a_whole_session_over_acp(opencode: str, project: Path, make_turn: MakeTurn) -> None:
    config = ACPRuntime.Config.model_validate(
        {"command": [opencode, "acp"], "env": environment(project), "folder": str(project),
         "start_seconds": SECONDS}
    )  # fmt: skip
    runtime = ACPRuntime(config)
    try:
        with anyio.fail_after(SECONDS):
            assert "loads earlier sessions" in await runtime.check()
        await a_whole_session(runtime, make_turn)
    finally:
        await runtime.aclose()
