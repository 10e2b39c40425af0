"""Taking a prompt: what becomes of it is decided in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import Connection

from lap_mcp.clock import new_id
from lap_mcp.errors import Conflict, Invalid, LimitReached
from lap_mcp.model import Agent, Origin, Question, Session, SessionFile, StoredEvent, Turn
from lap_mcp.store import driving as moments
from lap_mcp.store import files as file_store
from lap_mcp.store import leases, turns
from lap_mcp.store import questions as question_store
from lap_mcp.store.leases import Lease
from lap_mcp.store.turns import NewTurn, TurnRecord

from . import handing_over
from .engine import SessionLimits
from .jobs import opening


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompted:
    """A prompt with everything the decision needs."""

    origin: Origin
    agent: Agent
    session_id: str | None
    text: str
    new: NewTurn
    files: Sequence[SessionFile]
    steer: bool
    owner: str
    dead: Collection[str]
    """Owners that surely ended."""
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    kind: Literal["run", "queued", "joined", "answers", "steer"]
    session: Session
    turn: Turn
    lease: Lease | None = None
    """For `run`: ours, to drive the turn …"""
    record: TurnRecord | None = None
    """… and all that driving it needs."""
    question: Question | None = None
    """For `answers`: the open `input` question that the prompt is an answer to."""
    stored: Sequence[StoredEvent] = ()
    handed: Sequence[StoredEvent] = ()
    """Events of the session that was handed over."""


def accept(connection: Connection, prompted: Prompted, limits: SessionLimits) -> Decision:
    """Raises: NotFound, Invalid, Conflict, LimitReached."""
    if prompted.session_id is None:
        return _first(connection, prompted, limits)
    session = _session(connection, prompted, prompted.session_id)
    waiting = list(turns.open_turns(connection, session.id))
    for turn, digest in waiting:
        # Queued, running or waiting for an answer: a caller that was cut off asks again.
        wanted_now = prompted.steer and turn.outcome == "queued"
        if digest == prompted.new.digest and not wanted_now:
            return Decision(kind="joined", session=session, turn=turn)
    if session.status == "requires_action":
        return _answers(connection, session, waiting[0][0])
    if waiting and prompted.steer:
        return Decision(kind="steer", session=session, turn=waiting[0][0])
    _limits(connection, session, prompted, limits, waiting=len(waiting))
    turn = turns.queue(
        connection, session, _with_files(connection, session, prompted), prompted.now
    )
    if waiting:
        return Decision(kind="queued", session=session, turn=turn)
    lease = leases.take(connection, session.id, prompted.owner, prompted.now, prompted.dead)
    if lease is None:
        # Its last turn ended and its driver is about to let go: that one sees the queue.
        return Decision(kind="queued", session=session, turn=turn)
    stored = moments.begin(connection, lease, turn.id, opening, prompted.now)
    record = turns.record(connection, turn.id)
    return Decision(
        kind="run",
        session=turns.find_session(connection, None, session.id),
        turn=record.turn,
        lease=lease,
        record=record,
        stored=stored,
    )


def _first(connection: Connection, prompted: Prompted, limits: SessionLimits) -> Decision:
    """A session of its own: nobody else can want it yet."""
    _room(connection, prompted, limits)
    session = Session(
        id=new_id("ses"),
        principal=prompted.origin.principal.id,
        agent=prompted.agent.name,
        status="idle",
        title=" ".join(prompted.text.split())[:80],
        created_at=prompted.now,
        updated_at=prompted.now,
    )
    handed: Sequence[StoredEvent] = ()
    if prompted.origin.from_session:
        handed = handing_over.note(
            connection,
            prompted.origin,
            session,
            prompted.owner,
            tuple(prompted.dead),
            prompted.now,
        )
    lease, record, stored = moments.begin_session(
        connection,
        session,
        lambda: _with_files(connection, session, prompted),
        opening,
        prompted.owner,
    )
    return Decision(
        kind="run",
        session=replace(session, status="running", turns=1, last_seq=len(stored)),
        turn=record.turn,
        lease=lease,
        record=record,
        stored=stored,
        handed=handed,
    )


def _session(connection: Connection, prompted: Prompted, session_id: str) -> Session:
    principal = prompted.origin.principal.id
    session = turns.find_session(connection, principal, session_id, lock=True)
    if session.agent != prompted.agent.name:
        raise Invalid(
            f"Session {session.id} is a session of {session.agent}, not of {prompted.agent.name}.",
            remedy=f"Call {session.agent} to go on with it, or leave the session out.",
        )
    if session.status == "terminated":
        raise Conflict(
            f"Session {session.id} has ended at its runtime.",
            remedy="Leave the session out to begin a new one.",
        )
    return session


def _with_files(connection: Connection, session: Session, prompted: Prompted) -> NewTurn:
    """Keep the prompt's files with the session; the turn knows them by their names there."""
    kept = [
        file_store.add(connection, replace(file, session_id=session.id)) for file in prompted.files
    ]
    entries = [
        {**entry, "kept_as": file.name}
        for entry, file in zip(prompted.new.files, kept, strict=True)
    ]
    return replace(prompted.new, files=entries)


def _answers(connection: Connection, session: Session, turn: Turn) -> Decision:
    waiting = question_store.open_of_session(connection, session.id)
    inputs = [question for question in waiting if question.kind == "input"]
    if len(waiting) == 1 and inputs:
        return Decision(kind="answers", session=session, turn=turn, question=inputs[0])
    names = ", ".join(f"{question.id} ({question.kind})" for question in waiting)
    raise Conflict(
        f"Session {session.id} waits for {names or 'its runtime'} before it can take a prompt.",
        remedy="A person decides approvals (lap-mcp questions list); answer_question answers "
        "the others; cancel_session ends the turn.",
    )


def _limits(
    connection: Connection,
    session: Session,
    prompted: Prompted,
    limits: SessionLimits,
    *,
    waiting: int,
) -> None:
    if session.turns >= limits.turns_per_session:
        raise LimitReached(
            f"Session {session.id} has had {session.turns} turns, the limit "
            "(limits.turns_per_session).",
            remedy="Begin a new session.",
        )
    if waiting > limits.queue:
        raise LimitReached(
            f"{waiting - 1} prompts wait in session {session.id} already, the limit "
            "(limits.queue).",
            remedy="Wait for it with get_session, or cancel_session.",
        )
    if not waiting:
        _room(connection, prompted, limits)


def _room(connection: Connection, prompted: Prompted, limits: SessionLimits) -> None:
    running = turns.running_of(connection, prompted.origin.principal.id)
    if running >= limits.running_turns:
        raise LimitReached(
            f"{running} of your turns run already, the limit (limits.running_turns).",
            remedy="Wait for one with get_session, or end one with cancel_session.",
        )
