"""The three moments of a turn that must be one transaction each: it begins, it stops for
questions, it ends and the next one begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from lap_mcp.model import Question, StoredEvent

from . import commands, events, questions, turns
from .events import NewEvent, Progress
from .leases import Lease, free


@dataclass(frozen=True, slots=True)
class Ended:
    stored: Sequence[StoredEvent]
    following: str | None
    """Id of the turn that was queued next and runs now, under the same lease."""


def begin(
    connection: Connection, lease: Lease, turn_id: str, opening: Sequence[NewEvent], now: float
) -> Sequence[StoredEvent]:
    """A queued turn runs: its prompt becomes an event.

    Raises:
        LeaseLost
    """
    turns.starting(connection, turn_id, now)
    progress = Progress(status="running", outcome="running", first=True)
    return events.append(connection, lease, turn_id, opening, now, progress)


def stop_for_questions(
    connection: Connection, lease: Lease, turn_id: str, now: float, last: Progress | None = None
) -> Sequence[StoredEvent]:
    """The turn waits for answers.  `last`: what the runtime said as its stream ended; nothing runs
    meanwhile then, so nobody need hold the lease."""
    waiting = [
        question.id
        for question in questions.open_of_session(connection, lease.session_id)
        if question.turn_id == turn_id
    ]
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
    gone: bool,
    now: float,
) -> Ended:
    """The turn ended; the next queued one, if any, is to be begun by the caller.

    `last`: the outcome and its words, and what the runtime said with it.

    Raises:
        LeaseLost
    """
    questions.settle(connection, turn_id, "expired" if last.outcome == "expired" else "closed")
    status = "terminated" if gone else "idle"
    last = replace(last, status=status, turn={"ended_at": now})
    stored = events.append(connection, lease, turn_id, closing, now, last)
    events.forget_open(connection, lease.session_id, turn_id)
    following = turns.next_queued(connection, lease.session_id)
    if following is not None and gone:
        for turn in turns.of_session(connection, lease.session_id):
            if turn.outcome == "queued":
                turns.end(connection, turn.id, "cancelled", "The session is gone.", now)
        following = None
    if following is None:
        commands.drop(connection, lease.session_id)
        free(connection, lease)
    return Ended(stored, following)
