"""The face on stdio: a real process, both eras, a clean wire, and an end that comes at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import anyio
import pytest
from mcp import Client

from lap_mcp.mcp_server.face import Face
from lap_mcp.mcp_server.options import FaceOptions
from tests.mcp.scripted import World
from tests.mcp.serving import (
    MODES,
    PATH,
    ROOT,
    Mode,
    last_line,
    session_of,
    stdio_server,
    text,
    until,
)
from tests.mcp.task_client import TasksExtension, task_get
from tests.processes import Processes

pytestmark = pytest.mark.anyio
both_eras = pytest.mark.parametrize("mode", MODES)


@both_eras
async def test_agents_and_code_work_and_the_connection_has_one_sandbox(mode: Mode) -> None:
    async with Client(stdio_server(), mode=mode) as client:
        expected = "2026-07-28" if mode == "auto" else "2025-11-25"
        assert client.protocol_version == expected
        assert {"echo", "code_interpreter"} <= {t.name for t in (await client.list_tools()).tools}
        first = await client.call_tool("echo", {"prompt": "hi"})
        again = await client.call_tool("echo", {"prompt": "you", "session": session_of(first)})
        assert session_of(again) == session_of(first)
        assert "new" in last_line(await client.call_tool("code_interpreter", {"code": "set a 7"}))
        assert "=> 7" in text(await client.call_tool("code_interpreter", {"code": "get a"}))
        given = {"code": "get a", "files": ["./data.csv"]}
        assert "=> 7" in text(await client.call_tool("code_interpreter", given))


async def test_a_tool_that_appears_is_announced_in_both_eras() -> None:
    heard: list[str] = []

    async def on_message(message: Any) -> None:
        heard.append(type(message).__name__)

    async with Client(stdio_server(), mode="legacy", message_handler=on_message) as client:
        await client.call_tool("recruiter", {"prompt": "newcomer"})
        await until(lambda: "ToolListChangedNotification" in heard)
        assert "newcomer" in [tool.name for tool in (await client.list_tools()).tools]
    async with Client(stdio_server()) as client:
        await client.list_tools()
        async with client.listen(tools_list_changed=True) as events:
            await client.call_tool("recruiter", {"prompt": "newcomer"})
            with anyio.fail_after(10):
                assert type(await anext(aiter(events))).__name__ == "ToolsListChanged"
        assert "newcomer" in [tool.name for tool in (await client.list_tools()).tools]


async def test_the_sandbox_of_a_connection_ends_with_it_and_others_keep_theirs() -> None:
    """Two connections of one face, as a service that several windows share would have."""
    world = World()
    async with world.running():
        face = Face(world.services, FaceOptions())
        async with face.running(), Client(face.server) as staying:
            await staying.call_tool("code_interpreter", {"code": "set a 1"})
            async with Client(face.server) as leaving:
                await leaving.call_tool("code_interpreter", {"code": "set a 2"})
                assert len(world.sandboxes.boxes) == 2
            await until(lambda: len(world.sandboxes.boxes) == 1)
            again = await staying.call_tool("code_interpreter", {"code": "get a"})
            assert "=> 1" in text(again)
        await until(lambda: not world.sandboxes.boxes)


async def test_a_long_turn_is_a_task_on_stdio_too() -> None:
    async with Client(stdio_server(), extensions=[TasksExtension()]) as client:
        _, task_id = text(await client.call_tool("slow", {"prompt": "1"})).split()
        with anyio.fail_after(15):
            while (task := await task_get(client, task_id)).status != "completed":  # noqa: ASYNC110
                await anyio.sleep(0.05)
        assert "Slowly done." in str(task.result)


async def test_output_of_running_code_arrives_as_progress() -> None:
    heard: list[str] = []

    async def progress(step: float, total: float | None, message: str | None) -> None:
        heard.append(message or "")

    async with Client(stdio_server()) as client:
        with anyio.move_on_after(20):
            async with anyio.create_task_group() as group:

                async def run() -> None:
                    await client.call_tool(
                        "code_interpreter", {"code": "forever"}, progress_callback=progress
                    )

                group.start_soon(run)
                while "The code is running." not in heard:  # noqa: ASYNC110
                    await anyio.sleep(0.05)
                group.cancel_scope.cancel()
        assert heard[0] == "started"
        assert "You said" in text(await client.call_tool("echo", {"prompt": "x"}))


def request(number: int, method: str, **params: Any) -> bytes:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    }
    message = {
        "jsonrpc": "2.0",
        "id": number,
        "method": method,
        "params": {**params, "_meta": meta},
    }
    return json.dumps(message).encode() + b"\n"


@pytest.fixture
def server(started: Processes) -> subprocess.Popen[bytes]:
    return started.start(
        [sys.executable, "-m", "tests.mcp.server"],
        cwd=ROOT,
        env={"PYTHONPATH": PATH},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ask(server: subprocess.Popen[bytes], line: bytes) -> Any:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(line)
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def test_only_the_protocol_is_on_stdout_and_the_end_of_stdin_ends_the_process(
    server: subprocess.Popen[bytes],
) -> None:
    """Also while an agent call and an execution are under way."""
    assert ask(server, request(1, "server/discover"))["result"]["capabilities"]["tools"]
    assert server.stdin is not None
    for number, name, arguments in (
        (2, "slow", {"prompt": "60"}),
        (3, "code_interpreter", {"code": "forever"}),
    ):
        server.stdin.write(request(number, "tools/call", name=name, arguments=arguments))
    server.stdin.flush()
    ask(server, request(4, "tools/call", name="lap_status", arguments={}))
    out, err = server.communicate(timeout=20)
    assert server.returncode == 0
    for line in out.splitlines():
        json.loads(line)
    assert b"a library prints this" in err
    assert b"before anything runs" in err


def test_a_signal_ends_the_process_although_it_waits_for_stdin(
    server: subprocess.Popen[bytes],
) -> None:
    ask(server, request(1, "server/discover"))
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=15) == -signal.SIGTERM


def test_what_is_no_message_is_answered_and_does_no_harm(server: subprocess.Popen[bytes]) -> None:
    ask(server, request(1, "server/discover"))
    assert server.stdin is not None
    server.stdin.write(b"not json\n" + b'{"jsonrpc": "2.0"}\n' + b"\xff\xfe\n")
    found = ask(server, request(2, "tools/list"))
    while found.get("id") != 2:
        assert server.stdout is not None
        found = json.loads(server.stdout.readline())
    assert found["result"]["tools"]


def test_a_large_answer_arrives_whole(server: subprocess.Popen[bytes]) -> None:
    ask(server, request(1, "server/discover"))
    long = "x" * 3_000_000
    for number in range(2, 5):
        arguments = {"code": f"write big.txt {long}"}
        found = ask(
            server, request(number, "tools/call", name="code_interpreter", arguments=arguments)
        )
        uri = found["result"]["content"][1]["uri"]
        read = ask(server, request(number + 10, "resources/read", uri=uri))
        assert read["result"]["contents"][0]["text"] == long
