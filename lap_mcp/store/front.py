"""Queries over what the front doors remember.  Every one is for a principal: what belongs to
somebody else is not there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from .codec import load
from .front_tables import calls, containers, files, responses

_BATCH = 200


def _text(value: Any) -> str:
    """JSON that every database can hold: what others sent may have half a character in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if text.isascii() or _holdable(text) else json.dumps(value, separators=(",", ":"))


def _holdable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _may_be(id_: str) -> bool:
    """Whether it may be an id at all: what clients send reaches no query otherwise."""
    return id_.isascii() and id_.isprintable() and len(id_) <= 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    id: str
    principal: str
    name: str
    memory: str
    """`1g`, `4g`, `16g`, `64g`."""
    minutes: int
    """Idle time after which it counts as expired."""
    created_at: float
    used_at: float

    def expired(self, now: float) -> bool:
        return now - self.used_at > self.minutes * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontFile:
    id: str
    principal: str
    container_id: str | None = None
    kind: Literal["upload", "file", "picture"] = "upload"
    path: str
    source: str = "user"
    purpose: str = ""
    upload_id: str | None = None
    """The upload that it is a copy of."""
    size: int
    sha256: str
    created_at: float
    expires_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    id: str
    principal: str
    container_id: str | None
    session_id: str | None = None
    response: Mapping[str, Any]
    given: Sequence[Any]
    history: Sequence[Any]
    created_at: float
    held_by: str | None = None
    """The process that runs it, while it runs in the background."""
    held_until: float | None = None
    """When it may be said that this process is gone, unless it puts that off."""

    @property
    def running(self) -> bool:
        return self.response.get("status") in ("queued", "in_progress")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageOf:
    """Which part of a list is wanted."""

    after: str | None = None
    limit: int = 20
    newest_first: bool = True


def add_container(connection: Connection, container: Container) -> None:
    connection.execute(containers.insert().values(**asdict(container)))


def container(connection: Connection, principal: str, id_: str) -> Container | None:
    if not _may_be(id_):
        return None
    query = sa.select(containers).where(containers.c.id == id_, containers.c.principal == principal)
    row = connection.execute(query).first()
    return None if row is None else Container(**row._mapping)


def touch_container(connection: Connection, id_: str, now: float) -> None:
    connection.execute(containers.update().where(containers.c.id == id_).values(used_at=now))


def delete_container(connection: Connection, principal: str, id_: str) -> bool:
    mine = sa.and_(containers.c.id == id_, containers.c.principal == principal)
    return connection.execute(containers.delete().where(mine)).rowcount > 0


def list_containers(
    connection: Connection, principal: str, page: PageOf, name: str | None = None
) -> Sequence[Container]:
    """One more than `page.limit`, if there are more."""
    query = sa.select(containers).where(containers.c.principal == principal)
    if name is not None:
        query = query.where(containers.c.name == name)
    rows = connection.execute(_paged(connection, query, containers, page))
    return [Container(**row._mapping) for row in rows]


def add_file(connection: Connection, file: FrontFile) -> None:
    connection.execute(files.insert().values(**asdict(file)))


def change_file(connection: Connection, id_: str, size: int, sha256: str, now: float) -> None:
    """Other bytes under the same id."""
    new = {"size": size, "sha256": sha256, "created_at": now}
    connection.execute(files.update().where(files.c.id == id_).values(**new))


def file(connection: Connection, principal: str, id_: str, container_id: str | None = None) -> (
    FrontFile | None
):  # fmt: skip
    """An upload, or with `container_id` a file of that container."""
    if not _may_be(id_):
        return None
    query = sa.select(files).where(
        files.c.id == id_,
        files.c.principal == principal,
        files.c.container_id.is_(None)
        if container_id is None
        else files.c.container_id == container_id,
    )
    row = connection.execute(query).first()
    return None if row is None else FrontFile(**row._mapping)


def any_file(connection: Connection, principal: str, id_: str) -> FrontFile | None:
    """An upload, or a file of whichever container."""
    query = sa.select(files).where(files.c.id == id_, files.c.principal == principal)
    row = connection.execute(query).first()
    return None if row is None else FrontFile(**row._mapping)


def delete_file(connection: Connection, id_: str) -> None:
    connection.execute(files.delete().where(files.c.id == id_))


def container_files(connection: Connection, container_id: str) -> Sequence[FrontFile]:
    """All of them, oldest first."""
    query = sa.select(files).where(files.c.container_id == container_id)
    rows = connection.execute(query.order_by(files.c.created_at, files.c.id))
    return [FrontFile(**row._mapping) for row in rows]


def list_files(
    connection: Connection,
    principal: str,
    page: PageOf,
    *,
    container_id: str | None = None,
    purpose: str | None = None,
) -> Sequence[FrontFile]:
    """One more than `page.limit`, if there are more."""
    query = sa.select(files).where(files.c.principal == principal)
    if container_id is None:
        query = query.where(files.c.container_id.is_(None))
    else:
        query = query.where(files.c.container_id == container_id)
    if purpose is not None:
        query = query.where(files.c.purpose == purpose)
    rows = connection.execute(_paged(connection, query, files, page))
    return [FrontFile(**row._mapping) for row in rows]


def _paged(
    connection: Connection, query: sa.Select[Any], table: sa.Table, page: PageOf
) -> sa.Select[Any]:
    order = (table.c.created_at, table.c.id)
    if page.after is not None and _may_be(page.after):
        mark = connection.execute(
            sa.select(*order).where(
                table.c.id == page.after,
            )
        ).first()
        if mark is not None:
            place, here = sa.tuple_(*order), sa.tuple_(*(sa.literal(each) for each in mark))
            query = query.where(place < here if page.newest_first else place > here)
    ordered = [each.desc() for each in order] if page.newest_first else list(order)
    return query.order_by(*ordered).limit(page.limit + 1)


def keep_response(connection: Connection, kept: StoredResponse, held_by: str | None = None) -> bool:
    """New, or in place of an earlier state of it.  `held_by`: only while that process holds it;
    else it is somebody else's by now, or deleted, and stays as it is: false."""
    values = {
        **asdict(kept),
        "response": _text(kept.response),
        "given": _text(list(kept.given)),
        "history": _text(list(kept.history)),
    }
    mine = _mine(kept.principal, kept.id, held_by)
    if connection.execute(responses.update().where(mine).values(**values)).rowcount:
        return True
    if held_by is None:
        connection.execute(responses.insert().values(**values))
    return held_by is None


def _mine(principal: str, id_: str, held_by: str | None) -> sa.ColumnElement[bool]:
    mine = sa.and_(responses.c.id == id_, responses.c.principal == principal)
    return mine if held_by is None else sa.and_(mine, responses.c.held_by == held_by)


def hold_response(
    connection: Connection, principal: str, id_: str, held_by: str, until: float
) -> bool:
    """Put off when its holder counts as gone; false where that holds it no longer."""
    changed = connection.execute(
        responses.update().where(_mine(principal, id_, held_by)).values(held_until=until)
    )
    return changed.rowcount > 0


def end_response(connection: Connection, found: StoredResponse, ended: Mapping[str, Any]) -> bool:
    """End it in place of its holder; false where it has changed since it was read."""
    held = responses.c.held_by, responses.c.held_until
    same = [column.is_not_distinct_from(value) for column, value in zip(
        held, (found.held_by, found.held_until), strict=True
    )]  # fmt: skip
    changed = connection.execute(
        responses.update()
        .where(_mine(found.principal, found.id, None), *same)
        .values(response=_text(ended), held_by=None, held_until=None)
    )
    return changed.rowcount > 0


def response(connection: Connection, principal: str, id_: str) -> StoredResponse | None:
    if not _may_be(id_):
        return None
    query = sa.select(responses).where(responses.c.id == id_, responses.c.principal == principal)
    row = connection.execute(query).first()
    if row is None:
        return None
    values = dict(row._mapping)
    for key in ("response", "given", "history"):
        values[key] = load(values[key])
    return StoredResponse(**values)


def delete_response(connection: Connection, principal: str, id_: str) -> bool:
    mine = sa.and_(responses.c.id == id_, responses.c.principal == principal)
    return connection.execute(responses.delete().where(mine)).rowcount > 0


def keep_calls(
    connection: Connection, principal: str, found: Mapping[str, Any], now: float
) -> None:
    ids = list(found)
    connection.execute(calls.delete().where(calls.c.principal == principal, calls.c.id.in_(ids)))
    connection.execute(
        calls.insert(),
        [
            {"id": id_, "principal": principal, "data": _text(data), "created_at": now}
            for id_, data in found.items()
        ],
    )


def known_calls(connection: Connection, principal: str, ids: Sequence[str]) -> Mapping[str, Any]:
    query = sa.select(calls.c.id, calls.c.data).where(
        calls.c.principal == principal, calls.c.id.in_([id_ for id_ in ids if _may_be(id_)])
    )
    return {row.id: load(row.data) for row in connection.execute(query)}


def forget(connection: Connection, before: float, now: float) -> int:
    """Drop what nobody used since `before`, and what has expired, a batch each; how many."""
    old = (
        (responses, responses.c.created_at < before),
        (calls, calls.c.created_at < before),
        (containers, containers.c.used_at < before),
        (files, files.c.expires_at < now),
    )
    dropped = 0
    for table, stale in old:
        batch = sa.select(table.c.id).where(stale).limit(_BATCH)
        dropped += connection.execute(table.delete().where(table.c.id.in_(batch), stale)).rowcount
    return dropped
