"""The connections of one MCP runtime: one that all calls share in the 2026-07-28 era; in the
handshake's, one for each call that runs, kept for the next."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from lap_runtimes.mcp_client import Connection

MAX_IDLE = 4
"""Connections of the handshake's era that are kept."""


class Pool:
    """`make` starts a connection, which has `seconds` to open."""

    def __init__(
        self, make: Callable[[], Awaitable[Connection]], seconds: float, one_each: bool
    ) -> None:
        self._new = make
        self._seconds = seconds
        self._one_each = one_each
        """Known to be of the handshake's era."""
        self._connecting = anyio.Lock()
        self._connections: list[Connection] = []

    async def aclose(self) -> None:
        connections, self._connections = self._connections, []
        async with anyio.create_task_group() as tasks:
            for connection in connections:
                tasks.start_soon(connection.aclose)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        """A connection that may carry one more call."""
        connection = await self._free()
        try:
            yield connection
        finally:
            if connection.lost or not (connection.modern or self._may_keep(connection)):
                await self._drop(connection)

    async def _free(self) -> Connection:
        async with self._connecting:
            for connection in list(self._connections):
                if connection.lost:
                    await self._drop(connection)
                elif connection.modern or not connection.busy:
                    connection.busy = True
                    return connection
            if not self._one_each:
                return await self._more()
        return await self._more()

    async def _more(self) -> Connection:
        """Another connection.  Until the era is known, one is made at a time: it may be shared."""
        connection = await self._new()
        try:
            await connection.opened(self._seconds)
        except BaseException:
            await connection.aclose()
            raise
        connection.busy = True
        self._one_each = not connection.modern
        self._connections.append(connection)
        return connection

    def _may_keep(self, connection: Connection) -> bool:
        connection.busy = False
        idle = sum(not each.busy for each in self._connections)
        return connection in self._connections and idle <= MAX_IDLE

    async def _drop(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
        await connection.aclose()
