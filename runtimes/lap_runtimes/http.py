"""HTTP for all adapters: one client per runtime whose credential is bound to its origin, redirects
and learnt addresses checked, bodies limited, foreign errors translated; shared, so without cookies.

Streams have no timeout but that of connecting: silence and deadline are the session engine's, which
leaves the `async with` block.  Proxies and extra CAs are taken from the environment as httpx does
it (`HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`).
"""

from __future__ import annotations

import functools
import json as jsonlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import anyio
import anyio.to_thread
import httpx2

from lap_runtimes.authorizing import Authorizer, Issued, Outgoing
from lap_runtimes.base import MAX_FILE_BYTES
from lap_runtimes.config import HTTPRuntimeConfig
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure, Unavailable
from lap_runtimes.http_errors import MAX_ERROR_BODY, check_packing, pause_before, rejection
from lap_runtimes.http_transport import transport
from lap_runtimes.origin import OriginRules, Standing
from lap_runtimes.resolving import public_address

MAX_JSON = 64 * 1024 * 1024
"""Largest answer read whole, in bytes."""
CONTROL_DEADLINE = 30.0
"""Seconds for a request that only asks or tells something, from connecting to the last byte."""
MAX_REDIRECTS = 5
_HEADERS = httpx2.Headers(
    {
        "Accept": "*/*",
        "Accept-Encoding": "gzip, deflate",
        "Connection": "keep-alive",
        "User-Agent": "lap-mcp",
    }
)
"""Of every request that does not say otherwise."""
_SCRUBBED = 16 * 1024
"""Bytes of a body that is no JSON that are looked at for our credential, to show its beginning."""
_CONNECT_PAUSES = (0.2, 0.6)
_NEVER_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
    httpx2.LocalProtocolError,
    httpx2.InvalidURL,
)

FOREIGN: tuple[tuple[type[Exception], type[RuntimeFailure], str], ...] = (
    (httpx2.ConnectTimeout, Unavailable, "no connection within the connect timeout"),
    (httpx2.PoolTimeout, Unavailable, "no free connection"),
    (httpx2.ConnectError, Unavailable, "cannot connect"),
    (httpx2.ProxyError, Unavailable, "the proxy refused"),
    (httpx2.UnsupportedProtocol, Rejected, "not an http address"),
    (httpx2.InvalidURL, Rejected, "not an http address"),
    (httpx2.LocalProtocolError, Rejected, "the request cannot be sent"),
    (httpx2.RemoteProtocolError, Unavailable, "the connection broke"),
    (httpx2.DecodingError, ProtocolError, "the body cannot be decompressed"),
    (httpx2.TooManyRedirects, ProtocolError, "too many redirects"),
    (httpx2.TimeoutException, Unavailable, "timed out"),
    (httpx2.TransportError, Unavailable, "the connection broke"),
    (httpx2.HTTPError, ProtocolError, "the exchange failed"),
    (httpx2.CookieConflict, ProtocolError, "conflicting cookies"),
    (httpx2.StreamError, ProtocolError, "the answer was read wrongly"),
)
"""Foreign error, ours, and its words; the first that fits counts."""


@contextmanager
def foreign_errors(where: str) -> Iterator[None]:
    """Raise ours from httpx2's.  `where` names the runtime's host for the message."""
    try:
        yield
    except tuple(foreign for foreign, _, _ in FOREIGN) as exc:
        ours, words = next((o, w) for f, o, w in FOREIGN if isinstance(exc, f))
        detail = f": {exc}" if str(exc) else ""
        sent = not isinstance(exc, _NEVER_SENT)
        raise ours(f"{where}: {words}{detail}", sent=sent) from exc


@dataclass(frozen=True, slots=True)
class Download:
    data: bytes
    media_type: str


class Reply:
    """An answer whose headers are here and whose body is not yet read."""

    def __init__(
        self, response: httpx2.Response, where: str, scrub: Callable[[bytes], bytes]
    ) -> None:
        self._response = response
        self.where = where
        self._scrub = scrub

    @property
    def status(self) -> int:
        return self._response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").split(";")[0].strip().lower()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, decompressed.  Raises `Unavailable` where it breaks off."""
        check_packing(self.headers, self.where)
        with foreign_errors(self.where):
            async with aclosing(self._response.aiter_bytes()) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def read(self, limit: int, *, cut: bool = False) -> bytes:
        """The whole body.  More than `limit` bytes: cut off, or `ProtocolError`."""
        parts: list[bytes] = []
        size = 0
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                parts.append(chunk)
                size += len(chunk)
                if size > limit:
                    if cut:
                        break
                    raise ProtocolError(f"{self.where}: the answer is larger than {limit} bytes")
        return b"".join(parts)[:limit]

    async def json(self, limit: int = MAX_JSON) -> Any:
        body = await self.read(limit)
        try:
            return jsonlib.loads(body)
        except (ValueError, RecursionError) as exc:
            shown = self._scrub(body[:_SCRUBBED])[:200].decode("utf-8", "replace")
            raise ProtocolError(f"{self.where}: the answer is not JSON: {shown!r}") from exc

    async def aclose(self) -> None:
        with foreign_errors(self.where):
            await self._response.aclose()


class HTTP:
    """The HTTP side of one runtime.  Construction does no I/O.  An `authorizer` signs what goes to
    the configured origin, beside or in place of a fixed credential."""

    def __init__(
        self,
        config: HTTPRuntimeConfig,
        authorizer: Authorizer | None = None,
        *,
        keep_connections: int = 20,
    ) -> None:
        """`keep_connections`: how many that are free are kept for the next request."""
        self.base = config.url.rstrip("/")
        self._keep_connections = keep_connections
        self.rules = OriginRules.of(config.url, config.allow_origins)
        self._connect_timeout = config.connect_timeout
        self._ca_file = config.ca_file
        secret = {name: value.get_secret_value() for name, value in config.auth.header.items()}
        if config.auth.bearer is not None:
            secret["Authorization"] = f"Bearer {config.auth.bearer.get_secret_value()}"
        self._secrets = set(secret.values())
        self._home_headers = {**config.headers, **secret}
        self._authorizer = authorizer
        self._issued = Issued()
        self._learn = config.learn_secret
        self._transport: httpx2.AsyncBaseTransport | None = None
        self._building = anyio.Lock()

    def url(self, path: str) -> str:
        """An address below the configured one; absolute addresses stay as they are."""
        if path.startswith(("http://", "https://")):
            return path
        return f"{self.base}/{path.lstrip('/')}" if path else self.base

    async def aclose(self) -> None:
        connected, self._transport = self._transport, None
        if connected is not None:
            await connected.aclose()

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        json: Any = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        whence: str = "its address",
    ) -> AsyncIterator[Reply]:
        """Send, and give the answer's body as it comes.  Raises `Rejected` for a status of 400 or
        more; leaving the block closes the connection."""
        content = None if json is None else jsonlib.dumps(json, ensure_ascii=False).encode()
        sent_headers = {"Content-Type": "application/json"} if content is not None else {}
        sent_headers.update(headers or {})
        reply = await self.open(
            method, url, content=content, params=params, headers=sent_headers, whence=whence
        )
        try:
            await self.refuse_errors(reply)
            yield reply
        finally:
            await reply.aclose()

    async def json(
        self,
        method: str,
        url: str,
        *,
        json: Any = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        whence: str = "its address",
        deadline: float | None = CONTROL_DEADLINE,
    ) -> Any:
        """Send and read a JSON answer, within `deadline` seconds.  A GET that never left this
        machine, or was put off for at most `MAX_POLITE_WAIT` (`http_errors.py`), is tried again."""
        pauses = list(_CONNECT_PAUSES) if method == "GET" else []
        headers = {"Accept": "application/json", **(headers or {})}
        with self.within(deadline):
            while True:
                try:
                    async with self.stream(
                        method, url, json=json, params=params, headers=headers, whence=whence
                    ) as reply:
                        return await reply.json()
                except RuntimeFailure as exc:
                    pause = pause_before(exc, pauses)
                    if pause is None:
                        raise
                await anyio.sleep(pause)

    async def download(self, url: str, *, whence: str, limit: int = MAX_FILE_BYTES) -> Download:
        """A file.  Raises `ProtocolError` for more than `limit` bytes."""
        with self.within(CONTROL_DEADLINE * 4):
            async with self.stream("GET", url, whence=whence) as reply:
                data = await reply.read(limit)
                return Download(data, reply.media_type or "application/octet-stream")

    async def open(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        whence: str = "its address",
    ) -> Reply:
        """Send, following redirects that stay within the rules.  The caller closes the reply, and
        looks at its status."""
        reads = method in ("GET", "HEAD") and not content
        for _ in range(MAX_REDIRECTS + 1):
            standing = self.rules.standing(url, whence=whence, reads=reads)
            response = await self._send(method, url, standing, content, params, headers or {})
            if response.status_code not in (301, 302, 303, 307, 308):
                return Reply(response, self._where(url), self.scrub)
            await response.aclose()
            target = response.headers.get("location", "")
            whence = f"a redirect from {url}"
            if method not in ("GET", "HEAD") and response.status_code not in (307, 308):
                raise Rejected(
                    f"{self._where(url)} redirects a {method} to {target!r}; "
                    "put the final address in url",
                    kind="invalid",
                    status=response.status_code,
                )
            url, params = urljoin(url, target), None
        raise ProtocolError(f"{self._where(url)}: more than {MAX_REDIRECTS} redirects")

    async def refuse_errors(self, reply: Reply) -> None:
        """Raise `Rejected` with the runtime's words for a status of 400 or more."""
        if reply.status >= 400:
            raise self.rejection(reply, await reply.read(MAX_ERROR_BODY, cut=True))

    def rejection(self, reply: Reply, body: bytes) -> Rejected:
        """The error of this answer, its body read."""
        return rejection(reply.status, reply.headers, self.scrub(body), where=reply.where)

    def scrub(self, body: bytes) -> bytes:
        """The body without our credential, should the runtime echo it."""
        for value in (*self._secrets, *self._issued.values()):
            for secret in {value, value.removeprefix("Bearer ")}:
                if len(secret) >= 8:
                    body = body.replace(secret.encode(), b"[secret]")
        return body

    @contextmanager
    def within(self, deadline: float | None = CONTROL_DEADLINE) -> Iterator[None]:
        """Raise `Unavailable` after this many seconds."""
        try:
            with anyio.fail_after(deadline):
                yield
        except TimeoutError as exc:
            raise Unavailable(f"{self.rules.home}: no answer within {deadline:g} s") from exc

    async def _send(
        self,
        method: str,
        url: str,
        standing: Standing,
        content: bytes | None,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str],
    ) -> httpx2.Response:
        connected = await self._connected()
        extensions: dict[str, Any] = {}
        home = self._home_headers if standing == "home" else {}
        sent = {**headers, **home}
        with foreign_errors(self._where(url)):
            target = _parsed(url)
            if params:
                target = target.copy_merge_params(params)
            if standing == "public":
                address = await public_address(target.host, target.port or 443)
                sent["Host"] = target.netloc.decode("ascii")
                # Its certificate is for this name, and the pool knows connections by address.
                sent["Connection"] = "close"
                extensions["sni_hostname"] = target.host
                target = target.copy_with(host=address)
            given = _HEADERS.copy()
            given.update(sent)
            request = httpx2.Request(
                method, target, content=content, headers=given, extensions=extensions
            )
            if standing == "home" and self._authorizer is not None:
                await self._authorize(self._authorizer, request)
            return await connected.handle_async_request(request)

    async def _authorize(self, authorizer: Authorizer, request: httpx2.Request) -> None:
        """Sign the request, which is final but for this."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        outgoing = Outgoing(request.method, str(request.url), headers, request.content)
        proof = await authorizer.authorize(outgoing)
        for secret in self._issued.remember(proof):
            if self._learn is not None:
                self._learn(secret.removeprefix("Bearer "))
        request.headers.update({**proof.plain, **proof.secret})

    async def _connected(self) -> httpx2.AsyncBaseTransport:
        if self._transport is not None:
            return self._transport
        async with self._building:
            if self._transport is None:
                # Certificates are read from disk.
                self._transport = await anyio.to_thread.run_sync(self._build)
            return self._transport

    def _build(self) -> httpx2.AsyncBaseTransport:
        if not self.rules.encrypted:
            # Reading the certificates takes 0.1 s; without any, no https connection can succeed.
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        else:
            tls = tls_context(self._ca_file)
        return transport(
            tls, connect_timeout=self._connect_timeout, keep_connections=self._keep_connections
        )

    def _where(self, url: str) -> str:
        at_home = url == self.base or url.startswith(f"{self.base}/")
        return self.rules.home if at_home else _origin_of(url)


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """What certificates are trusted, for a connection that is not one of httpx2's: the same as for
    those.  Reads files.  Raises `Unavailable`."""
    if ca_file is None:
        return httpx2.create_ssl_context()
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        raise Unavailable(f"ca_file {ca_file} cannot be used: {exc}", sent=False) from exc


_parsed = functools.lru_cache(maxsize=256)(httpx2.URL)
"""A runtime has few addresses, and a turn goes to one of them again and again."""


def _origin_of(url: str) -> str:
    """The address up to its port, for messages."""
    try:
        return str(httpx2.URL(url).copy_with(path="/", query=None, userinfo=b"")).rstrip("/")
    except httpx2.InvalidURL:
        return "the runtime"
