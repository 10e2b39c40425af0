"""HTTP around the handlers: who asks, what they sent, and answers that end when the client goes.

A handler is `async (Request) -> Response`.  What goes wrong is answered in OpenAI's error shape,
an upstream's own error as it came.  Nothing here knows what is asked for.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lap_mcp.errors import Conflict, Invalid, LapError, LimitReached, NotFound, Unavailable
from lap_mcp.model import SCOPE_KEY, Principal

from .upstream import Answer, Headers, Refused
from .wire import DONE, KEEP_ALIVE, ApiError, Json, bad, encode, error_body

logger = logging.getLogger(__name__)

_LARGE: Final = 1024 * 1024
"""Bytes of a body that would hold up everybody else while it is read."""
QUIET: Final = 10.0
"""Seconds without an event after which a stream gets a comment, so that nobody in between closes
it."""
_JSON: Final = (b"content-type", b"application/json")
_STREAM: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_STATUS: Final[Mapping[type[LapError], int]] = {
    Invalid: 400,
    NotFound: 404,
    Conflict: 409,
    LimitReached: 429,
    Unavailable: 503,
}

Handler = Callable[[Request], Awaitable[Response]]
Failed = ApiError | Refused | LapError


def principal_of(request: Request) -> Principal:
    """Whose request this is: the gate let it in."""
    principal = request.scope.get(SCOPE_KEY)
    if not isinstance(principal, Principal):
        raise ApiError(401, "This request carries no principal.")
    return principal


async def body_of(request: Request) -> tuple[bytes, Json]:
    """The body, raw and read.  Raises: ApiError."""
    raw = await request.body()
    try:
        if len(raw) < _LARGE:
            value = json.loads(raw)
        else:
            value = await anyio.to_thread.run_sync(json.loads, raw)
    except (ValueError, RecursionError) as error:
        raise bad(f"The body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise bad("The body has to be a JSON object.")
    return raw, value


def answered(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(value), status, headers, "application/json")


def handled(handler: Handler) -> Handler:
    """The handler, its errors answered."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except (ApiError, Refused, LapError) as error:
            return failure(error)

    return endpoint


def failure(error: Failed) -> Response:
    if isinstance(error, Refused):
        return _Raw(error.status, error.headers, error.body)
    if isinstance(error, ApiError):
        return answered(error.body, error.status, error.headers)
    api = as_api_error(error)
    return answered(api.body, api.status)


def as_api_error(error: LapError) -> ApiError:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    return ApiError(status, str(error), code=error.code)


class _Raw(Response):
    """An answer with exactly these headers and bytes."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.background = None
        self.status_code = status
        self.body = body
        self.raw_headers = [*headers, (b"content-length", str(len(body)).encode())]


class Watched(Response):
    """An answer that is worked out while its client stays: when it goes, the work is cancelled,
    which closes the upstream and interrupts code."""

    answer = staticmethod(failure)
    """From what went wrong to an answer; a face may have its own words."""

    def __init__(self) -> None:
        self.background = None

    async def work(self, send: Send) -> None:
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        failed: Failed | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_gone, receive, tasks.cancel_scope)
            try:
                await self.work(send)
            except (ApiError, Refused, LapError) as error:
                # Not from inside the task group, which would wrap it.
                failed = error
            tasks.cancel_scope.cancel()
        if failed is not None:
            await self.broke(failed, scope, receive, send)

    async def broke(self, failed: Failed, scope: Scope, receive: Receive, send: Send) -> None:
        await self.answer(failed)(scope, receive, send)


async def _gone(receive: Receive, work: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    work.cancel()


class Whole(Watched):
    """One JSON answer."""

    def __init__(self, make: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        super().__init__()
        self._make = make

    async def work(self, send: Send) -> None:
        body = encode(await self._make())
        length = (b"content-length", str(len(body)).encode())
        await _start(send, 200, [_JSON, length])
        await send({"type": "http.response.body", "body": body})


class Relayed(Watched):
    """An upstream's answer as it comes, bytes for bytes."""

    def __init__(self, opened: Callable[[], Any]) -> None:
        super().__init__()
        self._opened = opened
        self._started = False

    async def work(self, send: Send) -> None:
        async with self._opened() as answer:
            assert isinstance(answer, Answer)
            await _start(send, answer.status, answer.headers)
            self._started = True
            async for piece in answer.body:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def broke(self, failed: Failed, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._started:
            await super().broke(failed, scope, receive, send)
            return
        # Half an answer must not look like a whole one.
        raise ConnectionAbortedError("the upstream broke off in the middle of its answer")


class EventStream(Watched):
    """Server-sent events.  The status is decided by the first event: an error before it is an
    ordinary error answer, one after it an event."""

    def __init__(
        self,
        produce: Callable[[EventStream], Awaitable[None]],
        encode_event: Callable[[Mapping[str, Any]], bytes],
        *,
        done: bool = False,
    ) -> None:
        super().__init__()
        self._produce = produce
        self._encode = encode_event
        self._done = done
        self._send: Send | None = None
        self._started = False
        self._quiet_since = 0.0
        self._sending = anyio.Lock(fast_acquire=True)

    async def event(self, event: Mapping[str, Any], /) -> None:
        await self._write(self._encode(event))

    async def work(self, send: Send) -> None:
        self._send = send
        self._quiet_since = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_alive)
            failed: Failed | None = None
            try:
                await self._produce(self)
            except (ApiError, Refused, LapError) as error:
                failed = error
            tasks.cancel_scope.cancel()
        if failed is not None:
            raise failed
        await self._end()

    async def broke(self, failed: Failed, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._started:
            await super().broke(failed, scope, receive, send)
            return
        error = failed if isinstance(failed, LapError) else None
        told = as_api_error(error).body if error else _body_of_failure(failed)
        await self._write(b"event: error\ndata: %b\n\n" % encode({"type": "error", **told}))
        await self._end()

    async def _end(self) -> None:
        assert self._send is not None
        if self._done:
            await self._write(DONE)
        await self._send({"type": "http.response.body", "body": b""})

    async def _write(self, data: bytes) -> None:
        assert self._send is not None
        async with self._sending:
            if not self._started:
                self._started = True
                await _start(self._send, 200, list(_STREAM))
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
            self._quiet_since = anyio.current_time()

    async def _keep_alive(self) -> None:
        while True:
            await anyio.sleep(QUIET / 2)
            if self._started and anyio.current_time() - self._quiet_since >= QUIET:
                await self._write(KEEP_ALIVE)


def _body_of_failure(failed: Failed) -> Json:
    if isinstance(failed, ApiError):
        return failed.body
    return error_body(502, "The model's server refused in the middle of the response.")


async def _start(send: Send, status: int, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
