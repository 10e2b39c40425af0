"""How a request of the HTTP client gets to its server: by a pool of httpcore2's with our network
(`http_network.py`), or, where the environment names a proxy, by a client of httpx2's.

httpx2's own transport makes the same pool, but lets nobody choose the network; and what its client
does besides (redirects, cookies, credentials of its own) the caller does itself, or must not.
"""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpcore2
import httpx2

from lap_runtimes.http_network import AsyncioNetwork

_FREE_SECONDS: Final = 5.0
"""How long a free connection is kept: httpx2's default."""

_TRANSLATED: Final[Mapping[type[Exception], type[httpx2.TransportError]]] = {
    httpcore2.ConnectTimeout: httpx2.ConnectTimeout,
    httpcore2.ReadTimeout: httpx2.ReadTimeout,
    httpcore2.WriteTimeout: httpx2.WriteTimeout,
    httpcore2.PoolTimeout: httpx2.PoolTimeout,
    httpcore2.ConnectError: httpx2.ConnectError,
    httpcore2.ReadError: httpx2.ReadError,
    httpcore2.WriteError: httpx2.WriteError,
    httpcore2.UnsupportedProtocol: httpx2.UnsupportedProtocol,
    httpcore2.LocalProtocolError: httpx2.LocalProtocolError,
    httpcore2.RemoteProtocolError: httpx2.RemoteProtocolError,
}
"""Each error that such a pool raises."""


def transport(
    tls: ssl.SSLContext, *, connect_timeout: float, keep_connections: int
) -> httpx2.AsyncBaseTransport:
    """What the environment of this process asks for.  Does no I/O; its owner closes it.

    `connect_timeout` in seconds, the only one; `keep_connections`: how many that are free are kept.
    """
    if any(urllib.request.getproxies().get(kind) for kind in ("http", "https", "all")):
        return _Proxied(tls, connect_timeout, keep_connections)
    return Pooled(tls, connect_timeout=connect_timeout, keep_connections=keep_connections)


class Pooled(httpx2.AsyncBaseTransport):
    """HTTP/1.1 over kept connections.  A request may have its own `timeout` extension."""

    def __init__(
        self, tls: ssl.SSLContext, *, connect_timeout: float, keep_connections: int
    ) -> None:
        self._extensions = {"timeout": {"connect": connect_timeout}}
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=None,
            max_keepalive_connections=keep_connections,
            keepalive_expiry=_FREE_SECONDS,
            network_backend=AsyncioNetwork(),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        asked = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=self._extensions | request.extensions,
        )
        with _translating():
            answer = await self._pool.handle_async_request(asked)
        return httpx2.Response(
            answer.status,
            headers=answer.headers,
            stream=_Body(answer.stream),
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Proxied(httpx2.AsyncBaseTransport):
    """With the proxies of the environment and its exceptions from them, as httpx2 reads them."""

    def __init__(self, tls: ssl.SSLContext, connect_timeout: float, keep_connections: int) -> None:
        self._client = httpx2.AsyncClient(
            verify=tls,
            timeout=httpx2.Timeout(None, connect=connect_timeout),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=keep_connections),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        # No credential but the request's own: not the one that an address may hold.
        return await self._client.send(
            request, stream=True, follow_redirects=False, auth=httpx2.Auth()
        )

    async def aclose(self) -> None:
        await self._client.aclose()


class _Body(httpx2.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _translating():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


@contextmanager
def _translating() -> Iterator[None]:
    """Raise httpx2's error of the same name."""
    try:
        yield
    except tuple(_TRANSLATED) as error:
        raise _TRANSLATED[type(error)](str(error)) from error
