"""Connections and transactions, and nothing about tables.

A query is a plain function over a SQLAlchemy `Connection`.  `Database.write` and `Database.read`
run one in a transaction: on SQLite in a thread, so that a whole transaction costs one hop; on
PostgreSQL on the event loop, through SQLAlchemy's bridge.  The same functions serve both.

What a turn writes is a handful of rows, and the hop to a thread and back costs three times that.
So a `quick` write is tried where it stands, without waiting for anybody: commits of SQLite's WAL do
not wait for the disk, and where another process holds the lock, the thread waits for it.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import sqlalchemy as sa
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from lap_mcp.errors import StoreError, StoreUncertain

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")
Query = Callable[[Connection], T]

SCHEMA = "0004"
"""The newest migration this program knows."""

BUSY_TIMEOUT = 10.0
"""Seconds to wait for another process's write transaction."""

_ANSWER = 60.0
"""Seconds that a PostgreSQL server has for one statement."""

_READERS = 4

_CHECKPOINTS = 64
"""Of so many quick writes one goes by the thread, whose connection is the one that copies the WAL
into the database when it has grown: that does wait for the disk."""

_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")


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
    return _SQLite(where) if isinstance(where, Path) else _Postgres(where)


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


class _Busy(Exception):
    """Another process writes."""


class _SQLite:
    """One writer connection a process; readers beside it.  Other processes do the same: WAL lets
    readers go on, `BEGIN IMMEDIATE` makes writers wait instead of failing half-way."""

    dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = _Lane(_sqlite_engine(path), "BEGIN IMMEDIATE", 1)
        self._quick_writer = _Lane(_sqlite_engine(path, patient=False), "BEGIN IMMEDIATE", 1)
        self._quick_reader = _Lane(_sqlite_engine(path, patient=False), "BEGIN", 1)
        self._quick_writes = 0
        self._reader = _Lane(_sqlite_engine(path), "BEGIN", _READERS)
        self._watch: sqlite3.Connection | None = None
        self._watch_slot = anyio.CapacityLimiter(1)

    async def write(self, query: Query[T], *, quick: bool = False) -> T:
        self._quick_writes += quick
        if quick and self._quick_writes % _CHECKPOINTS and self._writer.slots.available_tokens:
            with suppress(_Busy):
                return await self._at_once(self._quick_writer, query)
        return await anyio.to_thread.run_sync(
            self._run, self._writer, query, limiter=self._writer.slots
        )

    async def read(self, query: Query[T], *, quick: bool = False) -> T:
        if quick:
            with suppress(_Busy):
                return await self._at_once(self._quick_reader, query)
        return await anyio.to_thread.run_sync(
            self._run, self._reader, query, limiter=self._reader.slots
        )

    async def token(self) -> str:
        return await anyio.to_thread.run_sync(self._data_version, limiter=self._watch_slot)

    async def fill(self) -> None:
        await anyio.to_thread.run_sync(self._fill)

    async def aclose(self) -> None:
        await anyio.to_thread.run_sync(self._close)

    def _run(self, lane: _Lane, query: Query[T]) -> T:
        try:
            with lane.transaction() as connection:
                return query(connection)
        except (DBAPIError, sqlite3.Error) as error:
            raise _worded(error, str(self._path)) from error

    async def _at_once(self, lane: _Lane, query: Query[T]) -> T:
        """Raises: _Busy, where another process is in the way; StoreError."""
        try:
            found = self._run(lane, query)
        except StoreError as error:
            if _is_busy(error.__cause__):
                raise _Busy from error
            raise
        # What is done is done; but others shall have their turn too.
        await anyio.lowlevel.cancel_shielded_checkpoint()
        return found

    def _fill(self) -> None:
        try:
            for lane in (self._writer, self._quick_writer, self._quick_reader, self._reader):
                lane.fill()
        except (DBAPIError, sqlite3.Error) as error:
            raise _worded(error, str(self._path)) from error
        self._data_version()

    def _data_version(self) -> str:
        try:
            if self._watch is None:
                self._watch = sqlite3.connect(
                    self._path, check_same_thread=False, isolation_level=None
                )
            return str(self._watch.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as error:
            raise _worded(error, str(self._path)) from error

    def _close(self) -> None:
        self._writer.close()
        self._quick_writer.close()
        self._quick_reader.close()
        self._reader.close()
        if self._watch is not None:
            self._watch.close()


class _Lane:
    """Connections of one kind, kept open between transactions, which the driver begins and ends:
    SQLAlchemy's own way to a transaction and back costs as much as one."""

    def __init__(self, engine: sa.Engine, begin: str, size: int) -> None:
        self._engine = engine
        self._begin = begin
        self._size = size
        self._free: deque[Connection] = deque()
        self.slots = anyio.CapacityLimiter(size)

    def fill(self) -> None:
        """Open them all; nobody uses one yet."""
        while len(self._free) < self._size:
            self._free.append(self._engine.connect())

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        connection = self._free.pop() if self._free else self._engine.connect()
        driver: Any = connection.connection.driver_connection
        try:
            driver.execute(self._begin)
            yield connection
            driver.commit()
        except (SQLAlchemyError, sqlite3.Error) as error:
            if _is_busy(error):
                self._put_back(connection, driver)
            else:  # it may be the connection that is broken
                connection.invalidate()
                connection.close()
            raise
        except BaseException:
            self._put_back(connection, driver)
            raise
        self._put_back(connection, driver)

    def _put_back(self, connection: Connection, driver: Any) -> None:
        if connection.in_transaction():
            connection.rollback()  # for SQLAlchemy, which began one of its own with a statement
        driver.rollback()  # nothing, where there was a commit
        self._free.append(connection)

    def close(self) -> None:
        while self._free:
            self._free.pop().close()
        self._engine.dispose()


def _is_busy(error: BaseException | None) -> bool:
    """Another process is in the way."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(cause, "sqlite_errorname", "")).startswith(_BUSY)


def _sqlite_engine(path: Path, *, patient: bool = True) -> sa.Engine:
    """`patient`: it waits for other writers, and copies the WAL when that has grown."""
    engine = sa.create_engine(
        f"sqlite:///{path}",
        poolclass=sa.NullPool,  # they are kept open, see `_Lane`
        connect_args={"timeout": BUSY_TIMEOUT if patient else 0, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # `_Lane` says BEGIN, not the driver
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")
        if not patient:
            connection.execute("PRAGMA wal_autocheckpoint=0")

    return engine


_SETTINGS = {
    "lock_timeout": f"{BUSY_TIMEOUT:.0f}s",
    "idle_in_transaction_session_timeout": f"{BUSY_TIMEOUT:.0f}s",
}
"""A process that is stopped in the middle of a transaction holds up others no longer than this."""


class _Postgres:
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

    async def write(self, query: Query[T], *, quick: bool = False) -> T:
        return await self._run(self._engine, query)

    async def read(self, query: Query[T], *, quick: bool = False) -> T:
        return await self._run(self._snapshots, query)

    async def _run(self, engine: AsyncEngine, query: Query[T]) -> T:
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
            raise _worded(error, "PostgreSQL") from error
        return found

    async def token(self) -> str:
        # Of the whole snapshot: its upper end alone does not move when an older transaction is
        # committed after a newer one.
        def newest(connection: Connection) -> str:
            return str(connection.execute(sa.text("SELECT pg_current_snapshot()::text")).scalar())

        return await self.read(newest)

    async def fill(self) -> None:
        """The pool opens connections when they are needed."""

    async def aclose(self) -> None:
        await self._engine.dispose()


def _worded(error: Exception, where: str) -> StoreError:
    cause = error.orig if isinstance(error, DBAPIError) else error
    text = str(cause)
    if "disk is full" in text or "No space left" in text:
        return StoreError(
            f"The disk that holds {where} is full; nothing was stored.",
            remedy="Free some room, then try again.",
        )
    if "readonly" in text or "unable to open" in text:
        return StoreError(
            f"{where} cannot be opened for writing ({text}).",
            remedy="Check the folder's owner and rights, or set LAP_HOME.",
        )
    if "database is locked" in text or "lock timeout" in text:
        return StoreError(
            f"{where} was locked by another process for {BUSY_TIMEOUT:.0f} s.",
            remedy="Look for a stopped lap-mcp process, then try again.",
        )
    if "not a database" in text or "malformed" in text:
        return StoreError(
            f"{where} is damaged or not a lap-mcp store ({text}).",
            remedy="Move it away and start again; sessions in it are lost to this server.",
        )
    return StoreError(f"The store failed ({where}): {text}")
