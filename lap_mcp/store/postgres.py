"""PostgreSQL, for processes on several machines: transactions on the event loop, over a pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import anyio
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from lap_mcp.errors import StoreError, StoreUncertain

from .failures import BUSY_TIMEOUT, worded

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")

_ANSWER = 60.0
"""Seconds that a PostgreSQL server has for one statement."""
_SETTINGS = {
    "lock_timeout": f"{BUSY_TIMEOUT:.0f}s",
    "idle_in_transaction_session_timeout": f"{BUSY_TIMEOUT:.0f}s",
}
"""A process that is stopped in the middle of a transaction holds up others no longer than this."""


class Postgres:
    dialect = "postgresql"

    def __init__(self, url: str) -> None:
        # It brings SQLAlchemy's ORM along, which SQLite does without.
        from sqlalchemy.ext.asyncio import create_async_engine

        try:
            self._engine: AsyncEngine = create_async_engine(
                url,
                pool_size=5,
                max_overflow=10,
                pool_timeout=BUSY_TIMEOUT,
                pool_pre_ping=True,
                connect_args={
                    "timeout": BUSY_TIMEOUT,
                    "command_timeout": _ANSWER,
                    "server_settings": _SETTINGS,
                },
            )
        except (sa.exc.ArgumentError, ValueError):
            # Not chained: the words of the cause hold parts of the address, so of its password.
            raise StoreError(
                "The address of the PostgreSQL store cannot be read.",
                remedy="Write postgresql://user:password@host:5432/database, and %-encode what is "
                "special in the password.",
            ) from None
        except ModuleNotFoundError as error:
            raise StoreError(
                "PostgreSQL needs the asyncpg package.",
                remedy="Install it with: pip install 'lap-mcp[postgres]'",
            ) from error
        self._snapshots = self._engine.execution_options(isolation_level="REPEATABLE READ")

    async def write(self, query: Callable[[Connection], T], *, quick: bool = False) -> T:
        return await self._run(self._engine, query)

    async def read(self, query: Callable[[Connection], T], *, quick: bool = False) -> T:
        return await self._run(self._snapshots, query)

    async def _run(self, engine: AsyncEngine, query: Callable[[Connection], T]) -> T:
        committing = False
        try:
            # Cut off in the middle, it may be committed without its caller knowing.
            with anyio.CancelScope(shield=True):
                async with engine.begin() as connection:
                    found = await connection.run_sync(query)
                    committing = True
        except (SQLAlchemyError, OSError) as error:
            if committing:
                raise StoreUncertain(f"PostgreSQL broke off a commit: {error}") from error
            raise worded(error, "PostgreSQL") from error
        return found

    async def token(self) -> str:
        # Of the whole snapshot: its upper end alone does not move when an older transaction is
        # committed after a newer one.
        def newest(connection: Connection) -> str:
            return str(connection.execute(sa.text("SELECT pg_current_snapshot()::text")).scalar())

        return await self.read(newest)

    async def fill(self) -> None:
        """The pool opens connections when they are needed."""

    async def tidy(self) -> None:
        """The server does it."""

    async def aclose(self) -> None:
        await self._engine.dispose()
