"""The three moments of a turn that must be one transaction each: it begins, it stops for
questions, it ends and the next one begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from lap_mcp.model import Question, Session, StoredEvent, Turn

from . import commands, events, questions, turns
from .events import Memory, NewEvent, Progress
from .leases import LEASE, Lease, free, hold
from .turns import NewTurn, Phase, TurnRecord

_OPENING = 2
"""Events with which a turn begins: its prompt, and that it runs."""

Opening = Callable[[TurnRecord], Sequence[NewEvent]]
"""The events with which a turn begins."""


@dataclass(frozen=True, slots=True)
class Next:
    stored: Sequence[StoredEvent]
    turn_id: str | None
    """The turn that runs now, under the same lease; None: the lease is free."""


def begin_session(
    connection: Connection,
    session: Session,
    new: Callable[[], NewTurn],
    opening: Opening,
    owner: str,
) -> tuple[Lease, TurnRecord, Sequence[StoredEvent]]:
    """A new session whose first turn runs at once, in as many statements as it has rows.

    `new` is asked for the turn once the session is there for its files to belong to.
    """
    now = session.created_at
    lease = Lease(session.id, owner, 1)
    begun = replace(session, status="running", turns=1, last_seq=_OPENING)
    turns.create_session(connection, begun, lease, now + LEASE)
    first = new()
    turn = Turn(
        id=first.id,
        session_id=session.id,
        outcome="running",
        number=1,
        prompt=first.prompt,
        first_seq=1,
        last_seq=_OPENING,
        created_at=now,
        started_at=now,
    )
    turns.insert(connection, turn, first, starts=1)
    record = TurnRecord(
        turn=turn,
        principal=session.principal,
        agent=session.agent,
        ref=session.ref,
        input=first.input,
        files=first.files,
        origin=first.origin,
        starts=1,
        phase=Phase.SENT,
        cursor=None,
    )
    said = opening(record)
    if len(said) != _OPENING:
        raise ValueError(f"a turn begins with {_OPENING} events, not {len(said)}")
    return lease, record, events.insert(connection, session.id, turn.id, said, now, after=0)


def begin(
    connection: Connection, lease: Lease, turn_id: str, opening: Opening, now: float
) -> Sequence[StoredEvent]:
    """A queued turn runs: its prompt becomes an event.

    Raises:
        LeaseLost
    """
    record = turns.record(connection, turn_id)
    turns.starting(connection, turn_id, now)
    progress = Progress(status="running", outcome="running", first=True)
    return events.append(connection, lease, turn_id, opening(record), now, progress)


def begin_next(connection: Connection, lease: Lease, opening: Opening, now: float) -> Next:
    """The turn that is queued next runs; where there is none, the lease is given back.

    Raises:
        LeaseLost
    """
    turn_id = turns.next_queued(connection, lease.session_id)
    if turn_id is None:
        free(connection, lease)
        return Next((), None)
    return Next(begin(connection, lease, turn_id, opening, now), turn_id)


def hand_over(
    connection: Connection,
    lease: Lease,
    turn_id: str,
    to: Session,
    now: float,
) -> Sequence[StoredEvent]:
    """Note in an idle session that another one goes on with it; the lease is given back.  No turn
    changes by it: the event belongs to the last one, `turn_id`, that had ended.

    Raises:
        LeaseLost
    """
    row = hold(connection, lease, events=1, updated_at=now, lease_owner=None, lease_until=0.0)
    payload = {"session": to.id, "agent": to.agent}
    new = [NewEvent(type="session.handed_over", payload=payload)]
    return events.insert(connection, lease.session_id, turn_id, new, now, after=row.last_seq - 1)


def stop_for_questions(
    connection: Connection, lease: Lease, turn_id: str, now: float, last: Progress | None = None
) -> Sequence[StoredEvent]:
    """The turn waits for answers; where no question of it is open, nothing is stored.

    `last`: what the runtime said as its stream ended; nothing runs meanwhile then, so nobody need
    hold the lease.
    """
    waiting = [
        question.id
        for question in questions.open_of_session(connection, lease.session_id)
        if question.turn_id == turn_id
    ]
    if not waiting:
        return ()
    stored = events.append(
        connection,
        lease,
        turn_id,
        [
            NewEvent(
                type="session.status_idle",
                payload={"stop_reason": {"type": "requires_action", "question_ids": waiting}},
            )
        ],
        now,
        replace(last or Progress(), status="requires_action", outcome="requires_action"),
    )
    if last is not None:
        free(connection, lease)
    return stored


def ask(
    connection: Connection, lease: Lease, turn_id: str, question: Question, now: float
) -> Sequence[StoredEvent]:
    """A runtime asks while its stream goes on.  A question that is known says nothing new."""
    if not questions.ask(connection, question):
        return ()
    return stop_for_questions(connection, lease, turn_id, now)


def go_on(
    connection: Connection, lease: Lease, turn_id: str, answers: Sequence[NewEvent], now: float
) -> Sequence[StoredEvent]:
    """Answers are given; when none is open any more, the turn runs again."""
    still_open = any(
        question.turn_id == turn_id
        for question in questions.open_of_session(connection, lease.session_id)
    )
    if still_open:
        return events.append(connection, lease, turn_id, answers, now)
    running = NewEvent(type="session.status_running", payload={})
    return events.append(
        connection,
        lease,
        turn_id,
        [*answers, running],
        now,
        Progress(status="running", outcome="running"),
    )


def end(
    connection: Connection,
    lease: Lease,
    turn_id: str,
    last: Progress,
    *,
    closing: Sequence[NewEvent],
    opening: Opening | None,
    now: float,
    memory: Memory | None = None,
) -> Next:
    """The turn ended, and the one that is queued next runs.

    `last`: the outcome and its words, the session's status, and what the runtime said with it.
    `opening`: None leaves the queue to another process.

    Raises:
        LeaseLost
    """
    if memory is None or memory.questions:
        questions.settle(connection, turn_id, "expired" if last.outcome == "expired" else "closed")
    last = replace(last, turn={"ended_at": now})
    stored = events.append(connection, lease, turn_id, closing, now, last, memory)
    if memory is None or memory.checkpoints:
        events.forget_open(connection, lease.session_id, turn_id)
    commands.drop(connection, lease.session_id)
    if last.status == "terminated":
        turns.drop_queued(connection, lease.session_id, "The session is gone.", now)
    if opening is None:
        free(connection, lease)
        return Next(stored, None)
    following = begin_next(connection, lease, opening, now)
    return replace(following, stored=[*stored, *following.stored])
