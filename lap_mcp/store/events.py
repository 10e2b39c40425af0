"""Events of sessions: appended under a lease, numbered without gaps, read from any number."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from lap_mcp.model import Delta, EventType, StoredEvent

from .codec import dump, load
from .leases import Lease, hold
from .statements import given, run, run_each, update_by_id
from .tables import events, open_messages, turns


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    type: EventType
    payload: Mapping[str, Any]
    native_id: str | None = None
    """With it, an event that this turn has already is not stored again."""
    closes: str | None = None
    """Id of the open message that this event finishes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What changes together with the events of one append."""

    ref: Mapping[str, Any] | None = None
    cursor: str | None = None
    status: str | None = None
    """New status of the session."""
    outcome: str | None = None
    """New outcome of the turn …"""
    error: str | None = None
    """… and its words."""
    phase: int | None = None
    """`turns.Phase` of the turn's current start."""
    first: bool = False
    """The turn begins with the first of these events."""
    turn: Mapping[str, Any] = field(default_factory=dict)
    """Other columns of the turn."""


@dataclass(slots=True)
class Memory:
    """What the driver of a turn knows of it without asking, having driven it from its first moment:
    nobody else writes these."""

    named: set[tuple[str, str]] = field(default_factory=set)
    """Type and native id of events that are stored."""
    checkpoints: bool = False
    """There may be some."""
    questions: bool = False
    """Likewise."""

    def stored(self, new: Sequence[NewEvent]) -> None:
        """To be called once their transaction is over."""
        self.named.update((event.type, event.native_id) for event in new if event.native_id)


_INSERT = events.insert()
_KNOWN = sa.select(events.c.type, events.c.native_id).where(
    events.c.turn_id == given(events.c.turn_id),
    events.c.native_id.in_(sa.bindparam("named", expanding=True)),
)
_CLOSE = open_messages.delete().where(
    open_messages.c.session_id == given(open_messages.c.session_id),
    open_messages.c.message_id.in_(sa.bindparam("named", expanding=True)),
)
_FORGET = open_messages.delete().where(
    open_messages.c.session_id == given(open_messages.c.session_id),
    open_messages.c.turn_id == given(open_messages.c.turn_id),
)
_CHECKPOINTS = (
    sa.select(open_messages)
    .where(open_messages.c.session_id == given(open_messages.c.session_id))
    .order_by(open_messages.c.message_id)
)


@functools.cache
def _reading(*, turn: bool, types: bool) -> sa.Select[Any]:
    query = (
        sa.select(events)
        .where(
            events.c.session_id == given(events.c.session_id),
            events.c.seq > sa.bindparam("after", type_=sa.BigInteger),
        )
        .order_by(events.c.seq)
        .limit(sa.bindparam("most", type_=sa.Integer))
    )
    if turn:
        query = query.where(events.c.turn_id == given(events.c.turn_id))
    if types:
        query = query.where(events.c.type.in_(sa.bindparam("types", expanding=True)))
    return query


def append(
    connection: Connection,
    lease: Lease,
    turn_id: str,
    new: Sequence[NewEvent],
    now: float,
    progress: Progress | None = None,
    memory: Memory | None = None,
) -> Sequence[StoredEvent]:
    """Append `new` and note `progress`, in this transaction or not at all.

    Raises:
        LeaseLost: another process drives the session; nothing was written.
    """
    progress = progress or Progress()
    fresh = _unknown(connection, turn_id, new, memory)
    changes: dict[str, Any] = {"updated_at": now}
    if progress.ref is not None:
        changes["ref"] = dump(progress.ref)
    if progress.status is not None:
        changes["status"] = progress.status
    row = hold(connection, lease, events=len(fresh), **changes)
    stored = insert(
        connection, lease.session_id, turn_id, fresh, now, after=row.last_seq - len(fresh)
    )
    if memory is None or memory.checkpoints:
        _close(connection, lease.session_id, [event.closes for event in new if event.closes])
    _note(connection, turn_id, stored, progress)
    return stored


def insert(
    connection: Connection,
    session_id: str,
    turn_id: str,
    new: Sequence[NewEvent],
    now: float,
    *,
    after: int,
) -> Sequence[StoredEvent]:
    """Store events under the numbers that follow `after`."""
    stored = [
        StoredEvent(
            session_id=session_id,
            seq=after + index,
            turn_id=turn_id,
            type=event.type,
            payload=event.payload,
            at=now,
        )
        for index, event in enumerate(new, start=1)
    ]
    if stored:
        rows = [_row(event, of) for event, of in zip(stored, new, strict=True)]
        run_each(connection, _INSERT, rows)
    return stored


def _unknown(
    connection: Connection, turn_id: str, new: Sequence[NewEvent], memory: Memory | None
) -> list[NewEvent]:
    named = [event.native_id for event in new if event.native_id]
    if not named:
        return list(new)
    seen: set[tuple[str, str]]
    if memory is not None:
        seen = set(memory.named)
    else:
        rows = run(connection, _KNOWN, {"given_turn_id": turn_id, "named": named})
        seen = {(row.type, row.native_id) for row in rows}
    fresh = []
    for event in new:
        if event.native_id is not None:
            key = (event.type, event.native_id)
            if key in seen:
                continue
            seen.add(key)
        fresh.append(event)
    return fresh


def _row(event: StoredEvent, new: NewEvent) -> dict[str, Any]:
    return {
        "session_id": event.session_id,
        "seq": event.seq,
        "turn_id": event.turn_id,
        "type": event.type,
        "native_id": new.native_id,
        "payload": dump(event.payload),
        "at": event.at,
    }


def _close(connection: Connection, session_id: str, message_ids: Sequence[str | None]) -> None:
    if message_ids:
        named = [name for name in message_ids if name]
        run(connection, _CLOSE, {"given_session_id": session_id, "named": named})


def _note(
    connection: Connection, turn_id: str, stored: Sequence[StoredEvent], progress: Progress
) -> None:
    changes: dict[str, Any] = {}
    if stored:
        changes["last_seq"] = stored[-1].seq
    if progress.cursor is not None:
        changes["cursor"] = progress.cursor
    if progress.outcome is not None:
        changes |= {"outcome": progress.outcome, "error": progress.error}
    if progress.phase is not None:
        changes["phase"] = progress.phase
    if progress.first and stored:
        changes["first_seq"] = stored[0].seq
    changes.update(progress.turn)
    if changes:
        new = {f"new_{name}": value for name, value in changes.items()}
        run(connection, update_by_id(turns, tuple(sorted(changes))), {"given_id": turn_id, **new})


def read(
    connection: Connection,
    session_id: str,
    *,
    after: int = 0,
    limit: int = 1000,
    turn_id: str | None = None,
    types: Sequence[str] = (),
) -> Sequence[StoredEvent]:
    query = _reading(turn=turn_id is not None, types=bool(types))
    asked: dict[str, Any] = {"given_session_id": session_id, "after": after, "most": limit}
    if turn_id is not None:
        asked["given_turn_id"] = turn_id
    if types:
        asked["types"] = list(types)
    return [_event(row) for row in run(connection, query, asked)]


def newest(
    connection: Connection,
    session_id: str,
    *,
    types: Sequence[str],
    limit: int,
    without: str,
) -> Sequence[StoredEvent]:
    """The last events of these types in their order, but for those of the turn `without`."""
    query = (
        sa.select(events)
        .where(
            events.c.session_id == session_id,
            events.c.type.in_(types),
            events.c.turn_id != without,
        )
        .order_by(events.c.seq.desc())
        .limit(limit)
    )
    return [_event(row) for row in reversed(connection.execute(query).all())]


def _event(row: sa.Row[Any]) -> StoredEvent:
    return StoredEvent(
        session_id=row.session_id,
        seq=row.seq,
        turn_id=row.turn_id,
        type=row.type,
        payload=load(row.payload),
        at=row.at,
    )


def has(connection: Connection, turn_id: str, type_: EventType, native_id: str) -> bool:
    """Whether the turn has this event."""
    rows = run(connection, _KNOWN, {"given_turn_id": turn_id, "named": [native_id]})
    return any(row.type == type_ for row in rows)


def checkpoint(connection: Connection, lease: Lease, open_: Sequence[Delta]) -> None:
    """Keep open messages for followers in other processes; each replaces its earlier state.

    Raises:
        LeaseLost
    """
    hold(connection, lease, fence=lease.fence)
    for delta in open_:
        key = (
            open_messages.c.session_id == delta.session_id,
            open_messages.c.message_id == delta.message_id,
        )
        found = connection.execute(
            open_messages.update().where(*key).values(text=delta.text, turn_id=delta.turn_id)
        )
        if found.rowcount == 0:
            connection.execute(
                open_messages.insert().values(
                    session_id=delta.session_id,
                    message_id=delta.message_id,
                    turn_id=delta.turn_id,
                    kind=delta.kind,
                    text=delta.text,
                )
            )


def checkpoints(connection: Connection, session_id: str) -> Sequence[Delta]:
    rows = run(connection, _CHECKPOINTS, {"given_session_id": session_id})
    return [
        Delta(
            session_id=session_id,
            turn_id=row.turn_id,
            kind=row.kind,
            message_id=row.message_id,
            text=row.text,
            replace=True,
        )
        for row in rows
    ]


def forget_open(connection: Connection, session_id: str, turn_id: str) -> None:
    """Drop checkpoints of a turn that ended."""
    run(connection, _FORGET, {"given_session_id": session_id, "given_turn_id": turn_id})
