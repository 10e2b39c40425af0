"""HTTP/1.1 to one origin over kept connections: what a relay needs and nothing else.

The general client (`lap_runtimes.http`) costs more than everything else that a passed-on request
costs here, and looks at each of its free connections for every request, so that 64 clients wait
for it.  This one is a protocol of asyncio, as the server below us (uvicorn) is: bytes go from the
socket into h11 and on, but for a body in chunks (`chunks.py`).  The only file of ours that imports
h11.  No redirects, cookies, proxies or decompression: who needs a proxy gets the general client
(`upstream.py`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Final

import anyio
import anyio.lowlevel
import anyio.to_thread
import h11
from lap_runtimes.errors import ProtocolError, Unavailable

from .chunks import BadChunk, Chunks

Pairs = Sequence[tuple[bytes, bytes]]

_HIGH: Final = 256 * 1024
"""Bytes of an answer that wait for a slow client before the upstream is no longer read."""
_MAX_HEAD: Final = 64 * 1024


class _Connection(asyncio.Protocol):
    """One connection.  It knows at once when the other side closes it, so that a request is never
    sent into one that is dead already."""

    def __init__(self) -> None:
        self.h11 = _fresh()
        self.lost = False
        self.idle = False
        """Nothing was asked: whatever comes now is nobody's answer."""
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._buffered = 0
        self._paused = False
        self._kept: h11.Event | type[h11.PAUSED] | None = None
        """What came behind the last piece of a body."""
        self._chunks: Chunks | None = None
        """The body is in chunks, and no business of h11's."""
        self._came: list[bytes] = []
        """Of that body, what nobody has read."""
        self._stays = False
        """Its answer lets the connection be used again."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self.idle:
            self.lost = True
            self.close()
            return
        self._buffered += len(data)
        if self._chunks is not None:
            self._came.append(data)
        else:
            self.h11.receive_data(data)
        if self._buffered > _HIGH and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._chunks is None and self.h11.their_state is not h11.ERROR:
            self.h11.receive_data(b"")
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _silent(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    async def event(self, silence: float) -> h11.Event | type[h11.PAUSED]:
        """The next event.

        Raises:
            h11.RemoteProtocolError
            TimeoutError: not a byte came for `silence` seconds.
        """
        while True:
            event = self.h11.next_event()
            if event is not h11.NEED_DATA:
                if isinstance(event, h11.Data):
                    self._taken(len(event.data))
                assert not isinstance(event, type) or event is h11.PAUSED
                return event
            self._buffered = 0
            await self._more(silence)

    async def _more(self, silence: float) -> None:
        """Wait until something comes."""
        self._resume()
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        # A timer of the loop costs a fiftieth of a cancel scope, and this is waited for often.
        timer = loop.call_later(silence, self._silent)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def begun(self, head: h11.Response, method: str) -> None:
        """The head of an answer is read: whose business its body is.  h11 has refused every
        encoding but chunks."""
        encoded = any(name == b"transfer-encoding" for name, _ in head.headers)
        if not encoded or method == "HEAD" or head.status_code in (204, 304):
            return
        self._chunks = Chunks()
        self._came.append(self.h11.trailing_data[0])
        closing = (n == b"connection" and b"close" in v.lower() for n, v in head.headers)
        self._stays = head.http_version == b"1.1" and not any(closing)

    async def _chunked(
        self, chunks: Chunks, silence: float
    ) -> bytes | type[h11.EndOfMessage] | None:
        while not chunks.over:
            data = b"".join(self._came)
            self._came.clear()
            self._taken(len(data))
            try:
                found = chunks.feed(data)
            except BadChunk as error:
                self.lost = True
                raise h11.RemoteProtocolError(str(error)) from error
            if found:
                return found
            if chunks.over:
                break
            if self.lost:
                return None
            await self._more(silence)
        return h11.EndOfMessage

    async def data(self, silence: float) -> bytes | type[h11.EndOfMessage] | None:
        """What has come of a body, in one piece: a stream's events are mostly there several at
        once, and each piece costs a way through everything above.  `None`: it is not a body's.

        Raises: as `event`.
        """
        if self._chunks is not None:
            return await self._chunked(self._chunks, silence)
        if (event := self._kept) is None:
            event = await self.event(silence)
        self._kept = None
        if not isinstance(event, h11.Data):
            return h11.EndOfMessage if isinstance(event, h11.EndOfMessage) else None
        parts = [event.data]
        # An error behind bytes that are good is told with the next piece.
        with suppress(h11.RemoteProtocolError):
            while isinstance(more := self.h11.next_event(), h11.Data):
                self._taken(len(more.data))
                parts.append(more.data)
            if more is not h11.NEED_DATA:
                assert not isinstance(more, type) or more is h11.PAUSED
                self._kept = more
        return b"".join(parts)

    def _taken(self, size: int) -> None:
        self._buffered -= size
        if self._buffered < _HIGH // 2:
            self._resume()

    def _resume(self) -> None:
        if self._paused and not self.lost and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def again(self) -> bool:
        """Whether another request can go over it."""
        if self.lost or self.h11.our_state is not h11.DONE:
            return False
        if self._chunks is not None:
            over, self._chunks = self._over(self._chunks), None
            self.h11 = _fresh()
            self.idle = over and self._stays
            return self.idle
        if self.h11.their_state is not h11.DONE or self.h11.trailing_data[0]:
            return False
        self._kept = None
        self.h11.start_next_cycle()
        self.idle = True
        return True

    def _over(self, chunks: Chunks) -> bool:
        """Whether the body has ended, and nothing came behind it."""
        if not chunks.over and self._came:
            with suppress(BadChunk):
                # Its end came with the last piece that somebody wanted.
                if chunks.feed(b"".join(self._came)):
                    return False
            self._came.clear()
        return chunks.over and not chunks.rest and not self._came

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _fresh() -> h11.Connection:
    return h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)


class DirectReply:
    """An answer whose body is not read yet."""

    def __init__(self, owner: Connections, connection: _Connection, head: h11.Response) -> None:
        self._owner = owner
        self._connection = connection
        self.status = head.status_code
        self.headers: Pairs = list(head.headers)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes.  Raises: Unavailable, where it breaks off; TimeoutError."""
        while True:
            try:
                data = await self._connection.data(self._owner.silence)
            except h11.RemoteProtocolError as error:
                raise Unavailable(f"{self._owner.where}: the answer broke off") from error
            if isinstance(data, bytes):
                yield data
            elif data is h11.EndOfMessage:
                return
            else:
                raise Unavailable(f"{self._owner.where}: the answer broke off")

    async def aclose(self) -> None:
        self._owner.give_back(self._connection)


class Connections:
    """Kept connections to one origin.  Construction does no I/O."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        context: Callable[[], ssl.SSLContext] | None,
        keep: int,
        connect_timeout: float,
        silence: float = 600.0,
    ) -> None:
        """`context` makes the TLS context, which reads files; `None`: no TLS.  `silence`: how many
        seconds the other side may send nothing."""
        self.silence = silence
        self.where = host
        self._address = (host, port)
        self._make_context = context
        self._context: ssl.SSLContext | None = None
        self._keep = keep
        self._timeout = connect_timeout
        self._free: deque[_Connection] = deque()
        self._open: set[_Connection] = set()

    async def request(
        self, method: str, target: str, headers: Pairs, content: bytes | None
    ) -> DirectReply:
        """Send, and wait for the head of the answer.

        Raises:
            Unavailable: no connection (`sent` is false), or it broke.
            ProtocolError: what came is not HTTP, or a redirect, which is not followed.
            TimeoutError: nothing came.
        """
        connection = self._reused() or await self._connected()
        try:
            self._send(connection, method, target, headers, content)
            head = await self._head(connection)
            connection.begun(head, method)
            if 300 <= head.status_code < 400:
                raise ProtocolError(f"{self.where} redirects; put the final address in base_url")
            return DirectReply(self, connection, head)
        except BaseException:
            self._drop(connection)
            raise

    def give_back(self, connection: _Connection) -> None:
        if connection not in self._open:
            return
        if len(self._free) < self._keep and connection.again():
            self._free.append(connection)
        else:
            self._drop(connection)

    async def aclose(self) -> None:
        for connection in tuple(self._open):
            self._drop(connection)
        self._free.clear()
        # A transport ends at the next turn of the loop.
        await anyio.lowlevel.checkpoint()

    @property
    def count(self) -> int:
        """Connections that are open."""
        return len(self._open)

    def _reused(self) -> _Connection | None:
        while self._free:
            connection = self._free.pop()
            if not connection.lost:
                connection.idle = False
                return connection
            self._open.discard(connection)
        return None

    async def _connected(self) -> _Connection:
        if self._make_context is not None and self._context is None:
            self._context = await anyio.to_thread.run_sync(self._make_context)
        host, port = self._address
        loop = asyncio.get_running_loop()
        try:
            with anyio.fail_after(self._timeout):
                transport, connection = await loop.create_connection(
                    _Connection, host, port, ssl=self._context
                )
        except TimeoutError as error:
            raise Unavailable(f"{host}: no connection in time", sent=False) from error
        except OSError as error:
            raise Unavailable(f"{host}: cannot connect: {error}", sent=False) from error
        del transport
        self._open.add(connection)
        return connection

    def _send(
        self,
        connection: _Connection,
        method: str,
        target: str,
        headers: Pairs,
        content: bytes | None,
    ) -> None:
        length = [] if content is None else [(b"content-length", str(len(content)).encode())]
        try:
            request = h11.Request(method=method, target=target, headers=[*headers, *length])
        except h11.LocalProtocolError as error:
            raise Unavailable(f"{self.where}: {error}", sent=False) from error
        parts = [connection.h11.send(request)]
        if content:
            parts.append(connection.h11.send(h11.Data(data=content)))
        parts.append(connection.h11.send(h11.EndOfMessage()))
        connection.write(b"".join(part for part in parts if part))

    async def _head(self, connection: _Connection) -> h11.Response:
        while True:
            try:
                event = await connection.event(self.silence)
            except h11.RemoteProtocolError as error:
                if connection.lost:
                    raise Unavailable(f"{self.where}: the connection broke") from error
                raise ProtocolError(f"{self.where}: {error}") from error
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise Unavailable(f"{self.where}: the connection broke")

    def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        connection.close()
