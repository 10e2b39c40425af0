"""Sandboxes as they lie in the store, without an engine: listed, exported, imported, forgotten.

For the operator's commands.  What runs in a server is not touched: only its kept state is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
from lap_sandbox.errors import BadPath
from lap_sandbox.paths import clean_path
from sqlalchemy import Connection

from lap_mcp.clock import Clock, new_id
from lap_mcp.errors import Invalid, LimitReached, NotFound
from lap_mcp.model import Principal
from lap_mcp.store import cells, owners, sandbox_files, sandboxes
from lap_mcp.store.blobs import PIECE, BlobStore, BlobWriter
from lap_mcp.store.cells import Cell
from lap_mcp.store.database import Database
from lap_mcp.store.sandbox_files import KeptFile
from lap_mcp.store.sandboxes import SandboxRecord

from .keeping import MAX_FILES
from .leftovers import Leftovers
from .notebooks import notebook
from .sandbox_entry import SandboxLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelved:
    record: SandboxRecord
    process: int | None
    """The process that has it open."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """`blobs`: those of sandboxes."""

    database: Database
    blobs: BlobStore
    limits: SandboxLimits
    clock: Clock

    async def list(self, principal: Principal | None) -> Sequence[Shelved]:
        """Last used first; of everybody where `principal` is `None`."""

        def query(
            connection: Connection,
        ) -> tuple[Sequence[SandboxRecord], Sequence[owners.Owner]]:
            found = sandboxes.list_of(
                connection, None if principal is None else principal.id, limit=10_000
            )
            return found, owners.everybody(connection)

        found, everybody = await self.database.read(query)
        alive = await anyio.to_thread.run_sync(
            lambda: {owner.id: owner.pid for owner in everybody if not owners.gone(owner)}
        )
        return [Shelved(record=one, process=alive.get(one.lease_owner or "")) for one in found]

    async def notebook(self, principal: Principal, sandbox_id: str) -> str:
        """Raises: NotFound."""

        def query(connection: Connection) -> Sequence[Cell]:
            sandboxes.find(connection, principal.id, sandbox_id)
            return cells.of_sandbox(connection, sandbox_id)

        recorded = await self.database.read(query)
        blobs = {}
        for cell in recorded:
            for blob in cell.blobs.values():
                blobs[blob.sha256] = await self.blobs.get(blob.sha256)
        return notebook(sandbox_id, recorded, blobs)

    async def files(self, principal: Principal, sandbox_id: str) -> Sequence[KeptFile]:
        """Raises: NotFound."""

        def query(connection: Connection) -> Sequence[KeptFile]:
            sandboxes.find(connection, principal.id, sandbox_id)
            return sandbox_files.of_sandbox(connection, sandbox_id)

        return await self.database.read(query)

    async def import_(self, principal: Principal, paths: Sequence[Path]) -> str:
        """A new sandbox with these files, and those of these folders; its id.

        Raises:
            Invalid: a name is refused, is not a regular file, or is given twice.
            NotFound, LimitReached
        """
        sources = await anyio.to_thread.run_sync(_sources, paths)
        self._room(size for _, size in sources.values())  # before anything is copied
        sandbox_id, owner, now = new_id("sbx"), new_id("own"), self.clock.now()
        kept: list[KeptFile] = []
        for name, (path, _) in sources.items():
            kept.append(await self._kept(name, path, self._room(file.size for file in kept)))

        def query(connection: Connection) -> None:
            held = sandboxes.add(connection, sandbox_id, principal.id, owner, now)
            sandbox_files.put(connection, sandbox_id, kept, now)
            sandboxes.free(connection, held)

        await self.database.write(query)
        return sandbox_id

    def _room(self, sizes: Iterable[int]) -> int:
        """Bytes that one sandbox may still have besides.  Raises: LimitReached."""
        size = sum(sizes)
        if size > self.limits.keep_each:
            raise LimitReached(
                f"The files have {size} bytes; {self.limits.keep_each} is the limit "
                "(sandbox.keep_each)."
            )
        return self.limits.keep_each - size

    async def _kept(self, name: str, path: Path, room: int) -> KeptFile:
        async with _writer(self.blobs) as writer, await anyio.open_file(path, "rb") as file:
            while piece := await file.read(PIECE):
                await writer.write(piece)
                if writer.size > room:
                    raise LimitReached(
                        f"{path} is larger than the {room} bytes that one sandbox has left "
                        "(sandbox.keep_each)."
                    )
            sha256 = await writer.finish()
        return KeptFile(
            path=name,
            size=writer.size,
            sha256=sha256,
            modified=self.clock.now(),
            origin="given",
        )

    async def forget(self, before: float) -> int:
        """Forget sandboxes that nobody has open or used since `before`; how many."""
        leftovers = Leftovers(self.database, self.blobs, self.limits, self.clock)
        return await leftovers.forget(before)


@asynccontextmanager
async def _writer(blobs: BlobStore) -> AsyncIterator[BlobWriter]:
    writer = await blobs.writer()
    try:
        yield writer
    finally:
        await writer.close()


def _sources(paths: Sequence[Path]) -> dict[str, tuple[Path, int]]:
    """Names in /mnt/data to files here, with their sizes."""
    found: dict[str, tuple[Path, int]] = {}
    for path in paths:
        for name, file, size in _files(path):
            try:
                clean = clean_path(name)
            except BadPath as error:
                raise Invalid(str(error)) from error
            if clean in found:
                raise Invalid(f"Two files would be called {clean!r}: {found[clean][0]} and {file}.")
            found[clean] = file, size
            if len(found) > MAX_FILES:
                raise LimitReached(f"More than {MAX_FILES} files; that many are kept at most.")
    return found


def _files(path: Path) -> Iterator[tuple[str, Path, int]]:
    """The file, or those in the folder, one by one: a folder may have millions."""
    try:
        state = path.stat()
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}.") from error
    if stat.S_ISREG(state.st_mode):
        yield path.name, path, state.st_size
    elif stat.S_ISDIR(state.st_mode):
        for folder, below, names in os.walk(path, onerror=_refused):
            below.sort()
            for file in sorted(Path(folder) / name for name in names):
                state = file.lstat()
                # What a folder links to is not in it.
                if stat.S_ISREG(state.st_mode):
                    yield file.relative_to(path).as_posix(), file, state.st_size
    else:
        raise Invalid(f"{path} is neither a file nor a folder.")


def _refused(error: OSError) -> None:
    raise error
