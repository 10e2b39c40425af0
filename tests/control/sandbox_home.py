"""A place where sandboxes are remembered, and servers on it, with scripted sandboxes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from lap_sandbox.testing import ScriptedLauncher

from lap_mcp.clock import Clock
from lap_mcp.control.prompt_files import GivenFile
from lap_mcp.control.sandboxes import Sandboxes, SandboxLimits
from lap_mcp.control.services import FileInput
from lap_mcp.model import Principal
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import open_database


async def read(principal: Principal, given: Sequence[FileInput]) -> Sequence[GivenFile]:
    return [GivenFile(entry.name, "text/plain", entry.data or b"") for entry in given]


@dataclass(frozen=True)
class SandboxHome:
    where: Path | str
    """Of the store."""
    folder: Path
    """Of the blobs."""

    @property
    def blobs(self) -> BlobStore:
        return BlobStore(self.folder)

    @asynccontextmanager
    async def server(
        self,
        launcher: ScriptedLauncher,
        limits: SandboxLimits | None = None,
        clock: Clock | None = None,
    ) -> AsyncIterator[Sandboxes]:
        """One server process' sandboxes, with a connection to the store of their own."""
        database = await open_database(self.where)
        try:
            await launcher.prepare()
            async with Sandboxes(launcher, database, self.blobs, limits, clock).running(read) as it:
                yield it
        finally:
            await database.aclose()
