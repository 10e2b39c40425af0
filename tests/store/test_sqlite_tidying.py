"""Nobody waits while SQLite's WAL is copied into the database: `tidy` does it beside them."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection

from lap_mcp.store import sqlite as module
from lap_mcp.store.database import Database, open_database

pytestmark = pytest.mark.anyio

ROUNDS = 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lap.db"


async def opened(path: Path) -> Database:
    database = await open_database(path)
    await database.write(
        lambda connection: connection.exec_driver_sql("CREATE TABLE notes (text TEXT)")
    )
    return database


def wal(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


async def write(database: Database, times: int) -> None:
    def query(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO notes VALUES (?)", ("x" * 3000,))

    for _ in range(times):
        await database.write(query, quick=True)


async def test_the_wal_stays_small_and_nothing_is_lost(path: Path) -> None:
    database = await opened(path)
    try:
        sizes = []
        for _ in range(ROUNDS):
            await write(database, module._UNTIDY)
            await database.tidy()
            sizes.append(wal(path))
        count = await database.read(
            lambda connection: connection.exec_driver_sql("SELECT count(*) FROM notes").scalar()
        )
    finally:
        await database.aclose()

    assert count == ROUNDS * module._UNTIDY
    assert sizes[-1] <= 2 * sizes[0]


async def test_it_waits_until_there_is_something_to_do(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await opened(path)
    try:
        did: list[object] = []
        real = module.SQLite._checkpoint
        monkeypatch.setattr(
            module.SQLite, "_checkpoint", lambda self: (did.append(self), real(self))
        )
        await write(database, module._UNTIDY - 1)
        await database.tidy()
        assert not did
        await write(database, 1)
        await database.tidy()
        await database.tidy()
        assert len(did) == 1
    finally:
        await database.aclose()


async def test_where_nobody_tidies_a_write_does(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FAR_TOO_UNTIDY", 100)
    database = await opened(path)
    try:
        await write(database, 1000)
        first = wal(path)
        await write(database, 4000)
        assert wal(path) <= 2 * first
    finally:
        await database.aclose()


async def test_others_write_meanwhile(path: Path) -> None:
    database = await opened(path)
    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(write, database, 100)
            for _ in range(8):
                await database.tidy()
                await anyio.sleep(0.01)
        count = await database.read(
            lambda connection: connection.exec_driver_sql("SELECT count(*) FROM notes").scalar()
        )
        assert count == 400
    finally:
        await database.aclose()
