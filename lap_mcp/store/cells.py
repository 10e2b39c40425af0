"""Executions of a sandbox as they are recorded: code, outcome, and what tells a repeat apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from .codec import dump, load
from .tables import cell_outputs, cells

KEPT = 2000
"""Cells of one sandbox; older ones are forgotten."""


@dataclass(frozen=True, slots=True)
class BlobRef:
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    number: int
    """From 1, in the order in which they ran."""
    code: str
    status: str
    repeats: bool
    """A replay runs it again."""
    digest: str
    """Of all that it showed."""
    result: Mapping[str, Any]
    """{stdout, stderr, value, error: {name, value, traceback}, outputs: [{mime, base64}]}; an
    output without `base64` is a blob, or was left out."""
    at: float
    blobs: Mapping[int, BlobRef] = field(default_factory=dict)
    """Place in `outputs` to the blob."""


def add(connection: Connection, sandbox_id: str, new: Sequence[Cell]) -> None:
    """Record executions of one sandbox, one after the other."""
    # Written once already, if the answer to that got lost.
    connection.execute(
        cells.delete().where(cells.c.sandbox_id == sandbox_id, cells.c.number >= new[0].number)
    )
    connection.execute(
        cells.insert(),
        [
            {
                "sandbox_id": sandbox_id,
                "number": cell.number,
                "code": cell.code,
                "status": cell.status,
                "repeats": int(cell.repeats),
                "digest": cell.digest,
                "result": (result := dump(cell.result)),
                "size": len(cell.code) + len(result),
                "at": cell.at,
            }
            for cell in new
        ],
    )
    large = [
        {
            "sandbox_id": sandbox_id,
            "number": cell.number,
            "place": place,
            "size": blob.size,
            "sha256": blob.sha256,
        }
        for cell in new
        for place, blob in cell.blobs.items()
    ]
    if large:
        connection.execute(cell_outputs.insert(), large)
    connection.execute(
        cells.delete().where(
            cells.c.sandbox_id == sandbox_id, cells.c.number <= new[-1].number - KEPT
        )
    )


def of_sandbox(connection: Connection, sandbox_id: str) -> Sequence[Cell]:
    blobs: dict[int, dict[int, BlobRef]] = {}
    for row in connection.execute(
        sa.select(cell_outputs).where(cell_outputs.c.sandbox_id == sandbox_id)
    ):
        blobs.setdefault(row.number, {})[row.place] = BlobRef(row.sha256, row.size)
    rows = connection.execute(
        sa.select(cells).where(cells.c.sandbox_id == sandbox_id).order_by(cells.c.number)
    )
    return [
        Cell(
            number=row.number,
            code=row.code,
            status=row.status,
            repeats=bool(row.repeats),
            digest=row.digest,
            result=load(row.result),
            at=row.at,
            blobs=blobs.get(row.number, {}),
        )
        for row in rows
    ]
