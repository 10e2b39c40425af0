"""The MCP face on stdin and stdout of this process, for one client.

The protocol runs on private copies of both descriptors.  What a library prints goes to stderr,
what a child reads is empty, and a read that blocks never holds up the end of the process.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio.to_thread

from .face import Face

_AHEAD: Final = 64
"""Lines that are read before they are asked for."""
_READ: Final = 256 * 1024
"""Bytes that are read at once."""
_ATOMIC: Final = select.PIPE_BUF
_ESCAPE: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
"""An escape of JSON; `half`: of a pair of surrogates, without the other one."""


@dataclass(frozen=True, slots=True)
class Wire:
    """The descriptors of the protocol."""

    read: int
    write: int


@contextmanager
def claimed() -> Iterator[Wire]:
    """Take stdin and stdout for the protocol: descriptor 0 is empty, 1 is stderr, until the end.

    To be entered before anything may print."""
    wire = Wire(os.dup(0), os.dup(1))
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    try:
        yield wire
    finally:
        sys.stdout.flush()  # what was printed and not yet written belongs to stderr too
        os.dup2(wire.read, 0)
        os.dup2(wire.write, 1)
        os.close(wire.write)
        # `read` stays open: the reader may still block on it, and its number must not be reused.


def whole(line: str) -> str:
    """The line with U+FFFD for each half of a character: clients write one where they cut a text
    in the middle of an emoji.  The parser refuses such a line, and its call would never be
    answered."""
    if "\\ud" not in line and "\\uD" not in line:
        return line
    return _ESCAPE.sub(lambda found: r"\ufffd" if found["half"] else found[0], line)


class _Lines:
    """Lines of a descriptor, read when the loop says that there is something; where it cannot (a
    file, Windows), by a daemon thread, so that waiting can be cancelled."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: deque[str] = deque()
        self._room = threading.Semaphore(_AHEAD)
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self._rest = bytearray()
        """The beginning of a line."""
        self._paused = False
        """So many lines wait to be asked for that no more are read."""
        self._watched = self._watch()
        if not self._watched:
            threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def _watch(self) -> bool:
        try:
            self._loop.add_reader(self._fd, self._readable)
        except (NotImplementedError, OSError):
            return False
        return True

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return
        except OSError:  # the descriptor broke
            data = b""
        if not data:
            self.close()
            if self._rest:
                self._put(_text(self._rest))
            self._end()
            return
        *lines, rest = data.split(b"\n")
        if lines:
            self._put(_text(self._rest + lines[0]))
            for line in lines[1:]:
                self._put(_text(line))
            self._rest.clear()
        self._rest += rest
        if len(self._lines) > _AHEAD:
            self.close()
            self._paused = True

    def close(self) -> None:
        """Read no more."""
        if self._watched:
            self._loop.remove_reader(self._fd)

    def _read(self) -> None:
        try:
            with os.fdopen(self._fd, encoding="utf-8", errors="replace", closefd=False) as file:
                for line in file:
                    self._room.acquire()
                    self._loop.call_soon_threadsafe(self._put, whole(line))
            self._loop.call_soon_threadsafe(self._end)
        except (OSError, RuntimeError):  # the descriptor broke, or the loop ended meanwhile
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._end)

    def _put(self, line: str) -> None:
        self._lines.append(line)
        self._news.set()

    def _end(self) -> None:
        self._ended = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[str]:
        while True:
            while self._lines:
                if not self._watched:
                    self._room.release()
                yield self._lines.popleft()
            if self._ended:
                return
            if self._paused:
                self._paused = not self._watch()
            self._news.clear()
            await self._news.wait()


def _text(line: bytes | bytearray) -> str:
    return whole(line.decode("utf-8", "replace"))


class _Writer:
    """Writes to a descriptor: at once where the pipe has room, else in a thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    async def write(self, text: str) -> None:
        data = text.encode("utf-8", "replace")
        if len(data) <= _ATOMIC and any(what & select.POLLOUT for _, what in self._poll.poll(0)):
            data = data[os.write(self._fd, data) :]
        if data:
            await anyio.to_thread.run_sync(self._write_all, data, abandon_on_cancel=True)

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    async def flush(self) -> None:
        """Nothing is buffered."""


async def run_stdio(face: Face, wire: Wire | None = None) -> None:
    """Serve until stdin ends.  `wire`: descriptors that were claimed before."""
    if wire is None:
        with claimed() as taken:
            await run_stdio(face, taken)
        return
    from mcp.server.stdio import stdio_server

    lines = _Lines(wire.read)
    stdin: Any = lines
    stdout: Any = _Writer(wire.write)
    try:
        async with face.running(), stdio_server(stdin, stdout) as (read, write):
            await face.server.run(read, write, face.server.create_initialization_options())
    finally:
        lines.close()
