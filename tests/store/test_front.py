"""What the front doors remember, on both databases: whose it is, in pages, and forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import Connection

from lap_mcp.store import front, retention
from lap_mcp.store.database import Database
from lap_mcp.store.front import Container, FrontFile, PageOf, StoredResponse
from tests.control.conftest import database, where

__all__ = ["database", "where"]

pytestmark = pytest.mark.anyio


def container(number: int, principal: str = "alice", used_at: float = 5.0) -> Container:
    return Container(
        id=f"cntr_{number}",
        principal=principal,
        name=f"c{number}",
        memory="1g",
        minutes=20,
        created_at=float(number),
        used_at=used_at,
    )


def file(
    number: int, container_id: str | None = None, expires_at: float | None = None
) -> FrontFile:
    return FrontFile(
        id=f"file-{number}",
        principal="alice",
        container_id=container_id,
        kind="upload" if container_id is None else "file",
        path="a.csv",
        size=1,
        sha256=f"{number:064x}",
        created_at=float(number),
        expires_at=expires_at,
    )


def response(id_: str = "resp_1") -> StoredResponse:
    return StoredResponse(
        id=id_,
        principal="alice",
        container_id=None,
        response={"status": "queued", "odd": "\ud800 \u0000 \u00e4"},
        given=[{"a": 1}],
        history=[],
        created_at=1.0,
    )


async def test_lists_come_in_pages_in_both_orders(database: Database) -> None:
    def fill(connection: Connection) -> None:
        for number in range(5):
            front.add_container(connection, container(number))
        front.add_container(connection, container(9, "bob"))

    await database.write(fill)

    async def page(**options: object) -> Sequence[str]:
        wanted = PageOf(**options)  # type: ignore[arg-type]
        found = await database.read(lambda c: front.list_containers(c, "alice", wanted))
        return [each.id for each in found]

    assert await page(limit=2) == ["cntr_4", "cntr_3", "cntr_2"]
    assert await page(limit=2, after="cntr_3") == ["cntr_2", "cntr_1", "cntr_0"]
    assert await page(limit=9, after="cntr_3", newest_first=False) == ["cntr_4"]
    assert await page(limit=9, after="no\ud800ne") == [f"cntr_{n}" for n in (4, 3, 2, 1, 0)]


async def test_a_container_takes_its_files_with_it_and_belongs_to_one(database: Database) -> None:
    def run(connection: Connection) -> None:
        front.add_container(connection, container(1))
        front.add_file(connection, file(1, "cntr_1"))
        front.add_file(connection, file(2))
        assert front.container(connection, "bob", "cntr_1") is None
        assert front.file(connection, "alice", "file-1", "cntr_1") is not None
        assert front.file(connection, "alice", "file-1") is None
        assert front.file(connection, "bob", "file-2") is None
        assert not front.delete_container(connection, "bob", "cntr_1")
        assert front.delete_container(connection, "alice", "cntr_1")
        assert front.file(connection, "alice", "file-1", "cntr_1") is None
        assert front.file(connection, "alice", "file-2") is not None

    await database.write(run)


async def test_a_response_is_replaced_by_its_newer_state_whatever_text_is_in_it(
    database: Database,
) -> None:
    await database.write(lambda c: front.keep_response(c, response()))
    await database.write(lambda c: front.keep_response(c, response()))
    found = await database.read(lambda c: front.response(c, "alice", "resp_1"))
    assert found is not None
    assert found.response["odd"] == "\ud800 \u0000 \u00e4"
    for odd in ("resp\u0000", "\ud800", "x" * 500):
        assert await database.read(lambda c, odd=odd: front.response(c, "alice", odd)) is None  # type: ignore[misc]
        assert await database.read(lambda c, odd=odd: front.known_calls(c, "alice", [odd])) == {}  # type: ignore[misc]


async def test_what_nobody_used_is_forgotten_and_bytes_that_are_named_are_kept(
    database: Database, tmp_path: Path
) -> None:
    def fill(connection: Connection) -> None:
        front.add_container(connection, container(1, used_at=1.0))
        front.add_file(connection, file(1, "cntr_1"))
        front.add_container(connection, container(2, used_at=100.0))
        front.add_file(connection, file(2, "cntr_2"))
        front.add_file(connection, file(3, expires_at=40.0))
        front.keep_response(connection, response())
        front.keep_calls(connection, "alice", {"ci_1": [1]}, 1.0)

    await database.write(fill)
    hashes = [f"{number:064x}" for number in (1, 2, 3)]
    assert await database.read(lambda c: retention.unnamed(c, hashes)) == []
    dropped = await database.write(lambda c: front.forget(c, before=50.0, now=50.0))
    assert dropped == 4
    assert await database.read(lambda c: retention.unnamed(c, hashes)) == [hashes[0], hashes[2]]
    assert await database.read(lambda c: front.container(c, "alice", "cntr_2")) is not None
    assert await database.write(lambda c: front.forget(c, before=50.0, now=50.0)) == 0
