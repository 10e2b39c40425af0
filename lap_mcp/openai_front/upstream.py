"""One model's server: requests with its key, answers as bytes or as events.

HTTP itself, and what foreign errors mean, is in `lap_runtimes.http`: the key is bound to the
configured origin, redirects are not followed with it, connections are kept.  A request is never
repeated here once it may have been seen; one that was refused in a later round (429, 503) is,
since nothing was done with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
from lap_runtimes.config import Auth, HTTPRuntimeConfig
from lap_runtimes.errors import ProtocolError, RuntimeFailure
from lap_runtimes.http import HTTP, Reply
from lap_runtimes.http_errors import retry_after

from lap_mcp.config import ModelTable

from .objects import Objects
from .wire import ApiError, Json, encode

MAX_ERROR: Final = 256 * 1024
PATIENCE: Final = 30.0
"""Longest `retry-after`, in seconds, that is waited out between two rounds."""
RETRIES: Final = 2

_DROPPED: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "content-encoding",
        "set-cookie",
        "server",
        "date",
        "alt-svc",
        "strict-transport-security",
        "www-authenticate",
    }
)
"""Headers of an answer that are about the connection to the upstream, or about its own clients."""
_SENT_ON: Final = (
    "accept",
    "content-type",
    "user-agent",
    "openai-beta",
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

    def __init__(self, name: str, table: ModelTable) -> None:
        self.name = name
        self.table = table
        auth = Auth(bearer=table.api_key) if table.api_key is not None else Auth()
        self._http = HTTP(
            HTTPRuntimeConfig(
                url=table.base_url,
                auth=auth,
                headers=table.headers,
                ca_file=table.ca_file,
                connect_timeout=table.connect_timeout,
            ),
            keep_connections=table.connections,
        )

    async def aclose(self) -> None:
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
            kept = _kept(reply)
            if reply.status >= 400:
                raise await self._refused(reply, kept)
            yield Answer(reply.status, kept, self._pieces(reply))
        finally:
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
            yield _objects(answer.body)

    async def _open(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        try:
            with anyio.fail_after(self.table.silence):
                return await self._http.open(
                    method, self._http.url(path), content=content, headers=headers
                )
        except TimeoutError as error:
            raise self._silent() from error

    async def _pieces(self, reply: Reply) -> AsyncIterator[bytes]:
        chunks = reply.chunks()
        try:
            with self._worded():
                while True:
                    with anyio.fail_after(self.table.silence):
                        chunk = await anext(chunks, None)
                    if chunk is None:
                        return
                    yield chunk
        except TimeoutError as error:
            raise self._silent() from error
        finally:
            with anyio.CancelScope(shield=True):
                await chunks.aclose()

    async def _refused(self, reply: Reply, headers: Headers) -> Refused:
        with self._worded():
            with anyio.move_on_after(self.table.silence):
                body = await reply.read(MAX_ERROR, cut=True)
                return Refused(
                    reply.status, headers, self._http.scrub(body), retry_after(reply.headers)
                )
            raise self._silent()

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


def sent_on(headers: Mapping[str, str]) -> dict[str, str]:
    """What of a client's headers goes upstream."""
    return {name: headers[name] for name in _SENT_ON if name in headers}


def _kept(reply: Reply) -> Headers:
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in reply.headers.items()
        if name.lower() not in _DROPPED and not name.lower().startswith("access-control-")
    ]


async def _objects(pieces: AsyncIterator[bytes]) -> AsyncIterator[Json]:
    objects = Objects()
    async for piece in pieces:
        for value in objects.feed(piece):
            yield value
        if objects.done:
            return
    for value in objects.close():
        yield value
