"""The relay's own HTTP/1.1: connections are kept, dead ones are not used, nothing piles up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lap_runtimes.errors import ProtocolError, Unavailable

from lap_mcp.front_parts.connections import Connections
from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A server whose every byte is a test's."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.connections = 0
        self.asked: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def heard(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        if b"content-length: " in head:
            await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))


@asynccontextmanager
async def peer(talk: Any, **options: Any) -> AsyncIterator[tuple[Peer, Connections]]:
    there = Peer(lambda reader, writer: talk(there, reader, writer))
    server = await asyncio.start_server(there.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    values: dict[str, Any] = {"context": None, "keep": 4, "connect_timeout": 5.0, **options}
    connections = Connections("127.0.0.1", port, **values)
    try:
        yield there, connections
    finally:
        await connections.aclose()
        server.close()


async def fetch(connections: Connections) -> bytes:
    reply = await connections.request("POST", "/v1/x", [(b"host", b"h")], b"{}")
    try:
        return b"".join([piece async for piece in reply.chunks()])
    finally:
        await reply.aclose()


async def answer(there: Peer, reader: Any, writer: Any) -> None:
    while True:
        await there.heard(reader)
        writer.write(OK)


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with peer(answer) as (there, connections):
        assert [await fetch(connections) for _ in range(5)] == [b"hi"] * 5
        assert there.connections == connections.count == 1


async def test_as_many_at_once_as_are_wanted_and_as_many_kept_as_allowed() -> None:
    async with peer(answer, keep=2) as (there, connections):
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(fetch, connections)
        assert there.connections == 6
        await eventually_async(lambda: connections.count == 2)


async def test_a_connection_that_the_other_side_closed_is_not_used_again() -> None:
    async def once(there: Peer, reader: Any, writer: Any) -> None:
        await there.heard(reader)
        writer.write(OK)

    async with peer(once) as (there, connections):
        assert await fetch(connections) == b"hi"
        await anyio.sleep(0.05)
        assert await fetch(connections) == b"hi"
        assert there.connections == 2
        assert len(there.asked) == 2


async def test_what_comes_unasked_is_nobodys_answer() -> None:
    said = asyncio.Event()

    async def late(there: Peer, reader: Any, writer: Any) -> None:
        await there.heard(reader)
        writer.write(OK)
        if there.connections == 1:
            await said.wait()
            writer.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 4\r\n\r\nlate")
        await there.heard(reader)
        writer.write(OK)

    async with peer(late) as (there, connections):
        assert await fetch(connections) == b"hi"
        said.set()
        await eventually_async(lambda: connections._free[0].lost)
        assert await fetch(connections) == b"hi"
        assert there.connections == 2


async def test_bytes_behind_an_answer_end_its_connection() -> None:
    async def more(there: Peer, reader: Any, writer: Any) -> None:
        await there.heard(reader)
        writer.write(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
        await there.heard(reader)

    async with peer(more) as (there, connections):
        assert await fetch(connections) == b"hi"
        assert await fetch(connections) == b"hi"
        assert there.connections == 2


async def test_an_answer_that_breaks_off_is_told_and_its_connection_dropped() -> None:
    async def half(there: Peer, reader: Any, writer: Any) -> None:
        await there.heard(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal")

    async with peer(half) as (_, connections):
        with pytest.raises(Unavailable):
            await fetch(connections)
        assert connections.count == 0


async def test_a_request_that_was_seen_is_never_sent_twice() -> None:
    async def silent_end(there: Peer, reader: Any, writer: Any) -> None:
        await there.heard(reader)

    async with peer(silent_end) as (there, connections):
        with pytest.raises(Unavailable) as caught:
            await fetch(connections)
        assert caught.value.sent
        assert there.connections == 1


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200\r\nx y: z\r\n\r\n", b"x" * 200_000]
)
async def test_what_is_not_http_is_told(said: bytes) -> None:
    async def odd(there: Peer, reader: Any, writer: Any) -> None:
        await there.heard(reader)
        writer.write(said)
        await asyncio.sleep(30)

    async with peer(odd) as (_, connections):
        with anyio.fail_after(20), pytest.raises(ProtocolError):
            await fetch(connections)
        assert connections.count == 0


async def test_a_redirect_is_not_followed_with_the_key() -> None:
    async def away(there: Peer, reader: Any, writer: Any) -> None:
        await there.heard(reader)
        writer.write(b"HTTP/1.1 307 x\r\nlocation: http://evil/\r\ncontent-length: 0\r\n\r\n")

    async with peer(away) as (_, connections):
        with pytest.raises(ProtocolError, match="redirects"):
            await fetch(connections)


async def test_nobody_there_is_told_as_not_sent() -> None:
    connections = Connections("127.0.0.1", 9, context=None, keep=1, connect_timeout=5)
    with pytest.raises(Unavailable) as caught:
        await fetch(connections)
    assert not caught.value.sent


async def test_a_slow_client_slows_the_upstream() -> None:
    """What waits here is bounded, however much the upstream has to say."""
    size = 64 * 1024 * 1024
    sent = 0

    async def flood(there: Peer, reader: Any, writer: Any) -> None:
        nonlocal sent
        await there.heard(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    async with peer(flood) as (_, connections):
        reply = await connections.request("GET", "/", [(b"host", b"h")], None)
        chunks = reply.chunks()
        await anext(chunks)
        before = -1
        while before != sent:
            before = sent
            await anyio.sleep(0.1)
        assert sent < size // 2
        rest = [len(piece) async for piece in chunks]
        assert sum(rest) > size // 2
        await reply.aclose()


@given(cuts=st.lists(st.integers(1, 30), min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_chunks_are_the_same_however_their_bytes_are_cut(cuts: list[int]) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    whole = head + b"3\r\nabc\r\n5;x=y\r\ndefgh\r\n0\r\n\r\n"

    async def pieces(there: Peer, reader: Any, writer: Any) -> None:
        while True:
            await there.heard(reader)
            position = 0
            for size in [*cuts, len(whole)]:
                writer.write(whole[position : position + size])
                await writer.drain()
                await asyncio.sleep(0)
                position += size

    async def run() -> None:
        async with peer(pieces) as (there, connections):
            assert await fetch(connections) == b"abcdefgh"
            assert await fetch(connections) == b"abcdefgh"
            assert there.connections == 1

    anyio.run(run)
