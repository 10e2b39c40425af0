"""Processes that hold leases, and how to see that one is gone.

An owner is a process on one host.  On that host its end is visible at once (process id and start
time); from elsewhere only its leases tell, by running out.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from .tables import owners, sandboxes, sessions


@dataclass(frozen=True, slots=True)
class Owner:
    id: str
    host: str
    """Host and pid namespace: two containers that share a store see different processes."""
    pid: int
    started: str
    """Start time as the kernel counts it; empty where there is no `/proc`."""


def this_process(owner_id: str) -> Owner:
    pid = os.getpid()
    return Owner(owner_id, _host(), pid, _start_time(pid))


def gone(owner: Owner) -> bool:
    """Surely ended: it was of this host, and its process id is free or another process's."""
    if owner.host != _host():
        return False
    if owner.started:
        return _start_time(owner.pid) != owner.started
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def register(connection: Connection, owner: Owner, now: float) -> None:
    connection.execute(
        owners.insert().values(
            id=owner.id, host=owner.host, pid=owner.pid, started=owner.started, since=now
        )
    )


def leave(connection: Connection, owner_id: str) -> None:
    connection.execute(owners.delete().where(owners.c.id == owner_id))


def holders(connection: Connection) -> Sequence[Owner]:
    """Owners that hold a lease now, and those a lease names that have no row (`pid` 0)."""
    rows = connection.execute(
        sa.select(sessions.c.lease_owner, owners.c.host, owners.c.pid, owners.c.started)
        .select_from(sessions.outerjoin(owners, sessions.c.lease_owner == owners.c.id))
        .where(sessions.c.lease_owner.is_not(None))
        .distinct()
    )
    return [Owner(row[0], row[1] or "", row[2] or 0, row[3] or "") for row in rows]


def everybody(connection: Connection) -> Sequence[Owner]:
    rows = connection.execute(sa.select(owners.c.id, owners.c.host, owners.c.pid, owners.c.started))
    return [Owner(*row) for row in rows]


def sweep(connection: Connection, ended: Collection[str], *, before: float) -> None:
    """Forget owners that ended, and those that came before `before`, of whom nobody can see whether
    they did (another host, an earlier boot); but for those a lease still names."""
    named = [
        sa.select(table.c.lease_owner).where(table.c.lease_owner.is_not(None))
        for table in (sessions, sandboxes)
    ]
    connection.execute(
        owners.delete().where(
            sa.or_(owners.c.id.in_(list(ended)), owners.c.since < before),
            *(owners.c.id.not_in(held) for held in named),
        )
    )


def _host() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return socket.gethostname()
    return f"{boot}:{namespace}"


def _start_time(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The command name, in parentheses, may hold anything; the fields after it are numbers.
    fields = stat[stat.rindex(")") + 2 :].split()
    return "" if fields[0] in ("Z", "X") else fields[19]
