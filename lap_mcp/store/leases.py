"""Who drives a session: at most one process, proven by a fencing number.

A lease lasts `LEASE` seconds unless renewed.  Taking it raises the session's fencing number; every
append names the number it was given and fails if a newer one exists.  So a process that was
stopped past its lease and wakes up can write nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from lap_mcp.errors import LeaseLost

from .tables import sessions

LEASE = 15.0
"""Seconds."""
RENEW = 5.0


@dataclass(frozen=True, slots=True)
class Lease:
    session_id: str
    owner: str
    fence: int


def take(
    connection: Connection, session_id: str, owner: str, now: float, dead: Collection[str] = ()
) -> Lease | None:
    """Take the session's lease if it is free, has run out, or its holder is one of `dead`."""
    free = sa.or_(
        sessions.c.lease_owner.is_(None),
        sessions.c.lease_until < now,
        sessions.c.lease_owner.in_(list(dead)),
    )
    row = connection.execute(
        sessions.update()
        .where(sessions.c.id == session_id, free)
        .values(lease_owner=owner, lease_until=now + LEASE, fence=sessions.c.fence + 1)
        .returning(sessions.c.fence)
    ).first()
    return None if row is None else Lease(session_id, owner, row.fence)


def hold(connection: Connection, lease: Lease, **values: object) -> sa.Row[int, int]:
    """Update the session's row as its holder; (last_seq, turns) after.

    Raises:
        LeaseLost: another process took it.
    """
    row = connection.execute(
        sessions.update()
        .where(
            sessions.c.id == lease.session_id,
            sessions.c.lease_owner == lease.owner,
            sessions.c.fence == lease.fence,
        )
        .values(**values)
        .returning(sessions.c.last_seq, sessions.c.turns)
    ).first()
    if row is None:
        raise LeaseLost(f"{lease.session_id} is driven by another process")
    return row


def free(connection: Connection, lease: Lease) -> None:
    hold(connection, lease, lease_owner=None, lease_until=0.0)


def renew(connection: Connection, owner: str, now: float) -> Mapping[str, int]:
    """Renew everything `owner` holds: session id to fencing number."""
    rows = connection.execute(
        sessions.update()
        .where(sessions.c.lease_owner == owner)
        .values(lease_until=now + LEASE)
        .returning(sessions.c.id, sessions.c.fence)
    )
    return {row.id: row.fence for row in rows}
