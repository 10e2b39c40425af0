"""The network of our HTTP client: TCP and TLS as asyncio has them, for httpcore2's pool.

httpcore2 brings a network on anyio's sockets.  This one does the same for less: a read that waits
is one future instead of a cancel scope and a stop of reading each time, a free connection knows by
itself that the other side closed it, and what is written in one turn of the loop, as a request's
head and body, goes out in one piece, so that the server wakes once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import select
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, zip_longest
from typing import Any, Final, cast

import anyio
import httpcore2

_AHEAD: Final = 256 * 1024
"""Bytes that wait to be read before the socket is no longer read."""
_TOGETHER: Final = 64 * 1024
"""Bytes that wait for more to be written with them."""
_NEXT_ADDRESS: Final = 0.25
"""Seconds after which a host's next address is tried as well (RFC 8305)."""

SocketOption = (
    tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
)


class AsyncioNetwork(httpcore2.AsyncNetworkBackend):
    """TCP; TLS on top is the stream's `start_tls`."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Raises: httpcore2.ConnectError, httpcore2.ConnectTimeout."""
        with _connecting(), anyio.fail_after(timeout):
            transport, stream = await _first(host, port, local_address)
        for option in socket_options or ():
            transport.get_extra_info("socket").setsockopt(*option)
        return stream

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


async def _first(
    host: str, port: int, local_address: str | None
) -> tuple[asyncio.Transport, _Stream]:
    """A connection to the address that answers first.  Not by the loop's own race of addresses:
    one that is cancelled leaves its open socket to the garbage collector (Python 3.11), and
    uvloop has none.  Raises: OSError, UnicodeError"""
    loop = asyncio.get_running_loop()
    local = None if local_address is None else (local_address, 0)
    if _is_address(host):
        return await loop.create_connection(_Stream, host, port, local_addr=local)
    won: tuple[asyncio.Transport, _Stream] | None = None
    errors: list[OSError] = []

    async def attempt(address: str, failed: anyio.Event) -> None:
        nonlocal won
        try:
            made = await loop.create_connection(_Stream, address, port, local_addr=local)
        except OSError as error:
            errors.append(error)
            failed.set()
            return
        if won is None:
            won = made
            tasks.cancel_scope.cancel()
        else:
            made[0].abort()

    addresses = await _addresses(host, port)
    try:
        async with anyio.create_task_group() as tasks:
            for address in addresses:
                failed = anyio.Event()
                tasks.start_soon(attempt, address, failed)
                with anyio.move_on_after(_NEXT_ADDRESS):
                    await failed.wait()
    except BaseException:
        if won is not None:
            won[0].abort()
        raise
    if won is None:
        raise errors[0] if len(errors) == 1 else OSError("; ".join(map(str, errors)))
    return won


async def _addresses(host: str, port: int) -> list[str]:
    """A host's, of each family in turn, since one of them may be broken as such; the resolver's
    favourite comes first.  Raises: OSError, UnicodeError"""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    favourite = [each[4][0] for each in found if each[0] == found[0][0]]
    others = [each[4][0] for each in found if each[0] != found[0][0]]
    mixed = chain.from_iterable(zip_longest(favourite, others))
    return list(dict.fromkeys(str(each) for each in mixed if each is not None))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class _Stream(asyncio.Protocol, httpcore2.AsyncNetworkStream):
    """One connection.  One task reads and one writes at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._came = bytearray()
        self._stopped = False
        """So much came that the socket is not read."""
        self._ended = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._held = bytearray()
        """To be written at the end of this turn of the loop, or when an answer is waited for."""
        self._full = False
        self._writer: asyncio.Future[None] | None = None

    # What the transport calls -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._came += data
        if len(self._came) > _AHEAD and not self._stopped:
            self._stopped = True
            self._open().pause_reading()
        _wake(self._reader)

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        _wake(self._writer)

    def _end(self, error: Exception | None) -> None:
        self._ended = True
        self._error = self._error or error
        _wake(self._reader)
        _wake(self._writer)

    def _open(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    # What httpcore2 calls -----------------------------------------------------------------------

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """At least a byte, and nothing at the end.

        Raises: httpcore2.ReadError, httpcore2.ReadTimeout
        """
        self._send()
        if not self._came and not self._ended:
            self._reader = self._loop.create_future()
            await _within(timeout, self._reader, httpcore2.ReadTimeout)
        if not self._came and self._error is not None:
            raise httpcore2.ReadError(self._error) from self._error
        data = bytes(self._came[:max_bytes])
        del self._came[:max_bytes]
        if self._stopped and len(self._came) < _AHEAD // 2 and not self._ended:
            self._stopped = False
            self._open().resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Raises: httpcore2.WriteError, httpcore2.WriteTimeout"""
        if not buffer:
            return
        self._require_writable()
        if not self._held:
            self._loop.call_soon(self._send)
        self._held += buffer
        if len(self._held) >= _TOGETHER:
            self._send()
        while self._full:
            self._writer = self._loop.create_future()
            await _within(timeout, self._writer, httpcore2.WriteTimeout)
            self._require_writable()

    def _require_writable(self) -> None:
        if self._ended:
            raise httpcore2.WriteError(self._error or "the other side closed the connection")

    def _send(self) -> None:
        if self._held and not self._ended:
            data = bytes(self._held)
            self._held.clear()
            self._open().write(data)

    async def aclose(self) -> None:
        """What was not sent is not wanted any more.  Whoever reads gets an error, not an end: the
        end of the connection may be that of a body."""
        self._held.clear()
        self._end(ConnectionAbortedError("closed on this side"))
        self._open().abort()
        await asyncio.sleep(0)  # the transport closes the socket in the loop's next turn

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Raises: httpcore2.ConnectError, httpcore2.ConnectTimeout."""
        try:
            with _connecting(), anyio.fail_after(timeout):
                secured = await self._loop.start_tls(
                    self._open(), self, ssl_context, server_hostname=server_hostname
                )
            if secured is None:
                raise httpcore2.ConnectError("the other side closed the connection")
        except BaseException:
            self._open().abort()
            raise
        self._transport = secured
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # while it is free, that it was closed
            return self._ended or bool(self._came) or _readable(self._open())
        name = {"client_addr": "sockname", "server_addr": "peername"}.get(info, info)
        return self._open().get_extra_info(name)


@contextmanager
def _connecting() -> Iterator[None]:
    """Raise httpcore2's errors from asyncio's; a TimeoutError is an OSError too."""
    try:
        yield
    except TimeoutError as error:
        raise httpcore2.ConnectTimeout(error) from error
    except (OSError, UnicodeError) as error:  # the latter: a name that no host can have
        raise httpcore2.ConnectError(error) from error


async def _within(
    timeout: float | None, waited: asyncio.Future[None], late: type[httpcore2.TimeoutException]
) -> None:
    if timeout is None:
        await waited
        return
    try:
        with anyio.fail_after(timeout):
            await waited
    except TimeoutError as error:
        raise late(error) from error


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


def _readable(transport: asyncio.Transport) -> bool:
    """Something came, or the end, that the loop has not yet told."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
