"""Who may come in over HTTP, for every route alike: Host, origin, key, and how much at once.

Nothing reaches a handler without a key, except those of health, and of links that are signed;
nothing at all with a Host that is not ours or from a web page.
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lap_mcp.mcp_server import sdk
from lap_mcp.model import Principal

Authenticate = Callable[[str], Principal | None | Awaitable[Principal | None]]
"""From a bearer token to whose it is; `None`: nobody's."""

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})
SIGNED_PATHS: Final = "/files/"
"""What begins so carries its own proof; its handler looks at it."""
_ANTHROPIC: Final = {
    401: "authentication_error",
    403: "permission_error",
    413: "request_too_large",
}
_BODY_DEADLINE: Final = 60.0
"""Seconds in which a request's body has to arrive."""


def keys(known: Mapping[str, Principal]) -> Authenticate:
    """Authenticate by fixed keys.  Every key is compared, each in constant time."""
    digests = [(hashlib.sha256(key.encode()).digest(), who) for key, who in known.items()]

    def authenticate(token: str) -> Principal | None:
        given = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        found: Principal | None = None
        for digest, principal in digests:
            if hmac.compare_digest(digest, given):
                found = principal
        return found

    return authenticate


async def _ready() -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class HttpOptions:
    """Who may come in over HTTP, and with how much."""

    authenticate: Authenticate
    allowed_hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
    """Host names, with a port where only that one counts."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages that may call; none by default.  `null` is never one."""
    max_body: int = 8 * 1024 * 1024
    """Bytes of a request: a file of 5 MB in base64, and room around it."""
    max_api_body: int = 64 * 1024 * 1024
    """Bytes of a request below `/v1/`: an upload, or pictures in base64."""
    head_deadline: float = 20.0
    """Seconds in which the head of a request has to arrive on an open connection."""
    ready: Callable[[], Awaitable[str]] = _ready
    """Why no work can be taken now; empty: it can."""
    retry_ms: int | None = None
    """What handshake-era clients are told to wait before they reconnect."""


@dataclass(slots=True)
class Inflight:
    """Requests that are being answered, standing `GET` streams not counted."""

    count: int = 0
    idle: anyio.Event = field(default_factory=anyio.Event)

    def enter(self) -> None:
        self.count += 1

    def leave(self) -> None:
        self.count -= 1
        if self.count == 0:
            self.idle.set()
            self.idle = anyio.Event()


class Gate:
    """ASGI middleware before every route: Host, origin, shutdown, key, body limit, in this
    order.  What it refuses, no handler sees."""

    def __init__(
        self, app: ASGIApp, *, options: HttpOptions, stopping: Callable[[], bool], seen: Inflight
    ) -> None:
        self._app = app
        self._options = options
        self._stopping = stopping
        self._inflight = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no face speaks WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope)
        refusal = self._foreign(headers) or await self._unknown(scope, headers)
        if refusal is not None:
            await _in_the_words_of(scope, refusal)(scope, receive, send)
            return
        await self._serve(scope, receive, send)

    def _foreign(self, headers: Headers) -> JSONResponse | None:
        """A Host or origin that is not allowed: a web page, perhaps through DNS rebinding."""
        hosts = headers.all("host")
        if len(hosts) != 1 or not _listed(hosts[0], self._options.allowed_hosts):
            return error_response(421, "This host name is not served. Add it to `allowed_hosts`.")
        for origin in headers.all("origin"):
            if origin == "null" or origin not in self._options.allowed_origins:
                return error_response(403, "Web pages may not call this server.")
        site = headers.one("sec-fetch-site")
        if site in ("cross-site", "same-site") and not headers.all("origin"):
            return error_response(403, "Web pages may not call this server.")
        return None

    async def _unknown(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        if scope["path"] in OPEN_PATHS:
            return None
        if self._stopping():
            return error_response(503, "The server is stopping.", {"Retry-After": "5"})
        if scope["path"].startswith(SIGNED_PATHS) and scope["method"] in ("GET", "HEAD"):
            return None
        principal = await self._principal(scope, headers)
        if principal is None:
            challenge = {"WWW-Authenticate": 'Bearer realm="lap-mcp"'}
            return error_response(401, "A key is needed: `Authorization: Bearer KEY`.", challenge)
        sdk.authenticate(scope, principal)
        return None

    async def _principal(self, scope: Scope, headers: Headers) -> Principal | None:
        token = _token(headers, scope)
        if not token:
            return None
        found = self._options.authenticate(token)
        return await found if inspect.isawaitable(found) else found

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        self._inflight.enter()
        try:
            most = self._options.max_api_body if _is_api(scope) else self._options.max_body
            body = await _body(Headers(scope), receive, most)
            if isinstance(body, JSONResponse):
                await _in_the_words_of(scope, body)(scope, receive, send)
            else:
                await self._app(scope, _replayed(body, receive), send)
        finally:
            self._inflight.leave()


def _token(headers: Headers, scope: Scope) -> str:
    """The one key that a request shows; Anthropic's clients have a header of their own for it."""
    given, keys_given = headers.all("authorization"), headers.all("x-api-key")
    if not given and len(keys_given) == 1 and _is_anthropic(scope):
        return keys_given[0].strip()
    if len(given) != 1:
        return ""
    scheme, _, token = given[0].partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _is_api(scope: Scope) -> bool:
    return str(scope["path"]).startswith("/v1/")


def _is_anthropic(scope: Scope) -> bool:
    """Whether the client speaks Anthropic's API: by its path, or by the header that such clients
    always send."""
    if not _is_api(scope):
        return False
    path = str(scope["path"])
    messages = path == "/v1/messages" or path.startswith("/v1/messages/")
    return messages or bool(Headers(scope).all("anthropic-version"))


def _in_the_words_of(scope: Scope, refusal: JSONResponse) -> JSONResponse:
    """Clients of `/v1/` read an error's words from an object."""
    if not _is_api(scope):
        return refusal
    message = json.loads(bytes(refusal.body))["error"]
    kept = {k: v for k, v in refusal.headers.items() if k not in ("content-length", "content-type")}
    if _is_anthropic(scope):
        status = refusal.status_code
        kind = _ANTHROPIC.get(status, "api_error" if status >= 500 else "invalid_request_error")
        body = {"type": "error", "error": {"type": kind, "message": message}}
        return JSONResponse(body, status, headers=kept)
    kind = "server_error" if refusal.status_code >= 500 else "invalid_request_error"
    code = "invalid_api_key" if refusal.status_code == 401 else None
    told = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return JSONResponse(told, refusal.status_code, headers=kept)


class Headers:
    """Request headers, by lower-case name."""

    def __init__(self, scope: Scope) -> None:
        self._pairs: Sequence[tuple[bytes, bytes]] = scope["headers"]

    def all(self, name: str) -> list[str]:
        wanted = name.encode()
        return [value.decode("latin-1") for key, value in self._pairs if key.lower() == wanted]

    def one(self, name: str) -> str:
        return next(iter(self.all(name)), "")


def _listed(host: str, allowed: Sequence[str]) -> bool:
    host = host.lower()
    name = host
    if ":" in host and not host.endswith("]"):
        name, _, port = host.rpartition(":")
        if not port.isdecimal():
            return False
    return host in allowed or name in allowed


async def _body(headers: Headers, receive: Receive, limit: int) -> bytes | JSONResponse:
    """The whole body, or why it is not taken."""
    too_large = error_response(413, f"A request may have at most {limit} bytes.")
    declared = headers.one("content-length")
    if declared and (not declared.isdecimal() or int(declared) > limit):
        return too_large
    parts: list[bytes] = []
    size = 0
    with anyio.move_on_after(_BODY_DEADLINE):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return error_response(400, "The request ended early.")
            size += len(message.get("body", b""))
            if size > limit:
                return too_large
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                return b"".join(parts)
    return error_response(408, f"The request's body did not arrive in {_BODY_DEADLINE:g} s.")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then what comes after it."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def error_response(
    status: int, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers=dict(headers or {}))
