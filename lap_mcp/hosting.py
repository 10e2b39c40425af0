"""Runs faces in this process: MCP on stdio, and everything on HTTP.

Services are opened at the first request that needs them, by one task that also closes them: the
tasks of requests come and go.
"""

from __future__ import annotations

import errno
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from lap_mcp.app import VERSION, Program, Running, open_parts, open_services
from lap_mcp.config import Config, ConfigFaults
from lap_mcp.control.services import Services
from lap_mcp.errors import ConfigError, LapError, Unavailable
from lap_mcp.mcp_server.face import Face
from lap_mcp.mcp_server.options import FaceOptions
from lap_mcp.mcp_server.stdio import Wire, run_stdio
from lap_mcp.model import LOCAL, Principal

if TYPE_CHECKING:
    from lap_mcp.anthropic_front.front import AnthropicFront
    from lap_mcp.control.signed_links import SignedLinks
    from lap_mcp.gate import Authenticate
    from lap_mcp.openai_front.front import OpenAIFront

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 15.0
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

Open = Callable[[], AbstractAsyncContextManager[Running]]


class _Attempt:
    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error: LapError | None = None


class ServiceOwner:
    """Opens services when they are first asked for, and closes them at the end."""

    def __init__(self, open_: Open) -> None:
        self._open = open_
        self._running: Running | None = None
        self._attempt: _Attempt | None = None
        self._wake = anyio.Event()
        self._ending = False
        self.closed = anyio.Event()

    async def services(self) -> Services:
        """Raises: LapError, if they cannot be opened; asked again, it is tried again."""
        if self._running is None and not self._ending:
            attempt = self._attempt
            if attempt is None:
                attempt = self._attempt = _Attempt()
                self._wake.set()
            await attempt.done.wait()
            if attempt.error is not None:
                raise attempt.error
        if self._running is None or self._ending:
            raise Unavailable("The server is stopping.")
        return self._running.services

    async def run(self) -> None:
        """Until `end`."""
        try:
            while not self._ending:
                await self._wake.wait()
                self._wake = anyio.Event()
                if self._attempt is not None and not self._ending:
                    await self._hold(self._attempt)
        finally:
            if self._attempt is not None:
                self._attempt.done.set()
            self.closed.set()

    async def _hold(self, attempt: _Attempt) -> None:
        """Boundary: what breaks while services open, or while they run, is logged and told to
        whoever waits; the next request opens them again."""
        try:
            async with self._open() as running:
                self._running = running
                # What is loaded by now stays: to look at it again and again took the collector a
                # tenth of a turn's CPU time.
                gc.freeze()
                attempt.done.set()
                await self._wake.wait()
        except LapError as error:
            attempt.error = error
        except Exception:
            logger.exception("the services broke")
            attempt.error = Unavailable("The server broke.", remedy="Its log on stderr says why.")
        finally:
            self._running = None
            self._attempt = None
            attempt.done.set()

    def end(self) -> None:
        """Begin to close; `closed` is set when that is done."""
        self._ending = True
        self._wake.set()


@asynccontextmanager
async def owned(open_: Open) -> AsyncIterator[ServiceOwner]:
    """An owner whose services are closed, within a deadline, when the block is left."""
    owner = ServiceOwner(open_)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(owner.run)
        try:
            yield owner
        finally:
            owner.end()
            with anyio.move_on_after(CLOSE_SECONDS, shield=True) as scope:
                await owner.closed.wait()
            if scope.cancelled_caught:
                logger.error("the services did not close in time")
            tasks.cancel_scope.cancel()


def face_options(
    config: Config,
    program: Program,
    *,
    http: bool = False,
    link: Callable[[str, str], str] | None = None,
) -> FaceOptions:
    return FaceOptions(
        version=VERSION,
        toolsets=config.mcp.toolsets,
        read_only=config.mcp.read_only,
        max_agent_tools=config.mcp.max_agent_tools,
        transport="http" if http else "stdio",
        link=link,
    )


async def serve_stdio(program: Program, config: Config, wire: Wire) -> int:
    """The MCP face on stdin and stdout, until stdin ends or a signal comes.

    Returns the number of that signal, or 0.
    """

    def opened() -> AbstractAsyncContextManager[Running]:
        return open_services(program, config, lenient=True, server=True)

    received = 0
    async with anyio.create_task_group() as tasks:
        async with owned(opened) as owner:
            face = Face(owner.services, face_options(config, program))
            with anyio.CancelScope() as serving:

                async def on_signal() -> None:
                    nonlocal received
                    received = await _signal()
                    face.stop()
                    serving.cancel()

                tasks.start_soon(on_signal)
                await run_stdio(face, wire)
        tasks.cancel_scope.cancel()
    return received


async def _signal() -> int:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            return number
    return 0


async def _validate(program: Program, config: Config) -> None:
    """Raises: ConfigFaults, if a runtime's table is wrong or a name is refused."""
    async with open_parts(program, config, lenient=False, shared=True) as parts:
        await parts.registry.connections.validate()
        parts.registry.refreshed()
        faults = [
            ConfigError(problem.message, file=problem.where, remedy=problem.remedy)
            for problem in parts.registry.faults()
        ]
    if faults:
        raise ConfigFaults(tuple(faults))


async def serve_http(
    program: Program, config: Config, key: str, on_ready: Callable[[str], None]
) -> None:
    """Every HTTP face, until SIGTERM or SIGINT.  `on_ready` gets the address of `/mcp`.

    Whoever holds the key of this `LAP_HOME` is its owner, the same principal as on stdio.

    Raises:
        ConfigError, StoreError: something it needs is wrong.
        Unavailable: the address is taken.
    """
    from lap_mcp.downloads import download_route
    from lap_mcp.web import HttpOptions, build_app, serve

    def opened() -> AbstractAsyncContextManager[Running]:
        return open_services(program, config, server=True, shared=True)

    await _validate(program, config)
    sock, here = _listen(config)  # before what takes long: the port may be taken
    async with AsyncExitStack() as stack:
        stack.callback(sock.close)
        owner = await stack.enter_async_context(owned(opened))
        services = await owner.services()

        async def ready() -> str:
            try:
                await services.sessions.list(LOCAL, limit=1)
            except LapError as error:
                logger.warning("not ready: %s", error)
                # Anybody may ask, without a key: no words on what stands where on this machine.
                return "The store cannot be used; the log on stderr says why."
            return ""

        options = HttpOptions(
            authenticate=_callers(config, key, services),
            allowed_hosts=_hosts(config),
            allowed_origins=tuple(
                origin.lower().rstrip("/") for origin in config.server.allowed_origins
            ),
            ready=ready,
        )
        links = await anyio.to_thread.run_sync(_signed_links, config, here)
        face = Face(owner.services, face_options(config, program, http=True, link=links.link))
        fronts = _fronts(owner.services, config)
        routes = [download_route(links), *(route for front in fronts for route in front.routes)]
        http = build_app(face, options, routes, running=_both(fronts))
        on_ready(f"{here}/mcp")
        await serve(http, [sock])


def _callers(config: Config, key: str, services: Services) -> Authenticate:
    """The owner by the key of this `LAP_HOME`; an agent whose turn runs, by its credential."""
    from lap_mcp.control.nested import PREFIX, Nested
    from lap_mcp.gate import keys

    owner, nested = keys({key: LOCAL}), Nested.of_home(config.home)

    def authenticate(token: str) -> Principal | None | Awaitable[Principal | None]:
        if token.startswith(PREFIX):
            return nested.principal(token, services.sessions)
        return owner(token)

    return authenticate


def _fronts(
    services: Callable[[], Awaitable[Services]], config: Config
) -> tuple[AnthropicFront, OpenAIFront]:
    """The doors for clients of models' vendors; the first has routes that the other one shares."""
    from lap_mcp.anthropic_front.front import AnthropicFront
    from lap_mcp.openai_front.front import OpenAIFront

    tables = config.models.items()
    messages = {name: table for name, table in tables if table.api == "anthropic"}
    others = {name: table for name, table in tables if table.api != "anthropic"}
    return (
        AnthropicFront(services, messages, config.anthropic),
        OpenAIFront(services, others, config.openai),
    )


def _both(
    fronts: tuple[AnthropicFront, OpenAIFront],
) -> Callable[[], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        async with fronts[0].running(), fronts[1].running():
            yield

    return running


def _hosts(config: Config) -> tuple[str, ...]:
    """The names that are served.  The address itself is one of them: if others reach it, the
    operator had to list names, and has none to spare."""
    host = _in_brackets(config.server.host)
    own = () if _is_any(host) else (host,)
    return (*LOOPBACK, *own, *(name.lower() for name in config.server.allowed_hosts))


def _in_brackets(host: str) -> str:
    """As it stands in an address."""
    bare = host.strip("[]").lower()
    return f"[{bare}]" if ":" in bare else bare


def _is_any(host: str) -> bool:
    """Whether this stands for every address of the machine, and is the name of none."""
    return host in ("0.0.0.0", "[::]")


def _listen(config: Config) -> tuple[socket.socket, str]:
    """A socket that listens, and where clients reach it.  Raises: Unavailable."""
    from lap_mcp.web import listen

    server, host = config.server, _in_brackets(config.server.host)
    try:
        sock = listen(host, server.port)
    except OSError as exc:
        words = (exc.strerror or str(exc)).lower()
        raise Unavailable(
            f"Nothing can listen on {server.host} port {server.port}: {words}.",
            remedy=_LISTEN_REMEDIES.get(exc.errno or 0, "Give another --host or --port."),
        ) from exc
    if server.public_url:
        return sock, server.public_url.rstrip("/")
    if _is_any(host) and server.allowed_hosts:
        host = server.allowed_hosts[0]
        if ":" in host.rpartition("]")[2]:  # with its own port
            return sock, f"http://{host}"
    return sock, f"http://{host}:{sock.getsockname()[1]}"


_LISTEN_REMEDIES = {
    errno.EADDRINUSE: "Stop what listens there, or give another --port.",
    errno.EACCES: "Give a --port from 1024 up.",
    errno.EADDRNOTAVAIL: "Give a --host that is an address of this machine.",
    socket.EAI_NONAME: "Give a --host that is an address of this machine.",
}
"""By the number of the error."""


def _signed_links(config: Config, here: str) -> SignedLinks:
    """Raises: ConfigError."""
    from lap_mcp.clock import SystemClock
    from lap_mcp.control.signed_links import SignedLinks, link_key
    from lap_mcp.sandbox_parts import sandbox_blobs

    return SignedLinks(sandbox_blobs(config.home), link_key(config.home), here, SystemClock())
