"""The MCP face on stdin and stdout of this process, for one client.

The protocol runs on private copies of both descriptors.  What a library prints goes to stderr,
what a child reads is empty, and a read that blocks never holds up the end of the process.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import select
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Self

import anyio
import anyio.lowlevel
import mcp.types as t
from mcp.shared.message import SessionMessage

from .face import Face

_AHEAD: Final = 64
"""Lines that are read before they are asked for."""
_BEHIND: Final = 16
"""Messages that wait to be written before the next sender waits."""
_LAST_WORDS: Final = 5.0
"""Seconds for what is still to be written once the client has closed stdin."""
_READ: Final = 256 * 1024
"""Bytes that are read at once."""
_ATOMIC: Final = select.PIPE_BUF
"""Bytes that a pipe which can be written to takes without blocking (pipe(7))."""
_OTHERS: Final = 64
"""Writes after which others have their turn."""
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


class _Inbox:
    """The client's messages, as the SDK reads them (its `ReadStream`): a line that is none comes as
    the error that it is.  A task and a stream between, as the SDK's own stdio has them, would cost
    every call a tenth of its time."""

    def __init__(self, lines: _Lines) -> None:
        self._lines = lines
        self._each = aiter(lines)

    async def receive(self) -> SessionMessage | Exception:
        """Raises: anyio.EndOfStream"""
        line = await anext(self._each, None)
        if line is None:
            raise anyio.EndOfStream
        try:
            return SessionMessage(t.jsonrpc_message_adapter.validate_json(line, by_name=False))
        except ValueError as error:  # the SDK logs it
            return error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        self._lines.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _line(message: t.JSONRPCMessage) -> bytes:
    """With a `?` for each half of a character, which UTF-8 does not have: a runtime may have cut a
    text in the middle of an emoji."""
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
    except ValueError:
        plain = message.model_dump(by_alias=True, exclude_unset=True)
        return json.dumps(plain, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _unblocked(fd: int) -> int:
    """A terminal blocks in the middle of a write, whatever `poll` says: it is opened once more, for
    this process alone, until its end.  Others do not block where `poll` says that there is room."""
    if os.isatty(fd):
        with suppress(OSError):
            return os.open(os.ttyname(fd), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    return fd


class _Outbox:
    """Messages to the client, as the SDK writes them (its `WriteStream`): at once where the pipe
    has room and nothing waits, else by `run`, in order."""

    def __init__(self, fd: int) -> None:
        self._fd = fd = _unblocked(fd)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._waiting: deque[bytes] = deque()
        """The first of them is being written."""
        self._news = anyio.Event()
        self._room = anyio.Event()
        self._closed = False
        self._ending: anyio.CancelScope | None = None

    async def send(self, item: SessionMessage) -> None:
        """Returns once few wait to be written.  A sender that is cancelled has sent it."""
        data = _line(item.message)
        if not self._waiting:
            data = data[self._at_once(data) :]
        if data:
            self._waiting.append(data)
            self._news.set()
            while len(self._waiting) > _BEHIND:
                await self._room.wait()

    def _at_once(self, data: bytes) -> int:
        """How much of it is written.  Where that fails, `run` finds out how."""
        try:
            return self._written(data) if len(data) <= _ATOMIC else 0
        except OSError:
            return 0

    def _written(self, data: bytes | memoryview) -> int:
        """Write what the pipe has room for.  Raises: OSError, where its other end is closed."""
        try:
            written = os.write(self._fd, data[:_ATOMIC]) if self._poll.poll(0) else 0
        except BlockingIOError:  # the other side made it one that does not block
            return 0
        if written and self._ending is not None:
            self._ending.deadline = anyio.current_time() + _LAST_WORDS
        return written

    def end(self, scope: anyio.CancelScope) -> None:
        """Cancel `scope` when what waits has not moved for `_LAST_WORDS`."""
        self._ending = scope
        scope.deadline = anyio.current_time() + _LAST_WORDS

    async def run(self) -> None:
        """Write what waits, until it is closed and nothing does.  Raises: OSError"""
        while True:
            while self._waiting:
                await self._write(memoryview(self._waiting[0]))
                self._waiting.popleft()
                self._room.set()
                self._room = anyio.Event()
            if self._closed:
                return
            self._news = anyio.Event()
            await self._news.wait()

    async def _write(self, data: memoryview) -> None:
        """Never more than the pipe has room for: the descriptor is not ours alone, so that it
        cannot be made one that does not block, and a thread that blocks would outlive us."""
        for number in itertools.count(1):
            written = self._written(data)
            data = data[written:]
            if not data:
                return
            if not written:
                await anyio.wait_writable(self._fd)
            elif number % _OTHERS == 0:
                await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self._closed = True
        self._news.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def run_stdio(face: Face, wire: Wire | None = None) -> None:
    """Serve until stdin ends.  `wire`: descriptors that were claimed before.

    Raises: OSError, in a group, where the client takes no answers any more."""
    if wire is None:
        with claimed() as taken:
            await run_stdio(face, taken)
        return
    lines, outbox = _Lines(wire.read), _Outbox(wire.write)
    options = face.server.create_initialization_options()
    try:
        async with face.running(), anyio.create_task_group() as group:
            group.start_soon(outbox.run)
            await face.server.run(_Inbox(lines), outbox, options)
            # A client that reads no more and does not close its end either keeps nobody.
            outbox.end(group.cancel_scope)
    finally:
        lines.close()
