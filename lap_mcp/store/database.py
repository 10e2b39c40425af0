"""Connections and transactions, and nothing about tables.

A query is a plain function over a SQLAlchemy `Connection`.  `Database.write` and `Database.read`
run one in a transaction: on SQLite in a thread, so that a whole transaction costs one hop; on
PostgreSQL on the event loop, through SQLAlchemy's bridge.  The same functions serve both.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import anyio
import anyio.to_thread
import sqlalchemy as sa
from sqlalchemy import Connection

from lap_mcp.errors import StoreError

from .sqlite import SQLite

T = TypeVar("T")
Query = Callable[[Connection], T]

SCHEMA = "0004"
"""The newest migration this program knows."""


class Database(Protocol):
    dialect: str

    async def write(self, query: Query[T], *, quick: bool = False) -> T:
        """Run `query` in a transaction that sees the newest state and excludes other writers of
        the same rows.

        Args:
            quick: it touches a few rows only, whatever the store holds, so that on SQLite it may
                run on the event loop.  It may be run twice, the first time without effect.

        Raises:
            StoreError: locked for too long, disk full, connection lost.  Nothing was written.
            StoreUncertain: the connection was lost in the commit.
        """
        ...

    async def read(self, query: Query[T], *, quick: bool = False) -> T:
        """Run `query` on one consistent snapshot.  `quick`: as in `write`."""
        ...

    async def token(self) -> str:
        """Differs from an earlier one if another connection has committed since."""
        ...

    async def fill(self) -> None:
        """Open what is kept open, so that nobody waits for it later, and descriptors are stable."""
        ...

    async def tidy(self) -> None:
        """Do what was put off so that nobody waits for it.  To be called again and again, as long
        as something is written.  Raises: StoreError."""
        ...

    async def aclose(self) -> None: ...


async def open_database(where: Path | str) -> Database:
    """Open a store: a path is a SQLite file, a `postgresql+asyncpg://` address a server.

    Raises:
        StoreError: not reachable, not a database, or written by a newer version of this program.
    """
    # SQLAlchemy imports its dialect and looks at the path: file work, so not on the event loop.
    database: Database = await anyio.to_thread.run_sync(_made, where)
    try:
        await database.write(_migrate)
        await database.fill()
    except BaseException:
        with anyio.CancelScope(shield=True):
            await database.aclose()
        raise
    return database


def _made(where: Path | str) -> Database:
    if isinstance(where, Path):
        return SQLite(where)
    # It brings SQLAlchemy's ORM along, which SQLite does without.
    from .postgres import Postgres

    return Postgres(where)


def _migrate(connection: Connection) -> None:
    found = _schema(connection)
    if found == SCHEMA:
        return
    if found is not None and found > SCHEMA:
        raise StoreError(
            f"The store has schema {found}; this version of lap-mcp knows {SCHEMA}.",
            remedy="Install the newer lap-mcp again, or set LAP_HOME to another folder.",
        )
    # Alembic is a third of a second of imports that only a new or an old store needs.
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(7011305)"))
    config = Config()
    config.set_main_option("script_location", "lap_mcp.store:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _schema(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
