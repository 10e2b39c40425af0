"""The store's promises: its schema, its leases, its numbers, what it forgets; on both databases."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from lap_mcp.clock import new_id
from lap_mcp.errors import LeaseLost, NotFound, StoreError, StoreUncertain
from lap_mcp.model import Origin, Session
from lap_mcp.store import agents, commands, events, leases, owners, retention, turns
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.commands import Command
from lap_mcp.store.database import Database, open_database
from lap_mcp.store.events import NewEvent, Progress
from lap_mcp.store.leases import Lease
from lap_mcp.store.tables import metadata
from lap_mcp.store.turns import NewTurn
from tests.control.conftest import database, where

__all__ = ["database", "where"]

pytestmark = pytest.mark.anyio


def new_session(connection: Connection, now: float = 1.0) -> tuple[str, str]:
    """A session with one turn: (session id, turn id)."""
    session = Session(
        id=new_id("ses"),
        principal="local",
        agent="a",
        status="idle",
        created_at=now,
        updated_at=now,
    )
    turns.create_session(connection, session)
    turn = NewTurn(id=new_id("trn"), prompt="p", input=None, files=(), digest="d", origin=Origin())
    turns.queue(connection, session, turn, now)
    return session.id, turn.id


async def test_migrations_make_the_tables_that_queries_use(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        found = compare_metadata(MigrationContext.configure(connection), metadata)
        return [entry for entry in found if "alembic_version" not in str(entry)]

    assert await database.read(differences) == []


async def test_a_store_of_a_newer_version_is_refused_in_words(where: Path | str) -> None:
    opened = await open_database(where)
    await opened.write(
        lambda c: c.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    )
    await opened.aclose()

    with pytest.raises(StoreError, match="newer lap-mcp"):
        await open_database(where)


async def test_a_file_that_is_no_store_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "lap.db"
    path.write_bytes(b"not a database at all, but long enough to be read as a header" * 100)

    with pytest.raises(StoreError, match="not a lap-mcp store"):
        await open_database(path)


async def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        await open_database(tmp_path / "missing" / "lap.db")


async def test_a_lease_is_free_when_it_ran_out_or_its_holder_is_dead(database: Database) -> None:
    session, _ = await database.write(new_session)

    def take(owner: str, now: float, dead: tuple[str, ...] = ()) -> object:
        return database.write(lambda c: leases.take(c, session, owner, now, dead))

    assert isinstance(await take("one", 100.0), Lease)
    assert await take("two", 100.0 + leases.LEASE - 1) is None
    assert isinstance(await take("two", 100.0, ("one",)), Lease)
    assert isinstance(await take("three", 101.0 + leases.LEASE), Lease)


async def test_an_append_with_an_old_fencing_number_writes_nothing(database: Database) -> None:
    session, turn = await database.write(new_session)
    old = await database.write(lambda c: leases.take(c, session, "one", 100.0))
    new = await database.write(lambda c: leases.take(c, session, "two", 200.0))
    assert old is not None
    assert new is not None
    said = [NewEvent(type="agent.message", payload={"text": "x"})]

    with pytest.raises(LeaseLost):
        await database.write(lambda c: events.append(c, old, turn, said, 201.0))
    (stored,) = await database.write(lambda c: events.append(c, new, turn, said, 202.0))

    assert stored.seq == 1
    assert len(await database.read(lambda c: events.read(c, session))) == 1


async def test_an_event_that_a_turn_has_is_not_stored_again_but_its_progress_is(
    database: Database,
) -> None:
    session, turn = await database.write(new_session)
    lease = await database.write(lambda c: leases.take(c, session, "one", 100.0))
    assert lease is not None
    said = NewEvent(type="agent.message", payload={"text": "x"}, native_id="m1")
    other = replace(said, type="agent.thinking")

    first = await database.write(lambda c: events.append(c, lease, turn, [said, other, said], 1.0))
    again = await database.write(
        lambda c: events.append(c, lease, turn, [said], 2.0, Progress(ref={"run": 7}, cursor="c9"))
    )

    assert [event.seq for event in first] == [1, 2]
    assert again == []
    record = await database.read(lambda c: turns.record(c, turn))
    assert (record.ref, record.cursor) == ({"run": 7}, "c9")


async def test_a_command_is_taken_once_by_the_holder_of_the_lease(database: Database) -> None:
    session, _ = await database.write(new_session)
    await database.write(lambda c: leases.take(c, session, "one", 100.0))
    await database.write(lambda c: commands.give(c, Command(session, "cancel", {}), 1.0))

    assert await database.write(lambda c: commands.take(c, "two", [session])) == []
    assert await database.write(lambda c: commands.take(c, "one", [])) == []
    assert len(await database.write(lambda c: commands.take(c, "one", [session]))) == 1
    assert await database.write(lambda c: commands.take(c, "one", [session])) == []


async def test_the_change_token_differs_after_another_connection_wrote(
    where: Path | str, database: Database
) -> None:
    other = await open_database(where)
    before = await database.token()
    same = await database.token()
    await other.write(new_session)
    after = await database.token()
    await other.aclose()

    assert before == same
    assert after != before


def test_a_process_that_ended_is_seen_as_gone_and_this_one_is_not() -> None:
    me = owners.this_process("own_1")

    assert not owners.gone(me)
    assert owners.gone(replace(me, pid=2**22 + 1))
    assert owners.gone(replace(me, started="1"))
    assert not owners.gone(replace(me, host="elsewhere", pid=2**22 + 1))


async def test_an_owner_of_long_ago_is_forgotten_wherever_it_was(database: Database) -> None:
    def query(connection: Connection) -> list[str]:
        for name, since in (("own_old", 10.0), ("own_new", 1000.0)):
            owner = owners.Owner(name, "elsewhere", 1, "1")
            owners.register(connection, owner, since)
        owners.sweep(connection, [], before=100.0)
        return [owner.id for owner in owners.everybody(connection)]

    assert await database.write(query) == ["own_new"]


async def test_a_name_of_the_catalogue_belongs_to_one_agent(database: Database) -> None:
    from lap_mcp.errors import Conflict

    row = {"name": "a", "runtime": "r", "ref": "1", "source": "store"}
    await database.write(lambda c: agents.save(c, row))
    before = await database.read(agents.revision)

    with pytest.raises(Conflict):
        await database.write(lambda c: agents.save(c, {**row, "ref": "2"}))
    with pytest.raises(Conflict):
        await database.write(lambda c: agents.save(c, {**row, "name": "b"}))
    await database.write(lambda c: agents.save(c, {**row, "extra": 1}))

    assert await database.read(agents.rows) == [{**row, "extra": 1}]
    assert await database.read(agents.revision) == before + 1


async def test_old_sessions_are_forgotten_and_those_in_use_are_not(database: Database) -> None:
    old, _ = await database.write(lambda c: new_session(c, now=10.0))
    new, _ = await database.write(lambda c: new_session(c, now=1000.0))
    held, _ = await database.write(lambda c: new_session(c, now=10.0))
    await database.write(lambda c: leases.take(c, held, "one", 100.0))

    assert await database.write(lambda c: retention.forget_sessions(c, 500.0)) == 1

    with pytest.raises(NotFound):
        await database.read(lambda c: turns.find_session(c, "local", old))
    for kept in (new, held):
        await database.read(lambda c, kept=kept: turns.find_session(c, "local", kept))


async def test_bytes_are_kept_once_and_dropped_when_old_and_unnamed(
    tmp_path: Path, database: Database
) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    first = await blobs.put(b"data")
    again = await blobs.put(b"data")
    os.utime(tmp_path / "blobs" / first, (1, 1))

    old = await blobs.old(time.time() - 60)
    unnamed = await database.read(lambda c: retention.unnamed(c, old))
    await blobs.discard(unnamed, time.time() - 60)

    assert first == again
    assert unnamed == [first]
    with pytest.raises(NotFound):
        await blobs.get(first)
    with pytest.raises(NotFound):
        await blobs.get("../../etc/passwd")


async def test_a_commit_that_breaks_off_is_told_as_that(where: Path | str) -> None:
    if isinstance(where, Path):
        pytest.skip("SQLite's commits are calls in this process")
    address = sa.make_url(where).set(drivername="postgresql").render_as_string(hide_password=False)

    def terminate(pid: int) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(address)
            await connection.execute("SELECT pg_terminate_backend($1)", pid)
            await connection.close()

        thread = threading.Thread(target=asyncio.run, args=(run(),))
        thread.start()
        thread.join()

    def query(connection: Connection) -> None:
        new_session(connection)
        terminate(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())

    database = await open_database(where)
    with pytest.raises(StoreUncertain):
        await database.write(query)
    await database.aclose()
