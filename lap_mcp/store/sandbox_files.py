"""Files of sandboxes that are kept; the bytes are blobs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from .tables import cell_outputs, cells, sandbox_files, sandboxes

_SOME = 500
"""Values in one `IN`: databases have a limit, SQLite's is 32,766."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFile:
    path: str
    """Relative to `/mnt/data`."""
    size: int
    sha256: str
    modified: float
    """By the sandbox's clock when it was kept."""
    origin: Literal["given", "made"]
    """`given`: by a caller, and not changed since.  A replay begins with these only."""


def put(connection: Connection, sandbox_id: str, files: Sequence[KeptFile], now: float) -> None:
    """Keep these, each in place of an earlier one of the same path."""
    drop(connection, sandbox_id, [file.path for file in files])
    if files:
        connection.execute(
            sandbox_files.insert(),
            [
                {
                    "sandbox_id": sandbox_id,
                    "path": file.path,
                    "size": file.size,
                    "sha256": file.sha256,
                    "modified": file.modified,
                    "origin": file.origin,
                    "at": now,
                }
                for file in files
            ],
        )


def drop(connection: Connection, sandbox_id: str, paths: Collection[str]) -> None:
    for some in _parts(list(paths)):
        connection.execute(
            sandbox_files.delete().where(
                sandbox_files.c.sandbox_id == sandbox_id, sandbox_files.c.path.in_(some)
            )
        )


def of_sandbox(
    connection: Connection, sandbox_id: str, *, after: str = "", limit: int = 100_000
) -> Sequence[KeptFile]:
    """By path, those after `after`."""
    if not _storable(after):
        return []
    rows = connection.execute(
        sa.select(sandbox_files)
        .where(sandbox_files.c.sandbox_id == sandbox_id, sandbox_files.c.path > after)
        .order_by(sandbox_files.c.path)
        .limit(limit)
    )
    return [_file(row) for row in rows]


def _storable(path: str) -> bool:
    """No name that is kept has these, and a database would not even compare them."""
    return "\0" not in path and not any("\ud800" <= char <= "\udfff" for char in path)


def find(connection: Connection, sandbox_id: str, path: str) -> KeptFile | None:
    if not _storable(path):
        return None
    row = connection.execute(
        sa.select(sandbox_files).where(
            sandbox_files.c.sandbox_id == sandbox_id, sandbox_files.c.path == path
        )
    ).first()
    return None if row is None else _file(row)


def kept_of(connection: Connection, principal: str, *, but: str = "") -> int:
    """Bytes that are kept for the principal's sandboxes, without those of `but`: files, cells and
    their outputs."""
    total = 0
    for table in (sandbox_files, cells, cell_outputs):
        query = (
            sa.select(sa.func.sum(table.c.size))
            .join(sandboxes, sandboxes.c.id == table.c.sandbox_id)
            .where(sandboxes.c.principal == principal, sandboxes.c.id != but)
        )
        total += int(connection.execute(query).scalar() or 0)
    return total


def unnamed(connection: Connection, candidates: Collection[str]) -> Sequence[str]:
    """Those of the blobs that no file and no cell names."""
    named: set[str] = set()
    for some in _parts(list(candidates)):
        for table in (sandbox_files, cell_outputs):
            query = sa.select(table.c.sha256).where(table.c.sha256.in_(some)).distinct()
            named.update(connection.scalars(query))
    return [sha256 for sha256 in candidates if sha256 not in named]


def _file(row: sa.Row[Any]) -> KeptFile:
    return KeptFile(
        path=row.path,
        size=row.size,
        sha256=row.sha256,
        modified=row.modified,
        origin=row.origin,
    )


def _parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _SOME):
        yield values[start : start + _SOME]
