"""Sandboxes as they are remembered: whose, how long, and which process has one open.

The lease works as a session's (`leases.py`): taking it raises the fencing number, every write for
an open sandbox names its own, and a process that was stopped past its lease can write nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from lap_mcp.errors import LeaseLost, NotFound

from .owners import Owner
from .tables import cell_outputs, owners, sandbox_files, sandboxes

LEASE = 60.0
"""Seconds.  On one machine the end of a process is seen at once; this is for the others."""

_BATCH = 50
_ID = re.compile("sbx_[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Held:
    """A lease on a sandbox."""

    sandbox_id: str
    owner: str
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRecord:
    id: str
    principal: str
    created_at: float
    used_at: float
    executions: int
    lease_owner: str | None
    files: int = 0
    size: int = 0
    """Bytes of its kept files."""


def missing(sandbox_id: str) -> NotFound:
    """One answer for a sandbox that is not there and for somebody else's."""
    return NotFound(
        f"There is no sandbox {sandbox_id[:60]!r}.", remedy="Leave sandbox out to use a new one."
    )


def add(connection: Connection, sandbox_id: str, principal: str, owner: str, now: float) -> Held:
    """A new sandbox, open in the process `owner`."""
    connection.execute(
        sandboxes.insert().values(
            id=sandbox_id,
            principal=principal,
            created_at=now,
            used_at=now,
            executions=0,
            lease_owner=owner,
            lease_until=now + LEASE,
            fence=1,
        )
    )
    return Held(sandbox_id, owner, 1)


def find(connection: Connection, principal: str, sandbox_id: str) -> SandboxRecord:
    """Raises: NotFound."""
    if not _ID.fullmatch(sandbox_id):
        raise missing(sandbox_id)
    row = connection.execute(
        sa.select(sandboxes).where(sandboxes.c.id == sandbox_id, sandboxes.c.principal == principal)
    ).first()
    if row is None:
        raise missing(sandbox_id)
    return SandboxRecord(
        id=row.id,
        principal=row.principal,
        created_at=row.created_at,
        used_at=row.used_at,
        executions=row.executions,
        lease_owner=row.lease_owner,
    )


def list_of(
    connection: Connection, principal: str | None, limit: int = 1000
) -> Sequence[SandboxRecord]:
    """Last used first, with what they keep; of everybody where `principal` is `None`."""
    wanted = sa.true() if principal is None else sandboxes.c.principal == principal
    kept = (
        sa.select(
            sandbox_files.c.sandbox_id,
            sa.func.count().label("files"),
            sa.func.sum(sandbox_files.c.size).label("size"),
        )
        .join(sandboxes, sandboxes.c.id == sandbox_files.c.sandbox_id)
        .where(wanted)
        .group_by(sandbox_files.c.sandbox_id)
        .subquery()
    )
    query = (
        sa.select(sandboxes, kept.c.files, kept.c.size)
        .select_from(sandboxes.outerjoin(kept, kept.c.sandbox_id == sandboxes.c.id))
        .where(wanted)
        .order_by(sandboxes.c.used_at.desc(), sandboxes.c.id)
        .limit(limit)
    )
    return [
        SandboxRecord(
            id=row.id,
            principal=row.principal,
            created_at=row.created_at,
            used_at=row.used_at,
            executions=row.executions,
            lease_owner=row.lease_owner,
            files=row.files or 0,
            size=int(row.size or 0),
        )
        for row in connection.execute(query)
    ]


def holder(connection: Connection, sandbox_id: str) -> Owner | None:
    """Who has it open; an owner without a row, because it was swept, has `pid` 0."""
    row = connection.execute(
        sa.select(sandboxes.c.lease_owner, owners.c.host, owners.c.pid, owners.c.started)
        .select_from(sandboxes.outerjoin(owners, sandboxes.c.lease_owner == owners.c.id))
        .where(sandboxes.c.id == sandbox_id, sandboxes.c.lease_owner.is_not(None))
    ).first()
    return None if row is None else Owner(row[0], row[1] or "", row[2] or 0, row[3] or "")


def take(
    connection: Connection, sandbox_id: str, owner: str, now: float, dead: Collection[str] = ()
) -> Held | None:
    """Take the lease if it is free, has run out, or its holder is one of `dead`."""
    row = connection.execute(
        sandboxes.update()
        .where(
            sandboxes.c.id == sandbox_id,
            sa.or_(
                sandboxes.c.lease_owner.is_(None),
                sandboxes.c.lease_until < now,
                sandboxes.c.lease_owner.in_(list(dead)),
            ),
        )
        .values(
            lease_owner=owner,
            lease_until=now + LEASE,
            used_at=now,
            fence=sandboxes.c.fence + 1,
        )
        .returning(sandboxes.c.fence)
    ).first()
    return None if row is None else Held(sandbox_id, owner, row.fence)


def hold(connection: Connection, held: Held, now: float) -> None:
    """The beginning of every write for an open sandbox.

    Raises:
        LeaseLost: another process has it now, or it was removed.
    """
    found = connection.execute(
        sandboxes.update().where(*_mine(held)).values(lease_until=now + LEASE, used_at=now)
    )
    if found.rowcount == 0:
        raise LeaseLost(f"{held.sandbox_id} is open in another process")


def ran(connection: Connection, held: Held, number: int, now: float) -> None:
    """Its last execution has this number.  Raises: LeaseLost."""
    hold(connection, held, now)
    connection.execute(sandboxes.update().where(*_mine(held)).values(executions=number))


def renew(connection: Connection, held: Sequence[Held], now: float) -> Sequence[str]:
    """Renew leases; the ids of sandboxes that are ours no longer."""
    lost = []
    for one in held:
        done = connection.execute(
            sandboxes.update().where(*_mine(one)).values(lease_until=now + LEASE)
        )
        if done.rowcount == 0:
            lost.append(one.sandbox_id)
    return lost


def free(connection: Connection, held: Held) -> None:
    """Its container is gone: whoever uses it next opens it again."""
    connection.execute(
        sandboxes.update().where(*_mine(held)).values(lease_owner=None, lease_until=0.0)
    )


def drop(connection: Connection, held: Held) -> None:
    """Nothing of it is kept: its id is forgotten with its container."""
    connection.execute(sandboxes.delete().where(*_mine(held)))


def _mine(held: Held) -> Sequence[sa.ColumnElement[bool]]:
    return (
        sandboxes.c.id == held.sandbox_id,
        sandboxes.c.lease_owner == held.owner,
        sandboxes.c.fence == held.fence,
    )


@dataclass(frozen=True, slots=True)
class Forgotten:
    count: int
    blobs: Collection[str]
    """What they named; others may name it, too."""


def forget(connection: Connection, before: float, now: float) -> Forgotten:
    """Delete sandboxes that were last used before `before` and that nobody has open, a batch at a
    time.  Their files and cells go with them."""
    unused = sa.and_(
        sandboxes.c.used_at < before,
        sa.or_(sandboxes.c.lease_owner.is_(None), sandboxes.c.lease_until < now),
    )
    chosen = connection.scalars(sa.select(sandboxes.c.id).where(unused).limit(_BATCH)).all()
    blobs: set[str] = set()
    for table in (sandbox_files, cell_outputs):
        blobs.update(
            connection.scalars(sa.select(table.c.sha256).where(table.c.sandbox_id.in_(chosen)))
        )
    # `unused` again: somebody may have opened one since.
    done = connection.execute(sandboxes.delete().where(sandboxes.c.id.in_(chosen), unused))
    return Forgotten(done.rowcount, blobs)
