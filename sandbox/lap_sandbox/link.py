"""Frames over the attached stdio of one container.  Knows neither the engine nor executions."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import anyio

from lap_sandbox.errors import FrameError, SandboxGone
from lap_sandbox.runner import wire
from lap_sandbox.runner.wire import Frame, Kind
from lap_sandbox.waiting import Signal

WRITE_SECONDS = 30.0
_RECEIVE = 4 * 1024
_RECEIVE_MOST = 256 * 1024
"""Once `_RECEIVE` was filled, until less comes: into one buffer, since a large one for each read is
new memory from the kernel, which takes longer than the read."""
_STDERR_KEPT = 4096
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

_MULTIPLEX = struct.Struct("!BxxxI")
"""Header of the engine's attach stream without a terminal: stream (1 stdout, 2 stderr), length.
Source: Docker Engine API, ContainerAttach, "Stream format"."""

OnFrame = Callable[[Frame], None]
"""Called for each frame of a request.  May raise `FrameError`; the link then closes."""


class Streams(Protocol):
    """Takes the supervisor's stdout out of what comes over a connection."""

    @property
    def stderr(self) -> bytes:
        """The supervisor's last words."""
        ...

    def feed(self, data: bytes | memoryview) -> Sequence[bytes | memoryview]:
        """Pieces of stdout in `data`."""
        ...


class Demultiplexer:
    """Takes stdout out of the engine's attach stream; keeps the end of stderr."""

    def __init__(self) -> None:
        self._header = b""
        self._stream = 0
        self._left = 0
        self.stderr = b""

    def feed(self, data: bytes | memoryview) -> list[bytes | memoryview]:
        """Pieces of stdout in `data`."""
        pieces: list[bytes | memoryview] = []
        position, size = 0, len(data)
        while position < size:
            if self._left == 0:
                position = self._read_header(data, position)
                continue
            piece = data[position : position + self._left]
            position += len(piece)
            self._left -= len(piece)
            if self._stream == 1:
                pieces.append(piece)
            else:
                self.stderr = (self.stderr + piece)[-_STDERR_KEPT:]
        return pieces

    def _read_header(self, data: bytes | memoryview, position: int) -> int:
        """Where in `data` reading goes on."""
        wanted = _MULTIPLEX.size - len(self._header)
        self._header += data[position : position + wanted]
        if len(self._header) == _MULTIPLEX.size:
            self._stream, self._left = _MULTIPLEX.unpack(self._header)
            self._header = b""
        return position + wanted


class Link:
    """Sends requests and hands each frame that comes back to the request with its id.

    `release` closes the connection, with whatever else belongs to it.  `run` must be kept running
    by whoever owns the link; it ends when the link is closed.
    """

    def __init__(
        self,
        connection: socket.socket,
        release: Callable[[], None],
        streams: Streams | None = None,
    ) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._release = release
        self._attached: socket.socket | None = None
        """The engine's connection, once frames go over another one."""
        self._large: memoryview | None = None
        self._streams = streams or Demultiplexer()
        self._decoder = wire.Decoder()
        self._handlers: dict[int, OnFrame] = {}
        self._next_id = 1
        # Taken without a turn of the loop where it is free: nobody may write between what
        # `_write_now` wrote and the rest.
        self._writing = anyio.Lock(fast_acquire=True)
        self._ended: list[Callable[[], None]] = []
        self.open = True
        self.error: FrameError | None = None
        self.received = 0
        """Bytes so far; a watcher sees by it whether anything came."""

    @property
    def stderr(self) -> str:
        """The last words of the supervisor."""
        return self._streams.stderr.decode("utf-8", "replace")

    def on_end(self, call: Callable[[], None]) -> None:
        """Call `call` when the link ends, at once where it has ended."""
        self._ended.append(call)
        if not self.open:
            call()

    def off_end(self, call: Callable[[], None]) -> None:
        self._ended.remove(call)

    def expect(self, handler: OnFrame, *, id: int | None = None) -> int:
        """Hand frames with a new id to `handler` until `forget`."""
        if id is None:
            id = self._next_id
            self._next_id += 1
        self._handlers[id] = handler
        return id

    def forget(self, id: int) -> None:
        self._handlers.pop(id, None)

    def move_to(self, connection: socket.socket) -> None:
        """From now on frames go over `connection`, both ways.  What comes over the one before are
        the supervisor's last words; its end is the link's end as ever."""
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        self._attached, self._socket = self._socket, connection
        loop.add_reader(self._attached, self._on_attached)
        loop.add_reader(self._socket, self._on_readable)

    def _on_attached(self) -> None:
        data = b""
        try:
            assert self._attached is not None
            data = self._attached.recv(_RECEIVE)
            self._streams.feed(data)
        except _WOULD_BLOCK:
            return
        except OSError:
            pass
        if not data:
            self.close()

    async def run(self) -> None:
        """Read until the link ends.  The socket stays registered with the event loop all the
        while: to register it anew for each answer costs more than to read the answer."""
        if not self.open:
            return
        ended = anyio.Event()
        self.on_end(ended.set)
        asyncio.get_running_loop().add_reader(self._socket, self._on_readable)
        try:
            await ended.wait()
        finally:
            self.close()

    def _on_readable(self) -> None:
        more = False
        try:
            more = self._read()
        except (wire.WireError, FrameError) as error:
            self.error = FrameError(f"The sandbox sent what it must not: {error}")
        except OSError:
            pass
        finally:
            if not more:
                self.close()

    def _read(self) -> bool:
        """Hand out what came; `False` at the end of the stream.  One read, so that a flood here
        starves nothing else; and what TLS has taken from the socket already, since the loop
        would not call for that again."""
        try:
            data = self._receive()
        except _WOULD_BLOCK:
            return True
        self._take(data)
        while self.open and isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            self._take(self._socket.recv(self._socket.pending()))
        return len(data) > 0

    def _receive(self) -> bytes | memoryview:
        """What one call takes; to be used up before the next."""
        if self._large is None:
            data = self._socket.recv(_RECEIVE)
            if len(data) == _RECEIVE:
                self._large = memoryview(bytearray(_RECEIVE_MOST))
            return data
        large = self._large
        size = self._socket.recv_into(large)
        if size < _RECEIVE:
            self._large = None
        return large[:size]

    def _take(self, data: bytes | memoryview) -> None:
        self.received += len(data)
        for piece in self._streams.feed(data) if self._attached is None else (data,):
            for frame in self._decoder.feed(piece):
                self._dispatch(frame)

    def _dispatch(self, frame: Frame) -> None:
        handler = self._handlers.get(frame.id)
        if handler is not None:
            handler(frame)
        elif frame.id >= self._next_id:
            raise FrameError(f"a frame for request {frame.id}, which was never made")

    async def send(self, data: bytes) -> None:
        """Write `data`, as a whole.

        Raises:
            SandboxGone: the link has ended, or takes nothing for `WRITE_SECONDS`.
        """
        if not self.open:
            raise SandboxGone("The sandbox has ended.")
        try:
            sent = 0 if self._writing.locked() else self._write_now(data)
            if sent < len(data):
                with anyio.fail_after(WRITE_SECONDS):
                    async with self._writing:
                        await self._write(data, sent)
        except (OSError, ValueError, TimeoutError, anyio.ClosedResourceError) as error:
            self.close()
            raise SandboxGone(f"The sandbox does not answer any more ({error}).") from None

    def _write_now(self, data: bytes) -> int:
        """What the socket takes without waiting: most frames as a whole."""
        try:
            return self._socket.send(data)
        except _WOULD_BLOCK:
            return 0

    async def _write(self, data: bytes, sent: int) -> None:
        view = memoryview(data)[sent:]
        try:
            while view:
                try:
                    view = view[self._socket.send(view) :]
                except _WOULD_BLOCK:
                    await anyio.wait_writable(self._socket)
        except anyio.get_cancelled_exc_class():
            if len(view) < len(data):  # half a frame is on its way: the stream is of no use now
                self.close()
            raise

    async def request(
        self,
        kind: int,
        header: Mapping[str, Any] | None = None,
        *,
        deadline: float,
    ) -> Frame:
        """Send one frame and wait for its `REPLY` or `FAIL`.

        Raises:
            SandboxGone: it ended, or did not answer within `deadline` seconds.
        """
        answers: list[Frame] = []
        answered = Signal()

        def on_frame(frame: Frame) -> None:
            answers.append(frame)
            answered.set()

        id = self.expect(on_frame)
        self.on_end(answered.set)
        try:
            await self.send(wire.encode(kind, id, header))
            await answered.wait(deadline)
        finally:
            self.off_end(answered.set)
            self.forget(id)
        if not answers:
            raise SandboxGone("The sandbox does not answer.")
        return answers[0]

    async def ping(self, deadline: float) -> None:
        """
        Raises:
            SandboxGone
        """
        await self.request(Kind.PING, deadline=deadline)

    def close(self) -> None:
        """End it; the container sees the end of its input and stops."""
        if not self.open:
            return
        self.open = False
        _end(self._socket)
        if self._attached is not None:
            _end(self._attached)
            self._socket.close()
        self._release()
        for call in self._ended:
            call()


def _end(connection: socket.socket) -> None:
    """A waiting writer is woken by this; closing alone would leave it waiting."""
    try:
        asyncio.get_running_loop().remove_reader(connection)
        anyio.notify_closing(connection)
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
