"""Turns that wait: in the queue of their session, or for a process that drives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from .tables import sessions, turns
from .turns import find_session


def drop_one(connection: Connection, session_id: str, turn_id: str, now: float) -> bool:
    """End one turn that waits in the queue; false: it does not wait there.  Raises: NotFound."""
    find_session(connection, None, session_id, lock=True)
    found = connection.execute(
        turns.update()
        .where(
            turns.c.id == turn_id,
            turns.c.session_id == session_id,
            turns.c.outcome == "queued",
        )
        .values(outcome="cancelled", ended_at=now)
    )
    return found.rowcount == 1


@dataclass(frozen=True, slots=True)
class Unattended:
    """A session with something to drive."""

    session_id: str
    agent: str
    owner: str | None
    """Of its lease …"""
    until: float
    """… and when that runs out."""
    since: float
    """When the oldest of its turns that are open was started, or came."""


def unattended(connection: Connection) -> Sequence[Unattended]:
    """Sessions with something to drive, whoever drives it.

    A turn that waits for an answer is one where somebody held the stream that the answer goes to.
    """
    columns = (sessions.c.id, sessions.c.agent, sessions.c.lease_owner, sessions.c.lease_until)
    rows = connection.execute(
        sa.select(*columns, sa.func.min(sa.func.coalesce(turns.c.started_at, turns.c.created_at)))
        .select_from(sessions.join(turns, turns.c.session_id == sessions.c.id))
        .where(
            sa.or_(
                turns.c.outcome.in_(["running", "queued"]),
                sa.and_(turns.c.outcome == "requires_action", sessions.c.lease_owner.is_not(None)),
            )
        )
        .group_by(*columns)
    )
    return [Unattended(*row) for row in rows]
