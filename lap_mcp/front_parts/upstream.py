"""One model's server: requests with its key, answers as bytes or as events.

Requests go over `connections.py`, or, where a proxy stands in between, over the general client of
`lap_runtimes.http`.  The key goes to the configured origin only; redirects are not followed.  A
request is never repeated here once it may have been seen; one that was refused in a later round
(429, 503) is, by the driver, since nothing was done with it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
from lap_runtimes.config import Auth, HTTPRuntimeConfig
from lap_runtimes.errors import ProtocolError, RuntimeFailure
from lap_runtimes.http import HTTP, Reply, tls_context
from lap_runtimes.http_errors import retry_after

from lap_mcp.config import ModelTable

from .connections import Connections, DirectReply, Pairs
from .objects import Objects
from .wire import ApiError, Json, encode

logger = logging.getLogger(__name__)

MAX_ERROR: Final = 256 * 1024
PATIENCE: Final = 30.0
"""Longest `retry-after`, in seconds, that is waited out between two rounds."""
RETRIES: Final = 2

_DROPPED: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
        b"set-cookie",
        b"server",
        b"date",
        b"alt-svc",
        b"strict-transport-security",
        b"www-authenticate",
    }
)
"""Headers of an answer that are about the connection to the upstream, or about its own clients."""
_SENT_ON: Final = (
    "accept",
    "content-type",
    "user-agent",
    "openai-beta",
    "anthropic-beta",
    "anthropic-version",
    "idempotency-key",
    "x-client-request-id",
    "traceparent",
    "tracestate",
)
"""Headers of a request that mean something upstream.  The client's key is not one of them."""

Headers = list[tuple[bytes, bytes]]


class Refused(Exception):
    """The upstream's own error: status, headers and body, for the client unchanged."""

    def __init__(self, status: int, headers: Headers, body: bytes, wait: float | None) -> None:
        super().__init__(f"the upstream answered {status}")
        self.status = status
        self.headers = headers
        self.body = body
        self.retry_after = wait


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply whose body is not read yet."""

    status: int
    headers: Headers
    body: AsyncIterator[bytes]


class Upstream:
    """Construction does no I/O."""

    def __init__(self, name: str, table: ModelTable, *, proxied: bool = False) -> None:
        """`proxied`: its origin is reached through a proxy, which the general client knows."""
        self.name = name
        self.table = table
        key = table.api_key
        self._secret = key.get_secret_value() if key is not None else ""
        self._http = HTTP(
            HTTPRuntimeConfig(
                url=table.base_url,
                auth=_auth(table),
                headers=table.headers,
                ca_file=table.ca_file,
                connect_timeout=table.connect_timeout,
            ),
            keep_connections=table.connections,
        )
        parts = urlsplit(table.base_url)
        self._path = parts.path.rstrip("/")
        fixed = {"host": parts.netloc, "accept-encoding": "identity", "user-agent": "lap-mcp"}
        fixed |= {key.lower(): value for key, value in table.headers.items()}
        if self._secret:
            if table.api == "anthropic":
                fixed["x-api-key"] = self._secret
            else:
                fixed["authorization"] = f"Bearer {self._secret}"
        self._fixed = fixed
        secure = parts.scheme == "https"
        self.direct = None if proxied else Connections(
            parts.hostname or "",
            parts.port or (443 if secure else 80),
            context=(lambda: tls_context(table.ca_file)) if secure else None,
            keep=table.connections,
            connect_timeout=table.connect_timeout,
            silence=table.silence,
        )  # fmt: skip

    async def aclose(self) -> None:
        if self.direct is not None:
            await self.direct.aclose()
        await self._http.aclose()

    @asynccontextmanager
    async def send(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]
    ) -> AsyncIterator[Answer]:
        """Any request, its answer as it comes.  Leaving the block closes the connection.

        Raises:
            ApiError: nobody answered.
            Refused: it answered with a status of 400 or more.
        """
        with self._worded():
            reply = await self._open(method, path, content, headers)
        try:
            kept = _kept(reply.headers)
            if reply.status >= 400:
                raise await self._refused(reply, kept)
            yield Answer(reply.status, kept, self._pieces(reply))
        finally:
            if isinstance(reply, DirectReply):
                await reply.aclose()
            else:
                with anyio.CancelScope(shield=True):
                    await reply.aclose()

    @asynccontextmanager
    async def events(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncIterator[AsyncIterator[Json]]:
        """A request whose answer is a stream of JSON objects; an answer that is one JSON object
        is a stream of one.

        Raises:
            ApiError, Refused: as `send`.  The iterator raises ApiError where the stream breaks.
        """
        sent = {**headers, "content-type": "application/json", "accept": "text/event-stream"}
        async with self.send("POST", path, encode(body), sent) as answer:
            yield self._objects(answer.body)

    async def _objects(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[Json]:
        objects = Objects()
        with self._worded():
            async for piece in pieces:
                for value in objects.feed(piece):
                    yield value
                if objects.done:
                    return
            for value in objects.close():
                yield value

    async def _open(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]
    ) -> AnyReply:
        try:
            if self.direct is not None:
                sent = {**self._fixed, **headers, **self._secrets()}
                pairs = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in sent.items()]
                return await self.direct.request(method, f"{self._path}/{path}", pairs, content)
            with anyio.fail_after(self.table.silence):
                url = self._http.url(path)
                reply = await self._http.open(method, url, content=content, headers=headers)
            return _General(reply, self.table.silence)
        except TimeoutError as error:
            raise self._silent() from error

    def _secrets(self) -> dict[str, str]:
        """What no header of a client may replace."""
        names = ("host", "authorization", "x-api-key", "accept-encoding")
        return {name: self._fixed[name] for name in names if name in self._fixed}

    async def _pieces(self, reply: AnyReply) -> AsyncIterator[bytes]:
        chunks = reply.chunks()
        try:
            with self._worded():
                async for chunk in chunks:
                    yield chunk
        except TimeoutError as error:
            raise self._silent() from error
        finally:
            await chunks.aclose()

    async def _refused(self, reply: AnyReply, headers: Headers) -> Refused:
        body = b""
        with anyio.move_on_after(self.table.silence):
            async for piece in self._pieces(reply):
                body += piece
                if len(body) >= MAX_ERROR:
                    break
        if len(self._secret) >= 8:
            body = body.replace(self._secret.encode(), b"[secret]")
        told = {name.decode(): value.decode("latin-1") for name, value in headers}
        return Refused(reply.status, headers, body, retry_after(told))

    def _silent(self) -> ApiError:
        return ApiError(
            504,
            f"The server of model {self.name!r} sent nothing for {self.table.silence:g} s.",
            code="upstream_timeout",
        )

    def _worded(self) -> _Worded:
        return _Worded(self.name)


class _Worded:
    """Says in an API error what became of a request to an upstream.  The words name the model,
    not the address: that is the operator's."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeFailure):
            logger.warning("model %s: %s", self._name, error)
        if isinstance(error, ProtocolError):
            raise ApiError(
                502,
                f"The server of model {self._name!r} sent something that is not its protocol.",
                code="upstream_protocol",
            ) from error
        if isinstance(error, RuntimeFailure):
            raise ApiError(
                502,
                f"The server of model {self._name!r} cannot be reached, or broke off.",
                code="upstream_unavailable",
            ) from error


def _auth(table: ModelTable) -> Auth:
    key = table.api_key
    if key is not None and table.api == "anthropic":
        return Auth(header={"x-api-key": key})
    return Auth(bearer=key)


def sent_on(headers: Mapping[str, str]) -> dict[str, str]:
    """What of a client's headers goes upstream."""
    return {name: headers[name] for name in _SENT_ON if name in headers}


class _General:
    """A reply of the general client, in the shape of ours."""

    def __init__(self, reply: Reply, silence: float) -> None:
        self._reply = reply
        self._silence = silence
        self.status = reply.status
        self.headers: Pairs = [
            (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
            for name, value in reply.headers.items()
            if name.lower() != "content-encoding"  # the general client has decoded it
        ]

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._reply.chunks()) as chunks:
            while True:
                with anyio.fail_after(self._silence):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                yield chunk

    async def aclose(self) -> None:
        await self._reply.aclose()


AnyReply = DirectReply | _General


def _kept(headers: Pairs) -> Headers:
    return [
        (name, value)
        for name, value in headers
        if name not in _DROPPED and not name.startswith(b"access-control-")
    ]
