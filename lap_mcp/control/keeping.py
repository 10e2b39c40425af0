"""Files of sandboxes, kept beside them: copied out after each execution, put back into a new
container.

The promise: a file that an answer names is kept when the answer is given, unless the answer says
that it is not.  An execution that changes no file costs nothing here.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

import anyio
from lap_sandbox.base import FileInfo
from lap_sandbox.errors import BadPath, NotFound, SandboxError, SandboxGone
from sqlalchemy import Connection

from lap_mcp.clock import Clock
from lap_mcp.errors import LapError, StoreError
from lap_mcp.errors import NotFound as Missing
from lap_mcp.store import sandbox_files, sandboxes
from lap_mcp.store.blobs import PIECE, BlobStore
from lap_mcp.store.database import Database
from lap_mcp.store.sandbox_files import KeptFile

from .leftovers import Leftovers
from .sandbox_entry import Entry, SandboxLimits, mark

log = logging.getLogger(__name__)

MAX_FILES = 2000
"""Files that are kept of one sandbox: each takes half a millisecond to be put back, and with many
more the look for changed ones after an execution has no time to see them all."""
_BATCH_BYTES = 8 * 1024 * 1024
_BATCH_FILES = 64
_AT_ONCE = 8
"""Files on their way into a container."""
_QUOTA_AGE = 30.0
"""Seconds for which a principal's total, as the store said it, is good."""


@dataclass(slots=True)
class Restored:
    """What a new container got back."""

    files: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    """Path to why not."""


@dataclass(slots=True)
class _Quota:
    at: float
    others: int


class Keeping:
    def __init__(
        self, database: Database, blobs: BlobStore, limits: SandboxLimits, clock: Clock
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._limits = limits
        self._clock = clock
        self._quotas: dict[str, _Quota] = {}
        self._full: set[str] = set()
        """Principals for whom no more is kept."""
        self.leftovers = Leftovers(database, blobs, limits, clock)

    # Out -----------------------------------------------------------------------------------------

    async def keep(self, entry: Entry, files: Sequence[FileInfo]) -> Mapping[str, str]:
        """Keep what is new or changed of `files`; path to why for those that are not kept.

        Raises:
            LeaseLost
            SandboxGone: it ended meanwhile; what was copied until then is kept.
        """
        refused: dict[str, str] = {}
        changed = [info for info in files if entry.seen.get(info.path) != mark(info)]
        for batch in _batches(changed):
            wanted: list[FileInfo] = []
            for info in batch:
                why = await self._refusal(entry, info, wanted)
                if why:
                    refused[info.path] = why
                else:
                    wanted.append(info)
            try:
                copied = await self._copied(entry, wanted, refused)
                if copied:
                    await self._store(entry, copied)
            except StoreError as error:
                # What the code did is worth its answer, also where nothing can be kept.
                refused.update({info.path: error.message.rstrip(".") for info in wanted})
            if not entry.sandbox.alive:
                raise SandboxGone("The sandbox ended while its files were kept.")
        return refused

    async def _copied(
        self, entry: Entry, files: Sequence[FileInfo], refused: dict[str, str]
    ) -> Sequence[KeptFile]:
        """The files as blobs.  They are asked for together: alone, each costs a round trip."""
        if len(files) == 1 and files[0].size > PIECE:
            copied = {files[0].path: await self._streamed(entry, files[0], refused)}
        else:
            datas: dict[str, bytes] = {}

            async def fetch(info: FileInfo) -> None:
                try:
                    datas[info.path] = await entry.sandbox.get(info.path)
                except SandboxError as error:
                    refused[info.path] = _why_not(error)

            async with anyio.create_task_group() as tasks:
                for info in files:
                    tasks.start_soon(fetch, info)
            sha256s = await self._blobs.put_all(list(datas.values()))
            copied = {
                path: (sha256, len(data))
                for (path, data), sha256 in zip(datas.items(), sha256s, strict=True)
            }
        kept = []
        for info in files:
            done = copied.get(info.path)
            if done is not None:
                sha256, size = done
                # Something in there may write on: it is looked at again.
                entry.dirty = entry.dirty or size != info.size
                kept.append(
                    KeptFile(
                        path=info.path,
                        size=size,
                        sha256=sha256,
                        modified=info.modified,
                        origin="made",
                    )
                )
        return kept

    async def _streamed(
        self, entry: Entry, info: FileInfo, refused: dict[str, str]
    ) -> tuple[str, int] | None:
        writer = await self._blobs.writer()
        try:
            await entry.sandbox.copy(info.path, writer.write)
            return await writer.finish(), writer.size
        except SandboxError as error:
            refused[info.path] = _why_not(error)
            return None
        finally:
            await writer.close()

    async def keep_given(
        self, entry: Entry, files: Sequence[tuple[FileInfo, bytes]]
    ) -> Mapping[str, str]:
        """Keep files that a caller gave, as they were put into the sandbox; path to why for those
        that are not kept.

        Raises:
            LeaseLost
        """
        refused: dict[str, str] = {}
        wanted: list[tuple[FileInfo, bytes]] = []
        for info, data in files:
            why = await self._refusal(entry, info, [info for info, _ in wanted])
            if why:
                refused[info.path] = why
            else:
                wanted.append((info, data))
        try:
            await self._keep_given(entry, wanted)
        except StoreError as error:
            refused.update({info.path: error.message.rstrip(".") for info, _ in wanted})
        return refused

    async def _keep_given(self, entry: Entry, wanted: Sequence[tuple[FileInfo, bytes]]) -> None:
        if wanted:
            sha256s = await self._blobs.put_all([data for _, data in wanted])
            kept = [
                KeptFile(
                    path=info.path,
                    size=len(data),
                    sha256=sha256,
                    modified=info.modified,
                    origin="given",
                )
                for (info, data), sha256 in zip(wanted, sha256s, strict=True)
            ]
            await self._store(entry, kept)

    async def _store(
        self, entry: Entry, files: Sequence[KeptFile], gone: Collection[str] = ()
    ) -> None:
        now = self._clock.now()

        def query(connection: Connection) -> None:
            sandboxes.hold(connection, entry.held, now)
            if gone:
                sandbox_files.drop(connection, entry.id, gone)
            sandbox_files.put(connection, entry.id, files, now)

        await self._database.write(query)
        for path in gone:
            self._replaced(entry, path, None)
            entry.seen.pop(path, None)
        for file in files:
            self._replaced(entry, file.path, file)
            entry.seen[file.path] = (file.size, file.modified)

    def _replaced(self, entry: Entry, path: str, new: KeptFile | None) -> None:
        old = entry.kept.pop(path, None)
        if old is not None:
            entry.kept_size -= old.size
            if new is None or new.sha256 != old.sha256:
                self.leftovers.add(entry.principal, old.sha256, old.size)
        if new is not None:
            entry.kept_size += new.size
            entry.kept[path] = new

    async def _refusal(self, entry: Entry, info: FileInfo, batch: Sequence[FileInfo]) -> str:
        """Why a file is not kept; empty: it is."""
        old = entry.kept.get(info.path)
        if old is None and len(entry.kept) + len(batch) >= MAX_FILES:
            return f"{MAX_FILES} files of one sandbox are kept"
        own = entry.kept_size + sum(file.size for file in batch) + info.size
        own -= 0 if old is None else old.size
        if own > self._limits.keep_each:
            return f"{_mega(self._limits.keep_each)} of one sandbox are kept (sandbox.keep_each)"
        own += self.leftovers.of(entry.principal)
        if await self._others(entry) + own > self._limits.keep:
            return f"{_mega(self._limits.keep)} are kept for you (sandbox.keep)"
        return ""

    async def _others(self, entry: Entry) -> int:
        """Bytes of the principal's other sandboxes, as they were a moment ago."""
        now = self._clock.now()
        quota = self._quotas.get(entry.id)
        if quota is None or now - quota.at > _QUOTA_AGE:
            principal, but = entry.principal, entry.id
            others = await self._database.read(
                lambda connection: sandbox_files.kept_of(connection, principal, but=but)
            )
            quota = self._quotas[entry.id] = _Quota(now, others)
        return quota.others

    def has_room(self, entry: Entry) -> bool:
        """Whether its cells may be recorded, as of the last sweep."""
        return entry.principal not in self._full

    # All of it -----------------------------------------------------------------------------------

    async def reconcile(self, entry: Entry) -> None:
        """Keep what /mnt/data holds now, and forget what it holds no more.

        Raises:
            LapError, SandboxError: it could not be done, or not wholly.
        """
        if entry.borrowed:
            entry.dirty = False
            return
        if entry.bare:  # a replay that was cut off: what is not there is not gone
            return
        listed = await entry.sandbox.list(limit=MAX_FILES)
        await self.keep(entry, listed)
        there = {info.path for info in listed}
        missing = [path for path in entry.kept if path not in there]
        gone: list[str] = []
        for path in missing if len(listed) < MAX_FILES else ():
            if not await self._is_gone(entry, path):
                break  # the list ended early: so would the proofs
            gone.append(path)
        if gone:
            await self._store(entry, (), gone)
        entry.dirty = False

    async def _is_gone(self, entry: Entry, path: str) -> bool:
        """A list that ended early, because there was no time for more, is no proof."""

        async def nowhere(data: bytes) -> None:
            return None

        try:
            await entry.sandbox.copy(path, nowhere)
        except (NotFound, BadPath):
            return True
        return False

    # In ------------------------------------------------------------------------------------------

    async def restore(
        self, entry: Entry, *, only: Literal["given", "made"] | None = None
    ) -> Restored:
        """Put the kept files into a container that has none of them, the newest first.

        `only` some of them: first the given ones, then, when a replay is over, the others; between
        the two the sandbox is `bare`.

        Raises:
            SandboxGone
        """
        done = Restored()
        if only != "made":
            entry.seen.clear()
        wanted = [file for file in entry.kept.values() if only in (None, file.origin)]
        entry.bare = only != "made" and len(wanted) < len(entry.kept)
        places = anyio.Semaphore(_AT_ONCE)

        async def put_back(file: KeptFile) -> None:
            async with places:
                try:
                    info = await self._put_back(entry, file)
                except (SandboxError, Missing, StoreError) as error:
                    done.left_out[file.path] = str(error)
                else:
                    entry.seen[file.path] = mark(info)
                    done.files += 1

        async with anyio.create_task_group() as tasks:
            for file in sorted(wanted, key=lambda file: -file.modified):
                tasks.start_soon(put_back, file)
        if not entry.sandbox.alive:
            raise SandboxGone("The sandbox ended while its files were put back.")
        return done

    async def _put_back(self, entry: Entry, file: KeptFile) -> FileInfo:
        if file.size <= PIECE:
            return await entry.sandbox.put(file.path, await self._blobs.get(file.sha256))
        async with aclosing(self._blobs.pieces(file.sha256)) as pieces:
            return await entry.sandbox.put(file.path, pieces)

    # Looking after -------------------------------------------------------------------------------

    async def count(self, principals: Collection[str]) -> None:
        """See for whom no more is kept."""
        for principal in principals:
            kept = await self._database.read(
                functools.partial(sandbox_files.kept_of, principal=principal)
            )
            self._full.add(principal) if kept > self._limits.keep else self._full.discard(principal)

    def closed(self, entry: Entry) -> None:
        self._quotas.pop(entry.id, None)

    async def close(self, entry: Entry) -> None:
        """The last look before its container goes: what cannot be kept any more is logged."""
        try:
            await self.reconcile(entry)
        except (LapError, SandboxError) as error:
            log.warning("files of sandbox %s were not looked through again: %s", entry.id, error)


def _batches(files: Sequence[FileInfo]) -> Iterator[Sequence[FileInfo]]:
    """What is copied together; a large file is alone."""
    batch: list[FileInfo] = []
    size = 0
    for info in files:
        if info.size > PIECE:
            yield [info]
            continue
        if len(batch) >= _BATCH_FILES or size + info.size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(info)
        size += info.size
    if batch:
        yield batch


def _why_not(error: SandboxError) -> str:
    if isinstance(error, NotFound):
        return "it was gone, or its name cannot be written, when it was to be copied"
    return str(error).rstrip(".")


def _mega(size: int) -> str:
    return f"at most {size / (1024 * 1024):,.0f} MiB"
