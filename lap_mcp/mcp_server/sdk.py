"""All that touches provisional or private parts of the MCP SDK (2.3), so that an update of the
SDK is an update of this file.

What it leans on, and why:
- `Server.middleware`, `RequestStateBoundary` (marked provisional) and its tracing middleware;
- `ctx.session._connection`: the only way to a connection that outlives its request, needed to
  push list changes to handshake-era clients and to know `Mcp-Session-Id`;
- `create_initialization_options`: the HTTP manager calls it without arguments, which would
  declare `listChanged: false`;
- a `dict` with its own `resultType` passes the modern wire unchanged: results of extensions;
- `StreamableHTTPSessionManager._admit_session`, for an event store per session (a shared one
  would replay one client's messages to another), and `_server_instances`, to end standing streams
  at shutdown;
- `AuthenticatedUser` in the ASGI scope binds a handshake-era HTTP session to its principal.
"""

from __future__ import annotations

import secrets
import weakref
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final

import mcp.types as t
from mcp.server import NotificationOptions, Server, ServerRequestContext
from mcp.server._otel import OpenTelemetryMiddleware
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, AuthorizationContext
from mcp.server.auth.provider import AccessToken
from mcp.server.context import CallNext, HandlerResult
from mcp.server.models import InitializationOptions
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.streamable_http import StreamableHTTPServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp.types import HEADER_MISMATCH, INVALID_PARAMS, MISSING_REQUIRED_CLIENT_CAPABILITY
from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider
from starlette.types import Receive, Scope, Send

from lap_mcp.model import LOCAL, SCOPE_KEY, Principal

from .event_store import Budget, SessionEvents
from .toolset import Caller

Ctx = ServerRequestContext[Any, Any]
TASKS_EXTENSION: Final = "io.modelcontextprotocol/tasks"
MODERN: Final = "2026-07-28"
_RESOURCE_NOT_FOUND: Final = -32002


@dataclass(slots=True)
class Link:
    """What outlives one request: a stdio stream pair, or the HTTP face as a whole.

    The SDK's lifespan yields one per `Server.run`, which is one per stdio connection."""

    id: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def scope(self) -> str:
        """Owner of the default sandbox of a stdio connection."""
        return f"stdio/{self.id}"


class LapServer(Server[Link]):
    """The SDK's low-level server, declaring list changes in the handshake era too."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        changes = NotificationOptions(
            tools_changed=True, prompts_changed=True, resources_changed=True
        )
        return super().create_initialization_options(
            notification_options or changes, experimental_capabilities, extensions
        )


def guard_request_state(server: LapServer, key: bytes | None) -> None:
    """Seal every `requestState` and refuse what was not sealed here, for this principal, tool and
    arguments."""
    security = RequestStateSecurity(
        keys=[key or secrets.token_bytes(32)],
        ttl=3600,
        bind_principal=lambda ctx: principal_of(ctx).id,
    )
    server.middleware.append(RequestStateBoundary(security, default_audience=server.name))


def trace_if_collected(server: LapServer) -> None:
    """Without the SDK's tracing where nobody collects spans, which it makes for every request."""
    if isinstance(get_tracer_provider(), ProxyTracerProvider):
        server.middleware[:] = [
            each for each in server.middleware if not isinstance(each, OpenTelemetryMiddleware)
        ]


def on_initialized(server: LapServer, callback: Callable[[Peer], None]) -> None:
    """Call back with every handshake-era connection once it may be written to."""

    async def middleware(ctx: Ctx, call_next: CallNext) -> HandlerResult:
        result = await call_next(ctx)
        if ctx.method == "notifications/initialized" and not is_modern(ctx):
            callback(Peer(ctx))
        return result

    server.middleware.append(middleware)


class Peer:
    """A handshake-era connection, to be told of changes after its request ended."""

    def __init__(self, ctx: Ctx) -> None:
        self._connection = ctx.session._connection
        self.principal = principal_of(ctx)
        self.session_id = self._connection.session_id
        self.scope = _scope(ctx, self.principal)

    @property
    def key(self) -> int:
        return id(self._connection)

    def on_close(self, callback: Callable[[], Awaitable[None]]) -> None:
        self._connection.exit_stack.push_async_callback(callback)

    async def tools_changed(self) -> None:
        await self._connection.send_tool_list_changed()

    async def prompts_changed(self) -> None:
        await self._connection.send_prompt_list_changed()

    async def resources_changed(self) -> None:
        await self._connection.send_resource_list_changed()

    async def resource_updated(self, uri: str) -> None:
        await self._connection.send_resource_updated(uri)


def is_modern(ctx: Ctx) -> bool:
    return ctx.protocol_version >= MODERN


def authenticate(scope: Any, principal: Principal) -> None:
    """Mark an ASGI request as this principal's, for us and for the SDK's session ownership."""
    scope[SCOPE_KEY] = principal
    token = AccessToken(token="", client_id=principal.id, scopes=[])
    scope["user"] = AuthenticatedUser(token)


def principal_of(ctx: Ctx) -> Principal:
    """Whose request this is.  Over HTTP only what `authenticate` marked is served."""
    if ctx.request is None:
        return LOCAL
    principal = ctx.request.scope.get(SCOPE_KEY)
    if not isinstance(principal, Principal):
        raise MCPError(code=t.INVALID_REQUEST, message="This request carries no principal.")
    return principal


def caller_of(ctx: Ctx) -> Caller:
    """Who calls and what the client can do."""
    principal = principal_of(ctx)
    capabilities = ctx.session.client_capabilities
    params = ctx.session.client_params
    elicitation = capabilities.elicitation if capabilities else None
    has_url = elicitation is not None and elicitation.url is not None
    # `elicitation: {}` means the form mode: the only one there was at first.
    has_form = elicitation is not None and (elicitation.form is not None or not has_url)
    return Caller(
        principal=principal,
        client=params.client_info.name if params else "",
        modern=is_modern(ctx),
        transport="stdio" if ctx.request is None else "http",
        scope=_scope(ctx, principal),
        tasks=has_tasks(ctx),
        elicit_form=has_form,
        elicit_url=has_url,
    )


def _scope(ctx: Ctx, principal: Principal) -> str | None:
    if ctx.request is None:
        return str(ctx.lifespan_context.scope)
    session_id = ctx.session._connection.session_id
    return f"{principal.id}/{session_id}" if session_id and not is_modern(ctx) else None


def has_tasks(ctx: Ctx) -> bool:
    capabilities = ctx.session.client_capabilities
    extensions = capabilities.extensions if capabilities else None
    return is_modern(ctx) and TASKS_EXTENSION in (extensions or {})


def tasks_required() -> MCPError:
    return MCPError(
        code=MISSING_REQUIRED_CLIENT_CAPABILITY,
        message="This needs a client that declares the tasks extension.",
        data={"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}},
    )


def check_name_header(ctx: Ctx, task_id: str) -> None:
    """Refuse a task request whose `Mcp-Name` header names another task (SEP-2663)."""
    header = ctx.request.headers.get(MCP_NAME_HEADER) if ctx.request is not None else None
    if header is not None and decode_header_value(header) != task_id:
        raise MCPError(code=HEADER_MISMATCH, message="The Mcp-Name header names another task.")


def invalid_params(message: str, data: Mapping[str, Any] | None = None) -> MCPError:
    return MCPError(code=INVALID_PARAMS, message=message, data=dict(data) if data else None)


def resource_not_found(ctx: Ctx, uri: str, message: str) -> MCPError:
    """`-32602` since 2026-07-28 (SEP-2164), `-32002` before."""
    code = INVALID_PARAMS if is_modern(ctx) else _RESOURCE_NOT_FOUND
    return MCPError(code=code, message=message, data={"uri": uri})


def wants_progress(ctx: Ctx) -> bool:
    return bool(ctx.meta and ctx.meta.get("progress_token") is not None)


class _Manager(StreamableHTTPSessionManager):
    """Gives every session its own store of events, and takes it back with the session."""

    def __init__(self, server: LapServer, *, max_body: int, retry_ms: int | None) -> None:
        super().__init__(app=server, retry_interval=retry_ms, max_request_body_size=max_body)
        self._budget = Budget()

    def _admit_session(
        self, requestor: AuthorizationContext | None
    ) -> StreamableHTTPServerTransport | None:
        store = SessionEvents(self._budget)
        self.event_store = store
        transport = super()._admit_session(requestor)
        if transport is not None:
            weakref.finalize(transport, store.close)
        return transport


class HttpSessions:
    """The SDK's streamable HTTP endpoint for one server, without its own Host, Origin and key
    checks: those are made before a request gets here, for all routes alike."""

    def __init__(self, server: LapServer, *, max_body: int, retry_ms: int | None) -> None:
        self._manager = _Manager(server, max_body=max_body, retry_ms=retry_ms)

    def running(self) -> AbstractAsyncContextManager[None]:
        return self._manager.run()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._manager.handle_request(scope, receive, send)

    @property
    def count(self) -> int:
        """Open handshake-era sessions."""
        return len(self._manager._server_instances)

    async def end(self) -> None:
        """End the handshake-era sessions, and so their standing streams."""
        for transport in list(self._manager._server_instances.values()):
            await transport.terminate()
