"""Rows of the agent catalogue; what their `data` means is `lap_mcp.control`'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from lap_mcp.errors import Conflict

from .codec import dump, load
from .tables import agents, counters

_COUNTER = "catalogue"


def rows(connection: Connection) -> Sequence[Mapping[str, Any]]:
    found = connection.execute(sa.select(agents.c.data).order_by(agents.c.name))
    return [load(row.data) for row in found]


def save(connection: Connection, data: Mapping[str, Any]) -> None:
    """Insert or replace by `data["name"]`.

    Raises:
        Conflict: the name belongs to another (runtime, ref), or that one has another name.
    """
    key = {column: data[column] for column in ("name", "runtime", "ref", "source")}
    clash = connection.execute(
        sa.select(agents).where(
            sa.or_(
                agents.c.name == key["name"],
                sa.and_(
                    agents.c.runtime == key["runtime"],
                    agents.c.ref == key["ref"],
                    agents.c.source == key["source"],
                ),
            )
        )
    ).all()
    for row in clash:
        if row.name != key["name"]:
            raise Conflict(
                f"{key['ref']} of runtime {key['runtime']} is registered as {row.name} already."
            )
        if (row.runtime, row.ref) != (key["runtime"], key["ref"]):
            raise Conflict(
                f"The name {row.name} belongs to {row.ref} of runtime {row.runtime}.",
                remedy="Choose another name, or remove that agent first.",
            )
    connection.execute(agents.delete().where(agents.c.name == key["name"]))
    connection.execute(agents.insert().values(**key, data=dump(data)))
    _raise_revision(connection)


def remove(connection: Connection, name: str) -> bool:
    gone = connection.execute(agents.delete().where(agents.c.name == name)).rowcount > 0
    if gone:
        _raise_revision(connection)
    return gone


def revision(connection: Connection) -> int:
    value = connection.execute(
        sa.select(counters.c.value).where(counters.c.name == _COUNTER)
    ).scalar()
    return int(value or 0)


def _raise_revision(connection: Connection) -> None:
    changed = connection.execute(
        counters.update().where(counters.c.name == _COUNTER).values(value=counters.c.value + 1)
    )
    if changed.rowcount == 0:
        connection.execute(counters.insert().values(name=_COUNTER, value=1))
