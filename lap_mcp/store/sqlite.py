"""SQLite: one writer a process, readers beside it, and whole transactions in a thread or at once.

What a turn writes is a handful of rows, and the hop to a thread and back costs three times that.
So a `quick` write is tried where it stands, without waiting for anybody: commits of SQLite's WAL do
not wait for the disk, and where another process holds the lock, the thread waits for it.  What does
wait for the disk, copying the WAL into the database, is put off for `tidy`.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import sqlalchemy as sa
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from lap_mcp.errors import StoreError

from .failures import BUSY_TIMEOUT, worded

T = TypeVar("T")

_READERS = 4
_UNTIDY = 64
"""Quick writes after which `tidy` has something to do …"""
_FAR_TOO_UNTIDY = 4096
"""… and after which a write goes by the thread, whose connection tidies up when the WAL has grown:
nobody seems to call `tidy`."""
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")


class _Busy(Exception):
    """Another process writes."""


class SQLite:
    """One writer connection a process; readers beside it.  Other processes do the same: WAL lets
    readers go on, `BEGIN IMMEDIATE` makes writers wait instead of failing half-way."""

    dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = _Lane(_sqlite_engine(path), "BEGIN IMMEDIATE", 1)
        self._quick_writer = _Lane(_sqlite_engine(path, patient=False), "BEGIN IMMEDIATE", 1)
        self._quick_reader = _Lane(_sqlite_engine(path, patient=False), "BEGIN", 1)
        self._untidy = 0
        self._reader = _Lane(_sqlite_engine(path), "BEGIN", _READERS)
        self._watch: sqlite3.Connection | None = None
        self._watch_slot = anyio.CapacityLimiter(1)
        self._tidier: sqlite3.Connection | None = None
        self._tidy_slot = anyio.CapacityLimiter(1)

    async def write(self, query: Callable[[Connection], T], *, quick: bool = False) -> T:
        self._untidy += quick
        far_too_untidy = self._untidy >= _FAR_TOO_UNTIDY
        if quick and not far_too_untidy and self._writer.slots.available_tokens:
            with suppress(_Busy):
                return await self._at_once(self._quick_writer, query)
        if far_too_untidy:
            self._untidy = 0
        return await anyio.to_thread.run_sync(
            self._run, self._writer, query, limiter=self._writer.slots
        )

    async def read(self, query: Callable[[Connection], T], *, quick: bool = False) -> T:
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

    async def tidy(self) -> None:
        if self._untidy >= _UNTIDY:
            self._untidy = 0
            await anyio.to_thread.run_sync(self._checkpoint, limiter=self._tidy_slot)

    async def aclose(self) -> None:
        await anyio.to_thread.run_sync(self._close)

    def _run(self, lane: _Lane, query: Callable[[Connection], T]) -> T:
        try:
            with lane.transaction() as connection:
                return query(connection)
        except (DBAPIError, sqlite3.Error) as error:
            raise worded(error, str(self._path)) from error

    async def _at_once(self, lane: _Lane, query: Callable[[Connection], T]) -> T:
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
            raise worded(error, str(self._path)) from error
        self._data_version()

    def _data_version(self) -> str:
        try:
            if self._watch is None:
                self._watch = sqlite3.connect(
                    self._path, check_same_thread=False, isolation_level=None
                )
            return str(self._watch.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as error:
            raise worded(error, str(self._path)) from error

    def _checkpoint(self) -> None:
        """Copy the WAL into the database, beside those who write, and write its first frame anew:
        that one waits for the disk too."""
        try:
            if self._tidier is None:
                self._tidier = sqlite3.connect(
                    self._path, BUSY_TIMEOUT, check_same_thread=False, isolation_level=None
                )
                self._tidier.execute("PRAGMA synchronous=NORMAL")
            self._tidier.execute("PRAGMA wal_checkpoint(PASSIVE)")
            (version,) = self._tidier.execute("PRAGMA user_version").fetchone()
            self._tidier.execute(f"PRAGMA user_version={version}")
        except sqlite3.Error as error:
            raise worded(error, str(self._path)) from error

    def _close(self) -> None:
        self._writer.close()
        self._quick_writer.close()
        self._quick_reader.close()
        self._reader.close()
        for connection in (self._watch, self._tidier):
            if connection is not None:
                connection.close()


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
