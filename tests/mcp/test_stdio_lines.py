"""Lines of stdin, from a pipe and from a file: whole, in order, whatever pieces they come in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from lap_mcp.mcp_server.stdio import _AHEAD, _Lines

pytestmark = pytest.mark.anyio
DEADLINE = 30.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, list[int]]]:
    """The end to read from, and the one to write to, in a list that is emptied to close it."""
    read, write = os.pipe()
    ends = [write]
    yield read, ends
    for fd in (read, *ends):
        os.close(fd)


async def lines_of(found: _Lines) -> list[str]:
    with anyio.fail_after(DEADLINE):
        return [line.rstrip("\n") async for line in found]


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"one\ntwo\n"], ["one", "two"]),
        ([b"on", b"e", b"\ntw", b"o\n"], ["one", "two"]),
        (["gr\u00fc\U0001f600n\n".encode()[:4], "gr\u00fc\U0001f600n\n".encode()[4:]], ["grü😀n"]),
        ([b"one\n", b"the last"], ["one", "the last"]),
        ([b"\xff{}\n"], ["\ufffd{}"]),
        ([b'"\\ud83d"\n'], ['"\\ufffd"']),
        ([], []),
    ],
)
async def test_lines_come_whole_in_whatever_pieces(
    pipe: tuple[int, list[int]], pieces: Sequence[bytes], lines: Sequence[str]
) -> None:
    read, ends = pipe
    found = _Lines(read)

    async with anyio.create_task_group() as tasks:

        async def write() -> None:
            for piece in pieces:
                os.write(ends[0], piece)
                await anyio.wait_all_tasks_blocked()
                await anyio.sleep(0.01)
            os.close(ends.pop())

        tasks.start_soon(write)
        assert await lines_of(found) == list(lines)


async def test_a_line_of_megabytes_among_many_short_ones(pipe: tuple[int, list[int]]) -> None:
    """More than is read ahead: the writer waits, and nothing is lost or out of order."""
    read, ends = pipe
    wanted = [str(n) for n in range(20 * _AHEAD)]
    wanted.insert(3, "x" * 5_000_000)
    found = _Lines(read)

    async with anyio.create_task_group() as tasks:

        def write() -> None:
            with os.fdopen(ends.pop(), "w") as file:
                file.writelines(f"{line}\n" for line in wanted)

        tasks.start_soon(anyio.to_thread.run_sync, write)
        assert await lines_of(found) == wanted


async def test_what_is_not_asked_for_is_not_read(pipe: tuple[int, list[int]]) -> None:
    """A client that writes without end does not fill the memory."""
    read, ends = pipe
    os.set_blocking(ends[0], False)
    found = _Lines(read)
    written = 0

    for _ in range(200):
        try:
            written += os.write(ends[0], b"{}\n" * 20_000)
        except BlockingIOError:
            break
        await anyio.lowlevel.checkpoint()
    else:
        pytest.fail("the pipe never filled")

    assert written < 2_000_000
    os.set_blocking(ends[0], True)
    os.close(ends.pop())
    whole = await lines_of(found)
    assert len(whole) == -(-written // 3)


async def test_stdin_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "requests"
    path.write_text("".join(f"{n}\n" for n in range(3 * _AHEAD)))
    fd = os.open(path, os.O_RDONLY)
    try:
        assert await lines_of(_Lines(fd)) == [str(n) for n in range(3 * _AHEAD)]
    finally:
        os.close(fd)


async def test_nothing_is_read_once_it_is_closed(pipe: tuple[int, list[int]]) -> None:
    read, ends = pipe
    found = _Lines(read)
    found.close()
    os.write(ends[0], b"one\n")
    await anyio.sleep(0.05)

    os.set_blocking(read, False)
    assert os.read(read, 100) == b"one\n"
