"""Sessions and turns: accepting prompts, starting and finishing turns, listing.

Everything that decides who may go on is decided here, inside one transaction.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from lap_mcp.errors import NotFound
from lap_mcp.model import Origin, Principal, Session, Turn

from .codec import dump, load
from .leases import Lease
from .statements import given, run, update_by_id
from .tables import sessions, turns


class Phase(IntEnum):
    """How far the current start of a turn has come."""

    STORED = 0
    """It waits, and nothing was sent: behind other turns of its session, or for its runtime."""
    SENT = 1
    """It runs: bytes may have reached the runtime.  Noted with the start itself, which saves each
    turn a transaction; a process killed in the moment between leaves words that are too careful."""
    BEGUN = 2
    """The runtime has said how the turn is found again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRecord:
    """A turn with what driving it needs."""

    turn: Turn
    principal: str
    agent: str
    ref: Mapping[str, Any]
    input: Mapping[str, Any] | None
    files: Sequence[Mapping[str, Any]]
    """[{name, media_type, size, sha256, kept_as}]"""
    origin: Origin
    starts: int
    """How often the turn was started: 1, and one more for each time questions were answered."""
    phase: Phase
    cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTurn:
    id: str
    prompt: str
    input: Mapping[str, Any] | None
    files: Sequence[Mapping[str, Any]]
    digest: str
    """Of the prompt, its input and files: how the same prompt is recognised."""
    origin: Origin


def _session(row: sa.Row[Any]) -> Session:
    return Session(
        id=row.id,
        principal=row.principal,
        agent=row.agent,
        status=row.status,
        ref=load(row.ref),
        last_seq=row.last_seq,
        turns=row.turns,
        title=row.title,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _turn(row: sa.Row[Any]) -> Turn:
    return Turn(
        id=row.id,
        session_id=row.session_id,
        outcome=row.outcome,
        number=row.number,
        prompt=row.prompt,
        first_seq=row.first_seq,
        last_seq=row.last_seq,
        error=row.error,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


@functools.cache
def _finding(*, owned: bool, lock: bool) -> sa.Select[Any]:
    query = sa.select(sessions).where(sessions.c.id == given(sessions.c.id))
    if owned:
        query = query.where(sessions.c.principal == given(sessions.c.principal))
    return query.with_for_update() if lock else query


_FIND = sa.select(turns).where(
    turns.c.id == given(turns.c.id), turns.c.session_id == given(turns.c.session_id)
)
_FIND_OWNED = (
    sa.select(turns)
    .select_from(turns.join(sessions, turns.c.session_id == sessions.c.id))
    .where(
        turns.c.id == given(turns.c.id),
        turns.c.session_id == given(turns.c.session_id),
        sessions.c.principal == given(sessions.c.principal),
    )
)
_OPEN = (
    sa.select(turns)
    .where(
        turns.c.session_id == given(turns.c.session_id),
        turns.c.outcome.in_(["queued", "running", "requires_action"]),
    )
    .order_by(turns.c.number)
)
_RUNNING = (
    sa.select(sa.func.count())
    .select_from(turns.join(sessions, turns.c.session_id == sessions.c.id))
    .where(sessions.c.principal == given(sessions.c.principal), turns.c.outcome == "running")
)
_RECORD = (
    sa.select(turns, sessions.c.principal, sessions.c.agent, sessions.c.ref.label("session_ref"))
    .select_from(turns.join(sessions, turns.c.session_id == sessions.c.id))
    .where(turns.c.id == given(turns.c.id))
)
_NEXT = (
    sa.select(turns.c.id)
    .where(turns.c.session_id == given(turns.c.session_id), turns.c.outcome == "queued")
    .order_by(turns.c.number)
    .limit(1)
)
_START = (
    turns.update()
    .where(turns.c.id == given(turns.c.id))
    .values(
        outcome="running",
        starts=turns.c.starts + 1,
        phase=Phase.SENT,
        cursor=None,
        started_at=sa.func.coalesce(turns.c.started_at, sa.bindparam("now", type_=sa.Double)),
    )
)
_CREATE_SESSION = sessions.insert()
_CREATE = turns.insert()
_COUNT = update_by_id(sessions, ("title", "turns", "updated_at"))


def find_session(
    connection: Connection, principal: str | None, session_id: str, *, lock: bool = False
) -> Session:
    """The session, if it is the principal's (`None`: the server itself asks).

    Raises:
        NotFound: missing or foreign, in the same words.
    """
    asked = {"given_id": session_id}
    if principal is not None:
        asked["given_principal"] = principal
    row = run(connection, _finding(owned=principal is not None, lock=lock), asked).first()
    if row is None:
        raise NotFound(
            f"There is no session {session_id[:60]!r}.", remedy="list_sessions shows yours."
        )
    return _session(row)


def list_sessions(
    connection: Connection,
    principal: str,
    *,
    agent: str | None,
    status: str | None,
    limit: int,
    before: str | None,
) -> Sequence[Session]:
    query = sa.select(sessions).where(sessions.c.principal == principal)
    if agent is not None:
        query = query.where(sessions.c.agent == agent)
    if status is not None:
        query = query.where(sessions.c.status == status)
    if before is not None:
        at = find_session(connection, principal, before)
        query = query.where(
            sa.tuple_(sessions.c.created_at, sessions.c.id) < sa.tuple_(at.created_at, at.id)
        )
    query = query.order_by(sessions.c.created_at.desc(), sessions.c.id.desc()).limit(limit)
    return [_session(row) for row in connection.execute(query)]


def create_session(
    connection: Connection, session: Session, lease: Lease | None = None, until: float = 0.0
) -> None:
    """`lease`: held from the first moment, so that nobody else can drive it."""
    run(
        connection,
        _CREATE_SESSION,
        {
            "id": session.id,
            "principal": session.principal,
            "agent": session.agent,
            "status": session.status,
            "ref": dump(session.ref),
            "last_seq": session.last_seq,
            "turns": session.turns,
            "title": session.title,
            "created_at": session.created_at,
            "updated_at": session.updated_at,
            "lease_owner": None if lease is None else lease.owner,
            "lease_until": until,
            "fence": 0 if lease is None else lease.fence,
        },
    )


def queue(connection: Connection, session: Session, new: NewTurn, now: float) -> Turn:
    """Add a turn to the session, queued."""
    number = session.turns + 1
    run(
        connection,
        _COUNT,
        {
            "given_id": session.id,
            "new_turns": number,
            "new_updated_at": now,
            "new_title": session.title,
        },
    )
    turn = Turn(
        id=new.id,
        session_id=session.id,
        outcome="queued",
        number=number,
        prompt=new.prompt,
        created_at=now,
    )
    insert(connection, turn, new, starts=0)
    return turn


def insert(connection: Connection, turn: Turn, new: NewTurn, *, starts: int) -> None:
    origin: dict[str, Any] = {
        "principal": [new.origin.principal.id, new.origin.principal.kind],
        "chain": list(new.origin.chain),
        "client": new.origin.client,
    }
    if new.origin.from_session:
        origin["from"] = [new.origin.from_session, new.origin.from_agent]
    run(
        connection,
        _CREATE,
        {
            "id": turn.id,
            "session_id": turn.session_id,
            "number": turn.number,
            "outcome": turn.outcome,
            "prompt": turn.prompt,
            "input": None if new.input is None else dump(new.input),
            "files": dump(list(new.files)),
            "digest": new.digest,
            "origin": dump(origin),
            "starts": starts,
            "phase": Phase.SENT if starts else Phase.STORED,
            "first_seq": turn.first_seq,
            "last_seq": turn.last_seq,
            "created_at": turn.created_at,
            "started_at": turn.started_at,
        },
    )


def find(connection: Connection, session_id: str, turn_id: str) -> Turn:
    row = run(connection, _FIND, {"given_id": turn_id, "given_session_id": session_id}).first()
    if row is None:
        raise NotFound(f"Session {session_id} has no turn {turn_id[:60]!r}.")
    return _turn(row)


def find_owned(connection: Connection, principal: str, session_id: str, turn_id: str) -> Turn:
    """The turn, if its session is the principal's.

    Raises:
        NotFound: which of them is not there; missing and foreign in the same words.
    """
    asked = {
        "given_id": turn_id,
        "given_session_id": session_id,
        "given_principal": principal,
    }
    row = run(connection, _FIND_OWNED, asked).first()
    if row is not None:
        return _turn(row)
    find_session(connection, principal, session_id)
    return find(connection, session_id, turn_id)


def of_session(connection: Connection, session_id: str) -> Sequence[Turn]:
    rows = connection.execute(
        sa.select(turns).where(turns.c.session_id == session_id).order_by(turns.c.number)
    )
    return [_turn(row) for row in rows]


def prompts(connection: Connection, turn_ids: Collection[str]) -> Mapping[str, str]:
    """The whole prompts of these turns."""
    rows = connection.execute(sa.select(turns.c.id, turns.c.prompt).where(turns.c.id.in_(turn_ids)))
    return {row.id: row.prompt for row in rows}


def open_turns(connection: Connection, session_id: str) -> Sequence[tuple[Turn, str]]:
    """Turns that have not ended, in order, each with its digest."""
    rows = run(connection, _OPEN, {"given_session_id": session_id})
    return [(_turn(row), row.digest) for row in rows]


def running_of(connection: Connection, principal: str) -> int:
    """Turns of the principal that run now."""
    if connection.dialect.name == "postgresql":
        # Two prompts at once must not both see room for one.
        connection.execute(
            sa.text("SELECT pg_advisory_xact_lock(hashtext(:key))"), {"key": principal}
        )
    count = run(connection, _RUNNING, {"given_principal": principal}).scalar()
    return int(count)


def record(connection: Connection, turn_id: str) -> TurnRecord:
    row = run(connection, _RECORD, {"given_id": turn_id}).one()
    origin = load(row.origin)
    principal_id, kind = origin["principal"]
    from_session, from_agent = origin.get("from", ("", ""))
    return TurnRecord(
        turn=_turn(row),
        principal=row.principal,
        agent=row.agent,
        ref=load(row.session_ref),
        input=load(row.input),
        files=load(row.files),
        origin=Origin(
            principal=Principal(id=principal_id, kind=kind),
            chain=tuple(origin["chain"]),
            client=origin["client"],
            from_session=from_session,
            from_agent=from_agent,
        ),
        starts=row.starts,
        phase=Phase(row.phase),
        cursor=row.cursor,
    )


def starting(connection: Connection, turn_id: str, now: float) -> None:
    """One more start of the turn is about to be made; nothing of it was sent."""
    run(connection, _START, {"given_id": turn_id, "now": now})


def current(connection: Connection, session_id: str) -> str | None:
    """The turn that runs or waits for answers."""
    open_ = [turn for turn, _ in open_turns(connection, session_id) if turn.outcome != "queued"]
    return open_[0].id if open_ else None


def drop_queued(connection: Connection, session_id: str, error: str | None, now: float) -> None:
    """End what waits in the session's queue, before anybody can begin it.  Raises: NotFound."""
    find_session(connection, None, session_id, lock=True)
    connection.execute(
        turns.update()
        .where(turns.c.session_id == session_id, turns.c.outcome == "queued")
        .values(outcome="cancelled", error=error, ended_at=now)
    )


def next_queued(connection: Connection, session_id: str) -> str | None:
    turn_id: str | None = run(connection, _NEXT, {"given_session_id": session_id}).scalar()
    return turn_id
