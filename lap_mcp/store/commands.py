"""What another process wants of the one that drives a session.

A row is written by whoever cannot act itself and deleted by the holder of the session's lease in
the transaction that takes it: taken once, or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from .codec import dump, load
from .statements import given, run
from .tables import commands, sessions

Kind = Literal["cancel", "answer", "steer"]


@dataclass(frozen=True, slots=True)
class Command:
    session_id: str
    kind: Kind
    payload: Mapping[str, Any]


_DROP = commands.delete().where(commands.c.session_id == given(commands.c.session_id))


def give(connection: Connection, command: Command, now: float) -> int:
    """The command's number."""
    query = commands.insert().values(
        session_id=command.session_id,
        kind=command.kind,
        payload=dump(command.payload),
        at=now,
    )
    number: int = connection.execute(query.returning(commands.c.id)).scalar_one()
    return number


def withdraw(connection: Connection, number: int) -> bool:
    """Whether nobody had taken the command: nobody will."""
    return connection.execute(commands.delete().where(commands.c.id == number)).rowcount == 1


def take(connection: Connection, owner: str, driven: Collection[str]) -> Sequence[Command]:
    """Commands for those of the `driven` sessions whose lease `owner` holds, oldest first; gone
    from the table."""
    mine = sa.select(sessions.c.id).where(
        sessions.c.lease_owner == owner, sessions.c.id.in_(list(driven))
    )
    rows = connection.execute(
        sa.select(commands).where(commands.c.session_id.in_(mine)).order_by(commands.c.id)
    ).all()
    if rows:
        connection.execute(commands.delete().where(commands.c.id.in_([row.id for row in rows])))
    return [Command(row.session_id, row.kind, load(row.payload)) for row in rows]


def waiting(connection: Connection, owner: str) -> bool:
    """There is something for the sessions that `owner` drives."""
    mine = sa.select(sessions.c.id).where(sessions.c.lease_owner == owner)
    query = sa.select(commands.c.id).where(commands.c.session_id.in_(mine)).limit(1)
    return connection.execute(query).first() is not None


def drop(connection: Connection, session_id: str) -> None:
    run(connection, _DROP, {"given_session_id": session_id})
