"""Requests that no client of ours writes, byte by byte, against the HTTP face as it is served."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from lap_mcp.mcp_server.face import Face
from lap_mcp.mcp_server.options import FaceOptions
from lap_mcp.model import Principal
from lap_mcp.web import HttpOptions, build_app, keys, listen, serve
from tests.mcp.scripted import World

pytestmark = pytest.mark.anyio

KEY = "a-key-of-these-tests"
HOST = "Host: 127.0.0.1\r\n"
AUTH = f"Authorization: Bearer {KEY}\r\n"
EMPTY = "Content-Length: 0\r\n\r\n"
DEADLINE = 1.0
"""Seconds that this server gives a request's head."""


class Server:
    def __init__(self, world: World, port: int) -> None:
        self.world = world
        self.port = port

    async def raw(self, data: str | bytes, *, more: bytes = b"", times: int = 0) -> bytes:
        """What comes back until the server closes or is silent; `more` is sent `times` times."""
        found = b""
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:

            async def send() -> None:
                try:
                    await stream.send(data.encode() if isinstance(data, str) else data)
                    for _ in range(times):
                        await stream.send(more)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return

            async with anyio.create_task_group() as group:
                group.start_soon(send)
                try:
                    while True:
                        with anyio.fail_after(0.4 if found else 10):
                            found += await stream.receive()
                except (TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError):
                    group.cancel_scope.cancel()
        return found


@asynccontextmanager
async def running() -> AsyncIterator[Server]:
    world = World()
    face = Face(world.services, FaceOptions(transport="http"))
    options = HttpOptions(
        authenticate=keys({KEY: Principal(id="key:x", kind="key")}),
        max_body=100_000,
        head_deadline=DEADLINE,
    )
    socket = listen("127.0.0.1", 0)
    port = socket.getsockname()[1]
    async with world.running(), anyio.create_task_group() as group:
        group.start_soon(serve, build_app(face, options), [socket])
        yield Server(world, port)
        group.cancel_scope.cancel()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


REFUSED = {
    "no host": ("GET /healthz HTTP/1.1\r\n\r\n", (400,)),
    "no host, 1.0": ("GET /healthz HTTP/1.0\r\n\r\n", (421,)),
    "two hosts": (f"GET /mcp HTTP/1.1\r\n{HOST}Host: evil.example\r\n{AUTH}\r\n", (400, 421)),
    "two keys": (f"POST /mcp HTTP/1.1\r\n{HOST}{AUTH}{AUTH}{EMPTY}", (401,)),
    "absolute form": (f"GET http://127.0.0.1/mcp HTTP/1.1\r\n{HOST}\r\n", (401,)),
    "absolute form of health": (f"GET http://evil/healthz HTTP/1.1\r\n{HOST}\r\n", (401,)),
    "connect": (f"CONNECT evil.example:443 HTTP/1.1\r\n{HOST}\r\n", (401,)),
    "asterisk": (f"OPTIONS * HTTP/1.1\r\n{HOST}\r\n", (401,)),
    "dots": (f"GET /healthz/../mcp HTTP/1.1\r\n{HOST}\r\n", (401,)),
    "escaped dots": (f"GET /healthz%2f..%2fmcp HTTP/1.1\r\n{HOST}\r\n", (401,)),
    "escaped path": (f"POST /%6dcp HTTP/1.1\r\n{HOST}{EMPTY}", (401,)),
    "folded key": (f"POST /mcp HTTP/1.1\r\n{HOST}X: y\r\n {AUTH}{EMPTY}", (400, 401)),
    "space before the colon": (
        f"POST /mcp HTTP/1.1\r\n{HOST}Authorization : Bearer {KEY}\r\n{EMPTY}",
        (400,),
    ),
    "forwarded host": (
        f"POST /mcp HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: 127.0.0.1\r\n"
        f"Forwarded: host=127.0.0.1\r\nX-Forwarded-For: 127.0.0.1\r\n{AUTH}{EMPTY}",
        (421,),
    ),
    "websocket": (
        f"GET /mcp HTTP/1.1\r\n{HOST}Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Origin: https://evil.example\r\n\r\n",
        (403,),
    ),
    "two lengths": (
        f"POST /mcp HTTP/1.1\r\n{HOST}{AUTH}Content-Length: 2\r\nContent-Length: 9\r\n\r\n{{}}",
        (400,),
    ),
    "unknown coding": (
        f"POST /mcp HTTP/1.1\r\n{HOST}{AUTH}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        (400, 501),
    ),
    "negative length": (f"POST /mcp HTTP/1.1\r\n{HOST}{AUTH}Content-Length: -5\r\n\r\n", (400,)),
    "endless length": (
        f"POST /mcp HTTP/1.1\r\n{HOST}{AUTH}Content-Length: {'9' * 5000}\r\n\r\n",
        (400, 413),
    ),
    "large head": (f"GET /healthz HTTP/1.1\r\n{HOST}X: {'a' * 200_000}\r\n\r\n", (400, 431)),
    "line feed in a header": (
        "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\rX: y\r\n\r\n",
        (400,),
    ),
}


async def test_odd_requests_are_refused_and_open_nothing() -> None:
    async def check(name: str, request: str, allowed: tuple[int, ...]) -> None:
        answer = await server.raw(request)
        assert status(answer) in allowed, (name, answer[:200])
        assert b"access-control" not in answer.lower(), name

    async with running() as server:
        async with anyio.create_task_group() as group:
            for name, (request, allowed) in REFUSED.items():
                group.start_soon(check, name, request, allowed)
        assert server.world.opened == 0
        assert status(await server.raw(f"GET /healthz HTTP/1.1\r\n{HOST}\r\n")) == 200


async def test_a_request_hidden_in_the_body_of_another_has_no_key() -> None:
    """Length and coding at once: what comes after the last chunk is a request of its own, which
    needs what every request needs."""
    hidden = f"GET /mcp HTTP/1.1\r\n{HOST}\r\n"
    sent = f"POST /mcp HTTP/1.1\r\n{HOST}{AUTH}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"
    async with running() as server:
        answer = await server.raw(f"{sent}\r\n0\r\n\r\n{hidden}")
        answers = answer.split(b"HTTP/1.1 ")[1:]
        assert all(each.startswith((b"400", b"401")) for each in answers), answers
        assert server.world.opened == 0


async def test_a_chunked_body_over_the_limit_is_cut_off_while_it_comes() -> None:
    async with running() as server:
        head = f"POST /mcp HTTP/1.1\r\n{HOST}{AUTH}Transfer-Encoding: chunked\r\n\r\n"
        chunk = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
        assert status(await server.raw(head, more=chunk, times=200)) == 413
        assert server.world.opened == 0


async def test_a_body_is_not_unpacked() -> None:
    """A small body that unpacks to a large one is what it is: no JSON."""
    body = gzip.compress(b" " * 50_000_000)
    head = (
        f"POST /mcp HTTP/1.1\r\n{HOST}{AUTH}Content-Type: application/json\r\n"
        "Accept: application/json, text/event-stream\r\nContent-Encoding: gzip\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    async with running() as server:
        answer = await server.raw(head.encode() + body)
        assert status(answer) == 400
        assert b"Parse error" in answer


async def test_who_does_not_finish_a_head_is_let_go() -> None:
    """Also after a whole request on the same connection."""
    whole = f"GET /healthz HTTP/1.1\r\n{HOST}\r\n"

    async def hold(first: str, begun: str) -> None:
        async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
            if first:
                await stream.send(first.encode())
                assert status(await stream.receive()) == 200
            if begun:
                await stream.send(begun.encode())
            with anyio.fail_after(DEADLINE + 9):
                async for _ in stream:
                    pass

    async with running() as server, anyio.create_task_group() as group:
        for begun in ("GET /healthz HT", f"GET /healthz HTTP/1.1\r\n{HOST}X"):
            group.start_soon(hold, "", begun)
            group.start_soon(hold, whole, begun)
        group.start_soon(hold, "", "")


async def test_a_call_may_take_longer_than_a_head() -> None:
    meta = (
        '{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
        '"io.modelcontextprotocol/clientCapabilities":{},'
        '"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"}}'
    )
    wait = DEADLINE + 0.3
    call = (
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"slow","arguments":'
        f'{{"prompt":"{wait}"}},"_meta":{meta}}}}}'
    )
    head = (
        f"POST /mcp HTTP/1.1\r\n{HOST}{AUTH}Content-Type: application/json\r\nConnection: close\r\n"
        "Accept: application/json, text/event-stream\r\nMcp-Protocol-Version: 2026-07-28\r\n"
        f"Mcp-Method: tools/call\r\nMcp-Name: slow\r\nContent-Length: {len(call)}\r\n\r\n"
    )
    async with running() as server, await anyio.connect_tcp("127.0.0.1", server.port) as stream:
        await stream.send((head + call).encode())
        found = b""
        with anyio.fail_after(wait + 10):
            while b"Slowly done." not in found:
                found += await stream.receive()
