"""The HTTP face of this program: `/mcp`, `/healthz`, `/readyz`, serving it and ending it in order.

Who may come in is in `gate.py`.  Routes of other faces are given to `build_app`.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import Any, Final

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from lap_mcp.gate import Gate, HttpOptions, Inflight, error_response, keys
from lap_mcp.mcp_server import sdk
from lap_mcp.mcp_server.face import Face

__all__ = ["HttpFace", "HttpOptions", "build_app", "keys", "listen", "serve"]

Running = Callable[[], AbstractAsyncContextManager[None]]

_DRAIN: Final = 5.0
"""Seconds that running requests get at shutdown before standing streams are cut."""


class HttpFace:
    """The ASGI app and what `serve` needs to end it in order."""

    def __init__(
        self, face: Face, options: HttpOptions, routes: Sequence[BaseRoute], running: Running
    ) -> None:
        self.face = face
        self._running = running
        self.sessions = sdk.HttpSessions(
            face.server, max_body=options.max_body, retry_ms=options.retry_ms
        )
        self.inflight = Inflight()
        self.options = options
        self.app = Starlette(
            routes=[
                Route("/mcp", self.sessions),
                Route("/healthz", self._healthz, methods=["GET"]),
                Route("/readyz", self._readyz, methods=["GET"]),
                *routes,
            ],
            lifespan=self._lifespan,
        )
        self.app.add_middleware(
            Gate, options=options, stopping=lambda: face.stopping, seen=self.inflight
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with self.face.running(), self.sessions.running(), self._running():
            yield

    async def _healthz(self, _: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def _readyz(self, _: Request) -> JSONResponse:
        problem = "The server is stopping." if self.face.stopping else await self.options.ready()
        if problem:
            return error_response(503, problem)
        return JSONResponse({"status": "ready"})

    async def drain(self) -> None:
        """Let held calls answer, then cut what stands open."""
        self.face.stop()
        with anyio.move_on_after(_DRAIN):
            while self.inflight.count:
                await self.inflight.idle.wait()
        await self.sessions.end()


def build_app(
    face: Face,
    options: HttpOptions,
    routes: Sequence[BaseRoute] = (),
    *,
    running: Running = nullcontext,
) -> HttpFace:
    """The HTTP face; `.app` is the ASGI application, with a lifespan that has to be run.

    `routes` of other faces; `running`: their background work."""
    return HttpFace(face, options, routes, running)


class Impatient(H11Protocol):
    """A connection that is closed where the head of a request does not arrive in time: the server
    itself waits for ever, so that whoever can connect could hold all of them.

    By name, not by what is installed: the other implementation takes heads without a limit."""

    head_deadline = 20.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def _watch(self) -> None:
        if not self._waiting():
            self._forget()
        elif self._late is None:
            self._late = self.loop.call_later(self.head_deadline, self._give_up)

    def _waiting(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if self._waiting():
            self.transport.close()


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, drain: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        super().__init__(config)
        self._drain = drain

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Without raising them again at the end, which would end the process before what was
        opened around this is closed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ending = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in ending}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._drain)
            await super().shutdown(sockets)


async def serve(
    http: HttpFace, sockets: Sequence[socket.socket], *, app: ASGIApp | None = None
) -> None:
    """Serve on sockets that listen already, until SIGTERM or SIGINT; then end in order.

    A caller that is cancelled ends it too.  `app`: served instead of `http.app`, around it."""

    config = uvicorn.Config(
        app or http.app,
        http=type("Connection", (Impatient,), {"head_deadline": http.options.head_deadline}),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=int(_DRAIN) + 5,
    )
    server = _Server(config, http.drain)

    async def end_with_caller() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            server.should_exit = True

    async with anyio.create_task_group() as group:
        group.start_soon(end_with_caller)
        with anyio.CancelScope(shield=True):
            await server.serve(sockets=list(sockets))
        group.cancel_scope.cancel()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks one.  Raises: OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named: asyncio only then turns off Nagle's algorithm, which together with
    # delayed acknowledgements would cost 40 ms a call.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host.strip("[]"), port))
        sock.listen(512)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
