"""Two windows of one user: two real stdio servers on one home, seen by real MCP clients."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult, TextContent

from lap_mcp.control.polling import eventually as eventually_async

from .conftest import Lab, eventually

pytestmark = pytest.mark.anyio

LAP_MCP = Path(sys.executable).with_name("lap-mcp")
CONFIG = """
[runtimes.lab]
kind = "a2a"
url = "{url}"
auth = {{ bearer = "file:~/agent.secret" }}

[agents.helper]
runtime = "lab"
description = "Helps."
"""


def text_of(result: CallToolResult) -> str:
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))


def session_in(text: str) -> str:
    found = re.search(r"ses_[0-9a-f]{32}", text)
    assert found, text
    return found[0]


@asynccontextmanager
async def window(lab: Lab, **environ: str) -> AsyncIterator[Client]:
    config = lab.home.parent / "lap.toml"
    await anyio.Path(config).write_text(CONFIG.format(url=lab.url))
    env = {"PATH": os.environ["PATH"], "HOME": str(lab.home.parent), "LAP_HOME": str(lab.home)}
    server = StdioServerParameters(
        command=str(LAP_MCP), args=["--config", str(config)], env={**env, **environ}
    )
    async with Client(server) as client:
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> CallToolResult:
    with anyio.fail_after(60):
        return await client.call_tool(tool, arguments)


async def until_status(client: Client, session: str, status: str) -> str:
    with anyio.fail_after(60):
        while True:
            shown = text_of(await call(client, "get_session", session=session, wait_s=1))
            if status in shown:
                return shown
            assert "failed" not in shown, shown


async def test_one_window_sees_and_cancels_the_turn_of_the_other(lab: Lab) -> None:
    async with window(lab) as first, window(lab) as second:
        started = await call(first, "helper", prompt="slow 200 0.1", wait_s=0)
        session = session_in(text_of(started))

        listed = text_of(await call(second, "list_sessions"))
        cancelled = text_of(await call(second, "cancel_session", session=session))
        seen = await until_status(first, session, "cancelled")

    assert session in listed
    assert "idle" in cancelled
    assert "chunk 1 of 200" in seen


async def test_one_window_answers_what_the_other_windows_agent_asks(lab: Lab) -> None:
    async with window(lab) as first, window(lab) as second:
        asked = text_of(await call(first, "helper", prompt="ask Which colour?"))
        question = re.search(r"qst_[0-9a-f]{32}", asked)
        assert question, asked

        given = await call(second, "answer_question", question=question[0], text="blue")
        assert not given.is_error, text_of(given)
        answered = await until_status(first, session_in(asked), "completed")

    assert "blue" in answered


async def test_a_command_in_a_terminal_follows_a_turn_to_its_end(lab: Lab) -> None:
    async with window(lab) as client:
        started = await call(client, "helper", prompt="slow 10 0.1", wait_s=0)
        session = session_in(text_of(started))
        command = [str(LAP_MCP), "sessions", "follow", session, "--once"]
        with anyio.fail_after(60):
            followed = await anyio.run_process(
                command, env={**os.environ, "LAP_HOME": str(lab.home), "HOME": str(lab.home.parent)}
            )

    assert b"chunk 10 of 10" in followed.stdout


async def test_a_killed_window_leaves_its_turn_to_the_next(lab: Lab) -> None:
    """SIGKILL of the real server in the middle of a turn, through the real face."""
    async with window(lab) as client:
        started = await call(client, "helper", prompt="slow 30 0.1", wait_s=0)
        session = session_in(text_of(started))
        await anyio.to_thread.run_sync(
            eventually, lambda: lab.query("SELECT id FROM turns WHERE phase = 2")
        )
        os.kill(server_of(lab), signal.SIGKILL)
    async with window(lab) as client:
        shown = await until_status(client, session, "completed")

    assert shown.count("chunk 30 of 30") == 1
    numbers = [seq for seq, _, _ in lab.events(session)]
    assert numbers == list(range(1, len(numbers) + 1))


def server_of(lab: Lab) -> int:
    """Process id of the server that holds a lease."""
    (row,) = lab.query("SELECT pid FROM owners JOIN sessions ON sessions.lease_owner = owners.id")
    return int(row["pid"])


class EngineProxy:
    """A Docker socket that can be taken away."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect("/var/run/docker.sock")
            self._open += [client, engine]
            for here, there in ((client, engine), (engine, client)):
                threading.Thread(target=self._copy, args=(here, there), daemon=True).start()

    @staticmethod
    def _copy(here: socket.socket, there: socket.socket) -> None:
        try:
            while data := here.recv(65536):
                there.sendall(data)
            there.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def stop(self) -> None:
        self.path.unlink(missing_ok=True)
        for open_ in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                open_.shutdown(socket.SHUT_RDWR)
            open_.close()


@pytest.fixture
def engine_proxy(tmp_path: Path) -> Iterator[EngineProxy]:
    proxy = EngineProxy(Path(f"/tmp/lap-engine-{os.getpid()}.sock"))
    yield proxy
    proxy.stop()


@pytest.mark.docker
async def test_an_engine_that_stops_is_said_within_two_seconds_and_agents_go_on(
    lab: Lab, engine_proxy: EngineProxy
) -> None:
    async with window(lab, DOCKER_HOST=f"unix://{engine_proxy.path}") as client:

        async def ready() -> bool:
            return not (await call(client, "code_interpreter", code="x = 41")).is_error

        assert await eventually_async(ready, 120)
        assert "42" in text_of(await call(client, "code_interpreter", code="x + 1"))

        await anyio.to_thread.run_sync(engine_proxy.stop)
        said = await call(client, "code_interpreter", code="x + 1")
        times = []
        for _ in range(3):
            began = time.monotonic()
            again = await call(client, "code_interpreter", code="1 + 1")
            times.append(time.monotonic() - began)
        agent = await call(client, "helper", prompt="echo still here")

    assert said.is_error
    assert again.is_error
    assert "engine" in text_of(again).lower()
    assert min(times) < 2, "the best of three: this machine may be busy with something else"
    assert "still here" in text_of(agent)


async def test_without_any_engine_the_answer_says_so_and_what_to_do(lab: Lab) -> None:
    nothing = {"DOCKER_HOST": "unix:///nonexistent/docker.sock", "LAP_SANDBOX__LAUNCHER": "docker"}
    async with window(lab, **nothing) as client:
        times = []
        for _ in range(3):
            began = time.monotonic()
            said = await call(client, "code_interpreter", code="1 + 1")
            times.append(time.monotonic() - began)
        agent = await call(client, "helper", prompt="echo still here")

    assert said.is_error
    assert "/nonexistent/docker.sock" in text_of(said)
    assert min(times) < 2, "the best of three: this machine may be busy with something else"
    assert "still here" in text_of(agent)
