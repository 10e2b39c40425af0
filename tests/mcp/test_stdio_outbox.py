"""Messages on stdout, through a pipe that has room and one that has none: whole and in order."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import islice

import anyio
import anyio.to_thread
import mcp.types as t
import pytest
from mcp.shared.message import SessionMessage

from lap_mcp.mcp_server import stdio
from lap_mcp.mcp_server.stdio import _BEHIND, _Outbox
from tests.mcp.serving import stdio_server, until

pytestmark = pytest.mark.anyio
DEADLINE = 30.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The end to read from, and the one to write to."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        with suppress(OSError):
            os.close(fd)


@asynccontextmanager
async def outbox(fd: int) -> AsyncIterator[_Outbox]:
    """It writes while inside, and to its end when left; then the pipe is closed."""
    made = _Outbox(fd)
    try:
        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(made.run)
                async with made:
                    yield made
    finally:
        os.close(fd)


def message(number: int, size: int = 0) -> SessionMessage:
    params = {"n": number, "text": "x" * size}
    return SessionMessage(t.JSONRPCNotification(jsonrpc="2.0", method="test", params=params))


class Reading:
    """Everything that comes, read in a thread until the end, or so many lines."""

    def __init__(self, fd: int, lines: int | None = None) -> None:
        self._fd = fd
        self._lines = lines
        self.numbers: list[int] = []

    async def __call__(self) -> None:
        await anyio.to_thread.run_sync(self._read)

    def _read(self) -> None:
        with os.fdopen(self._fd, "rb", closefd=False) as file:
            for line in islice(file, self._lines):
                self.numbers.append(json.loads(line)["params"]["n"])


async def test_what_fits_is_written_before_send_returns(pipe: tuple[int, int]) -> None:
    read, write = pipe
    async with outbox(write) as box:
        await box.send(message(1))
        assert json.loads(os.read(read, 4096))["params"]["n"] == 1


@pytest.mark.parametrize("sizes", [[10], [5_000_000], [10, 10, 100_000], [5_000, 10, 1_000_000]])
async def test_messages_come_whole_and_in_order(pipe: tuple[int, int], sizes: list[int]) -> None:
    read, write = pipe
    reading = Reading(read)
    count = 3 if 5_000_000 in sizes else 200

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reading)
        async with outbox(write) as box:
            for number in range(count):
                await box.send(message(number, sizes[number % len(sizes)]))
    assert reading.numbers == list(range(count))


async def test_each_sender_of_many_is_heard_whole(pipe: tuple[int, int]) -> None:
    read, write = pipe
    reading = Reading(read)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reading)
        async with outbox(write) as box, anyio.create_task_group() as senders:

            async def send(first: int) -> None:
                for number in range(first, first + 50):
                    await box.send(message(number, 20_000 if number % 7 == 0 else 10))

            for sender in range(8):
                senders.start_soon(send, 100 * sender)
    for sender in range(8):
        of_one = [number for number in reading.numbers if number // 100 == sender]
        assert of_one == list(range(100 * sender, 100 * sender + 50))


async def test_senders_wait_for_a_client_that_does_not_read(pipe: tuple[int, int]) -> None:
    read, write = pipe
    sent = 0

    async def send_all(box: _Outbox) -> None:
        nonlocal sent
        for number in range(200):
            await box.send(message(number, 100_000))
            sent += 1

    reading = Reading(read)
    async with (
        anyio.create_task_group() as tasks,
        outbox(write) as box,
        anyio.create_task_group() as senders,
    ):
        senders.start_soon(send_all, box)
        await anyio.sleep(0.3)
        assert sent <= _BEHIND + 1
        tasks.start_soon(reading)
    assert reading.numbers == list(range(200))


async def test_a_sender_that_is_cancelled_leaves_no_half_message(pipe: tuple[int, int]) -> None:
    read, write = pipe
    reading = Reading(read)

    async with anyio.create_task_group() as tasks, outbox(write) as box:
        for number in range(_BEHIND + 5):
            with anyio.move_on_after(0.02):
                await box.send(message(number, 100_000))
        tasks.start_soon(reading)
        await box.send(message(1000))
    assert reading.numbers == [*range(_BEHIND + 5), 1000]


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_client_that_closed_its_end_ends_the_writing(
    pipe: tuple[int, int], size: int
) -> None:
    read, write = pipe
    os.close(read)
    with pytest.RaisesGroup(BrokenPipeError):
        async with outbox(write) as box:
            await box.send(message(1, size))
            await anyio.sleep(DEADLINE)


async def test_the_end_waits_for_a_client_that_goes_on_reading_however_slowly(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio, "_LAST_WORDS", 0.5)
    read, write = pipe
    came = bytearray()

    async def slowly() -> None:
        while data := await anyio.to_thread.run_sync(os.read, read, 8192):
            came.extend(data)
            await anyio.sleep(0.1)

    async with anyio.create_task_group() as tasks, outbox(write) as box:
        for number in range(8):
            await box.send(message(number, 20_000))
        tasks.start_soon(slowly)
        scope = anyio.CancelScope()
        box.end(scope)
        with scope:
            await box.aclose()
            await until(lambda: not box._waiting)
        assert not scope.cancelled_caught
    assert [json.loads(line)["params"]["n"] for line in came.splitlines()] == list(range(8))


async def test_a_pipe_that_the_other_side_made_not_to_block(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else may fill it between the look and the write."""
    read, write = pipe
    true_write, refusals = os.write, [2]

    def refusing(fd: int, data: bytes) -> int:
        if fd == write and refusals[0]:
            refusals[0] -= 1
            raise BlockingIOError
        return true_write(fd, data)

    monkeypatch.setattr(stdio.os, "write", refusing)
    reading = Reading(read)
    async with anyio.create_task_group() as tasks, outbox(write) as box:
        tasks.start_soon(reading)
        await box.send(message(1))
        await box.send(message(2, 100_000))
    assert reading.numbers == [1, 2]


async def test_half_of_a_character_costs_no_message(pipe: tuple[int, int]) -> None:
    read, write = pipe
    params = {"n": 1, "text": "a\ud83d\u00fc"}
    async with outbox(write) as box:
        await box.send(
            SessionMessage(t.JSONRPCRequest(jsonrpc="2.0", id=1, method="m", params=params))
        )
        line = json.loads(await anyio.to_thread.run_sync(os.read, read, 4096))
    assert line == {"jsonrpc": "2.0", "id": 1, "method": "m", "params": {"n": 1, "text": "a?ü"}}


async def test_a_terminal_that_nobody_reads_does_not_hold_up_the_loop() -> None:
    read, terminal = pty.openpty()
    tty.setraw(terminal)
    reading = Reading(read, lines=40)
    try:
        async with anyio.create_task_group() as tasks, outbox(terminal) as box:
            with anyio.move_on_after(0.3) as waiting:
                for number in range(40):
                    await box.send(message(number, 30_000))
            assert waiting.cancelled_caught
            tasks.start_soon(reading)
            for number in range(_BEHIND + 1, 40):
                await box.send(message(number, 10))
            await until(lambda: not box._waiting)
        assert reading.numbers == list(range(40))
    finally:
        os.close(read)


def test_a_client_that_reads_no_more_does_not_keep_the_server() -> None:
    """It closes stdin, keeps its end of stdout and reads nothing of it: nobody ends the server
    but itself."""
    command = stdio_server()
    process = subprocess.Popen(
        [command.command, *command.args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=command.env,
        cwd=command.cwd,
    )
    try:
        assert process.stdin is not None
        request = {"jsonrpc": "2.0", "method": "server/discover", "params": {"_meta": META}}
        for number in range(400):
            process.stdin.write(json.dumps({**request, "id": number}).encode() + b"\n")
        process.stdin.close()
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}
