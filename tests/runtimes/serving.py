"""Real servers on loopback for a test, and a proxy between that cuts or stalls connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

STOP_SECONDS = 10.0


def listening() -> socket.socket:
    """A listener on a free port of loopback."""
    return socket.create_server(("127.0.0.1", 0))


def address(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def serving(app: Any, listener: socket.socket | None = None) -> Iterator[str]:
    """Serve an ASGI application from a thread of its own; its address."""
    bound = listener or listening()
    config = uvicorn.Config(
        app, log_level="critical", lifespan="auto", timeout_graceful_shutdown=1, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        yield address(bound)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(STOP_SECONDS)
        bound.close()
        assert not thread.is_alive(), "the test's server did not stop"


class Proxy:
    """Forwards TCP to one port.  `cut` drops every connection that is open now; while `stalled`,
    nothing more comes back from the server, and what has come waits."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._changed = asyncio.Condition()
        self.open = 0
        """Connections that a client holds now."""
        self.accepted = 0

    def cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def stall(self) -> None:
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    async def until_closed(self) -> None:
        """Return when no client holds a connection."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.open == 0)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.accepted += 1
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
            self._writers.add(back)
            down = asyncio.ensure_future(self._copy(there, writer, held=True))
            try:
                await self._copy(reader, back, held=False)
            finally:
                back.transport.abort()
                self._writers.discard(back)
                down.cancel()
                await asyncio.gather(down, return_exceptions=True)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self.open -= 1
            async with self._changed:
                self._changed.notify_all()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, held: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if held:
                    await self._flowing.wait()
                writer.write(data)
                await writer.drain()
            if held:
                writer.close()


@asynccontextmanager
async def proxied(target: str, listener: socket.socket) -> AsyncIterator[Proxy]:
    """A proxy that listens on `listener` and forwards to the address `target`."""
    proxy = Proxy(int(target.rsplit(":", 1)[1]))
    running: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(proxy.handle(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_server(accept, sock=listener)
    try:
        yield proxy
    finally:
        server.close()
        proxy.flow()
        proxy.cut()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
