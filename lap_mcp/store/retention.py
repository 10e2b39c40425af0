"""Forgetting: sessions nobody has used for long, and bytes that nothing names any more."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import Connection

from .front_tables import files as front_files
from .tables import events, files, sessions, turns

_BATCH = 200


def forget_sessions(connection: Connection, before: float) -> int:
    """Delete sessions last touched before `before` that nobody drives, a batch at a time; how
    many.  Their turns, events, questions and files go with them."""
    unused = sa.and_(
        sessions.c.updated_at < before,
        sessions.c.lease_owner.is_(None),
        sessions.c.status.in_(["idle", "terminated"]),
    )
    batch = sa.select(sessions.c.id).where(unused).limit(_BATCH)
    # `unused` again: a prompt may have come since the batch was chosen.
    return connection.execute(sessions.delete().where(sessions.c.id.in_(batch), unused)).rowcount


def unnamed(connection: Connection, candidates: Sequence[str]) -> Sequence[str]:
    """Those of the blobs that no file, prompt or event names."""
    return [sha256 for sha256 in candidates if not _named(connection, sha256)]


def _named(connection: Connection, sha256: str) -> bool:
    queries = (
        sa.select(files.c.name).where(files.c.sha256 == sha256),
        sa.select(front_files.c.id).where(front_files.c.sha256 == sha256),
        sa.select(turns.c.id).where(turns.c.files.contains(sha256)),
        sa.select(events.c.seq).where(events.c.payload.contains(sha256)),
    )
    return any(connection.execute(query.limit(1)).first() is not None for query in queries)
