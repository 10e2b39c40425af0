"""An httpx2 client for an SDK that wants one, whose requests go through `http.py`: its origins,
credential, TLS, redirects, sizes and errors.

What fails does not raise into the SDK, which would end its connection: it becomes an answer with a
JSON-RPC error, and `on_failure` is told.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import httpx2

from lap_runtimes.errors import RuntimeFailure
from lap_runtimes.http import HTTP, Reply
from lap_runtimes.http_errors import MAX_ERROR_BODY

_DROPPED = ("host", "content-length", "connection", "user-agent", "accept-encoding")
_KEPT = ("content-type", "mcp-session-id")


def bridged(
    http: HTTP,
    *,
    limit: int,
    on_reply: Callable[[], None],
    on_failure: Callable[[RuntimeFailure], None],
) -> httpx2.AsyncClient:
    """`limit`: bytes of an answer that is no stream.  Its owner closes it."""
    transport = _Bridge(http, limit, on_reply, on_failure)
    return httpx2.AsyncClient(transport=transport, timeout=None, trust_env=False)


class _Bridge(httpx2.AsyncBaseTransport):
    def __init__(
        self,
        http: HTTP,
        limit: int,
        on_reply: Callable[[], None],
        on_failure: Callable[[RuntimeFailure], None],
    ) -> None:
        self._http = http
        self._limit = limit
        self._on_reply = on_reply
        self._on_failure = on_failure

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            reply = await self._http.open(
                request.method,
                str(request.url),
                content=await request.aread() or None,
                headers={k: v for k, v in request.headers.items() if k not in _DROPPED},
            )
        except RuntimeFailure as exc:
            return self._failed(exc)
        self._on_reply()
        headers = {name: reply.headers[name] for name in _KEPT if name in reply.headers}
        if reply.status < 400 and reply.media_type == "text/event-stream":
            return httpx2.Response(reply.status, headers=headers, stream=_Body(reply, self))
        return await self._whole(request, reply, headers)

    async def _whole(
        self, request: httpx2.Request, reply: Reply, headers: dict[str, str]
    ) -> httpx2.Response:
        """An answer that is no stream, read here, where what breaks can still be said."""
        try:
            if reply.status < 400:
                body = await reply.read(self._limit)
                return httpx2.Response(reply.status, headers=headers, content=body)
            body = self._http.scrub(await reply.read(MAX_ERROR_BODY, cut=True))
            if _is_rpc_error(body) or request.method != "POST":
                return httpx2.Response(reply.status, headers=headers, content=body)
            return self._failed(self._http.rejection(reply, body))
        except RuntimeFailure as exc:
            return self._failed(exc)
        finally:
            await reply.aclose()

    def _failed(self, failure: RuntimeFailure) -> httpx2.Response:
        self._on_failure(failure)
        error = {"code": -32603, "message": failure.message}
        body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
        return httpx2.Response(502, headers={"content-type": "application/json"}, content=body)

    def told(self, failure: RuntimeFailure) -> None:
        self._on_failure(failure)


class _Body(httpx2.AsyncByteStream):
    """A stream of events; where it breaks off is told, and ends it."""

    def __init__(self, reply: Reply, bridge: _Bridge) -> None:
        self._reply = reply
        self._bridge = bridge

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async with aclosing(self._reply.chunks()) as chunks:
                async for chunk in chunks:
                    yield chunk
        except RuntimeFailure as exc:
            self._bridge.told(exc)

    async def aclose(self) -> None:
        await self._reply.aclose()


def _is_rpc_error(body: bytes) -> bool:
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "jsonrpc" in found and isinstance(found.get("error"), dict)
