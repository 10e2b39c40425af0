"""Files of sessions; the bytes are blobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from lap_mcp.errors import NotFound
from lap_mcp.model import SessionFile

from .statements import given, run
from .tables import files

_OF_SESSION = (
    sa.select(files)
    .where(files.c.session_id == given(files.c.session_id))
    .order_by(files.c.at, files.c.name)
)


def _file(row: sa.Row[Any]) -> SessionFile:
    return SessionFile(
        session_id=row.session_id,
        name=row.name,
        media_type=row.media_type,
        size=row.size,
        sha256=row.sha256,
        turn_id=row.turn_id,
        origin=row.origin,
        at=row.at,
    )


def add(connection: Connection, file: SessionFile) -> SessionFile:
    """Add a file under its name, or under the next free `stem-2.ext` where another content has it.

    The same bytes under the same name of the same turn are that file, not a second one.
    """
    taken = {
        row.name: row
        for row in connection.execute(sa.select(files).where(files.c.session_id == file.session_id))
    }
    path = PurePosixPath(file.name)
    name, count = file.name, 1
    while name in taken:
        known = taken[name]
        if known.sha256 == file.sha256 and known.turn_id == file.turn_id:
            return _file(known)
        count += 1
        name = f"{path.stem}-{count}{path.suffix}"
    kept = replace(file, name=name)
    connection.execute(files.insert().values(**asdict(kept)))
    return kept


def of_session(connection: Connection, session_id: str) -> Sequence[SessionFile]:
    rows = run(connection, _OF_SESSION, {"given_session_id": session_id})
    return [_file(row) for row in rows]


def find(connection: Connection, session_id: str, name: str) -> SessionFile:
    row = connection.execute(
        sa.select(files).where(files.c.session_id == session_id, files.c.name == name)
    ).first()
    if row is None:
        raise NotFound(f"Session {session_id} has no file {name[:255]!r}.")
    return _file(row)
