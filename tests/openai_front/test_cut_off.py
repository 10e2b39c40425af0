"""Background responses whose process is gone: SIGKILL of the real server, and a process that
others have given up; on both databases."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from openai import AsyncOpenAI

from tests.control.conftest import where
from tests.openai_front.fronting import TOOL, UPSTREAM_KEY, Clock, fronted
from tests.openai_front.model import Code, Hang, Model, Say, playing
from tests.processes import Processes
from tests.waiting import eventually_async

__all__ = ["where"]

pytestmark = pytest.mark.anyio

LAP_MCP = Path(sys.executable).parent / "lap-mcp"
KEY = "serve.key"


@asynccontextmanager
async def client_of(
    started: Processes, folder: Path, model: Model, store: Path | str
) -> AsyncIterator[tuple[Any, AsyncOpenAI]]:
    """A server of its own on the home that all share."""
    config = folder / "lap.toml"
    url = str(store).replace("+asyncpg", "") if isinstance(store, str) else f"sqlite:///{store}"
    config.write_text(
        f'[models.m]\nbase_url = "{model.url}"\napi_key = "env:UPSTREAM"\n'
        '[store]\nurl = "env:STORE"\n'
    )
    config.chmod(0o600)
    environ = {"LAP_HOME": str(folder / "home"), "UPSTREAM": UPSTREAM_KEY, "STORE": url}
    environ["PATH"] = "/usr/bin:/bin"
    command = [LAP_MCP, "--config", config, "serve", "--port", "0"]
    server = started.start(command, env=environ, stdout=subprocess.PIPE, cwd=folder)
    assert server.stdout is not None
    words = (await anyio.to_thread.run_sync(server.stdout.readline)).decode()
    url = words.split()[-1].removesuffix("/mcp")
    key = (folder / "home" / KEY).read_text().strip()
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        yield server, client


async def test_a_killed_server_leaves_no_response_in_progress_for_ever(
    tmp_path: Path, started: Processes, where: Path | str
) -> None:
    """Neither for a process that runs meanwhile, nor for the one that comes after."""
    model = Model([Say("half"), Hang()], endless=True)
    request: Any = {"model": "m", "input": "go", "tools": [TOOL], "background": True}
    async with playing(model):
        async with client_of(started, tmp_path, model, where) as (_, other):
            async with client_of(started, tmp_path, model, where) as (server, client):
                first = await client.responses.create(**request)
                second = await client.responses.create(**request)
                await eventually_async(lambda: model.open == 2, within=30)
                seen = await other.responses.retrieve(first.id)
                assert seen.status == "in_progress"
                server.send_signal(signal.SIGKILL)
                await anyio.to_thread.run_sync(server.wait)
            found = await other.responses.retrieve(first.id)
            assert found.status == "failed"
            assert found.error is not None
            assert "ended while it ran" in found.error.message
        async with client_of(started, tmp_path, model, where) as (_, later):
            assert (await later.responses.retrieve(first.id)).status == "failed"
            assert (await later.responses.retrieve(second.id)).status == "failed"


async def test_another_process_cancels_what_this_one_runs(
    tmp_path: Path, started: Processes, where: Path | str
) -> None:
    model = Model([Say("half"), Hang()])
    async with (
        playing(model),
        client_of(started, tmp_path, model, where) as (_, other),
        client_of(started, tmp_path, model, where) as (_, client),
    ):
        first = await client.responses.create(
            model="m",
            input="go",
            tools=[TOOL],
            background=True,  # type: ignore[list-item]
        )
        await eventually_async(lambda: model.open == 1, within=30)
        assert (await other.responses.cancel(first.id)).status == "cancelled"
        await eventually_async(lambda: model.open == 0, within=30)
        assert (await client.responses.retrieve(first.id)).status == "cancelled"


async def test_a_process_that_was_given_up_stops_and_does_not_speak_again(
    tmp_path: Path, where: Path | str
) -> None:
    """It was silent for longer than it may be: whoever asked found the response failed."""
    clock = Clock()
    async with fronted(Model([Code("forever")]), tmp_path, clock=clock, store=where) as f:
        responses = f.client().responses
        begun = await responses.create(
            model="gpt-test",
            input="go",
            tools=[TOOL],
            background=True,  # type: ignore[list-item]
        )
        await eventually_async(lambda: f.launcher.sandboxes and f.launcher.sandboxes[0].running)
        assert (await responses.retrieve(begun.id)).status == "in_progress"
        clock.offset = 3600
        assert (await responses.retrieve(begun.id)).status == "failed"
        await eventually_async(lambda: f.launcher.sandboxes[0].interrupts == 1, within=30)
        assert (await responses.retrieve(begun.id)).status == "failed"
