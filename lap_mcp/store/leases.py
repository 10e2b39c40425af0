"""Who drives a session: at most one process, proven by a fencing number.

A lease lasts `LEASE` seconds unless renewed.  Taking it raises the session's fencing number; every
append names the number it was given and fails if a newer one exists.  So a process that was
stopped past its lease and wakes up can write nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import Connection

from lap_mcp.errors import LeaseLost

from .statements import given, run
from .tables import sessions

LEASE = 15.0
"""Seconds."""
RENEW = 5.0


class Held(Protocol):
    """A session's counters, as its holder sees them."""

    last_seq: int
    turns: int


@dataclass(frozen=True, slots=True)
class Lease:
    session_id: str
    owner: str
    fence: int


_TAKE = (
    sessions.update()
    .where(
        sessions.c.id == given(sessions.c.id),
        sa.or_(
            sessions.c.lease_owner.is_(None),
            sessions.c.lease_until < sa.bindparam("now", type_=sa.Double),
            sessions.c.lease_owner.in_(sa.bindparam("dead", expanding=True)),
        ),
    )
    .values(
        lease_owner=sa.bindparam("new_owner", type_=sa.String),
        lease_until=sa.bindparam("until", type_=sa.Double),
        fence=sessions.c.fence + 1,
    )
    .returning(sessions.c.fence)
)


@functools.cache
def _holding(columns: tuple[str, ...]) -> sa.UpdateBase:
    new = {name: sa.bindparam(f"new_{name}", type_=sessions.c[name].type) for name in columns}
    return (
        sessions.update()
        .where(
            sessions.c.id == given(sessions.c.id),
            sessions.c.lease_owner == given(sessions.c.lease_owner),
            sessions.c.fence == given(sessions.c.fence),
        )
        .values(last_seq=sessions.c.last_seq + sa.bindparam("events", type_=sa.BigInteger), **new)
        .returning(sessions.c.last_seq, sessions.c.turns)
    )


def take(
    connection: Connection, session_id: str, owner: str, now: float, dead: Collection[str] = ()
) -> Lease | None:
    """Take the session's lease if it is free, has run out, or its holder is one of `dead`."""
    row = run(
        connection,
        _TAKE,
        {
            "given_id": session_id,
            "now": now,
            "dead": list(dead),
            "new_owner": owner,
            "until": now + LEASE,
        },
    ).first()
    return None if row is None else Lease(session_id, owner, row.fence)


def hold(connection: Connection, lease: Lease, *, events: int = 0, **values: Any) -> Held:
    """Update the session's row as its holder, also by the number of new `events`; (last_seq,
    turns) after.

    Raises:
        LeaseLost: another process took it.
    """
    row: Held | None = run(
        connection,
        _holding(tuple(sorted(values))),
        {
            "given_id": lease.session_id,
            "given_lease_owner": lease.owner,
            "given_fence": lease.fence,
            "events": events,
            **{f"new_{name}": value for name, value in values.items()},
        },
    ).first()
    if row is None:
        raise LeaseLost(f"{lease.session_id} is driven by another process")
    return row


def free(connection: Connection, lease: Lease) -> None:
    hold(connection, lease, lease_owner=None, lease_until=0.0)


def renew(
    connection: Connection, owner: str, driven: Collection[str], now: float
) -> Mapping[str, int]:
    """Renew what `owner` holds of the sessions that it drives: session id to fencing number.

    A lease that nothing drives any more, because its task broke, is left to run out.
    """
    rows = connection.execute(
        sessions.update()
        .where(sessions.c.lease_owner == owner, sessions.c.id.in_(list(driven)))
        .values(lease_until=now + LEASE)
        .returning(sessions.c.id, sessions.c.fence)
    )
    return {row.id: row.fence for row in rows}
