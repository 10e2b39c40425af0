"""The catalogue, kept in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lap_mcp.store import agents
from lap_mcp.store.database import Database

from .catalogue import CatalogueRow, Words


class StoredCatalogue:
    """A `CatalogueStore` over a database that several processes share."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> Sequence[CatalogueRow]:
        return [_row(data) for data in await self._database.read(agents.rows)]

    async def save(self, row: CatalogueRow) -> None:
        data = asdict(row)
        await self._database.write(lambda connection: agents.save(connection, data))

    async def remove(self, name: str) -> bool:
        return await self._database.write(lambda connection: agents.remove(connection, name))

    async def revision(self) -> int:
        return await self._database.read(agents.revision)


def _row(data: Mapping[str, Any]) -> CatalogueRow:
    pending = data["pending"]
    return CatalogueRow(
        **{
            **data,
            "words": Words(**data["words"]),
            "pending": None if pending is None else Words(**pending),
        }
    )
