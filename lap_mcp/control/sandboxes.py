"""Sandboxes as the faces use them: run code in one, list them, read their files."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import quote

import anyio
from lap_sandbox.base import Execution, FileInfo, Launcher, Preparation, Sandbox
from lap_sandbox.errors import BadPath, LauncherUnavailable, SandboxError, SandboxGone
from lap_sandbox.errors import LimitReached as SandboxLimit
from lap_sandbox.errors import NotFound as NoSuchFile
from sqlalchemy import Connection

from lap_mcp.clock import Clock, SystemClock
from lap_mcp.errors import Invalid, LapError, LeaseLost, NotFound, Unavailable
from lap_mcp.model import Principal
from lap_mcp.store import sandbox_files, sandboxes
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import Database
from lap_mcp.store.sandbox_files import KeptFile

from .cell_record import Recorder
from .keeping import Keeping, Restored
from .open_sandboxes import Opened, OpenSandboxes
from .prompt_files import GivenFile
from .replaying import Replayed, refused, replayable
from .replaying import replay as replay_cells
from .sandbox_entry import Entry, SandboxLimits, viewed
from .sandbox_job import Job, OnOutput, Told
from .sandbox_words import gone, lost_words, restored_words, worded
from .services import FileInput, FilePart, SandboxRun, SandboxView

__all__ = ["SandboxLimits", "Sandboxes", "sandbox_uri"]

log = logging.getLogger(__name__)

_TICK = 3.0
"""Seconds between looks for what is to be tidied …"""
_RENEW = 15.0
"""… for leases, and sandboxes that are idle for too long …"""
_FORGET_FIRST = 120.0
_FORGET = 3600.0
"""… and for what is older than the retention allows."""

ReadFiles = Callable[[Principal, Sequence[FileInput]], Awaitable[Sequence[GivenFile]]]


async def _no_files(principal: Principal, given: Sequence[FileInput]) -> Sequence[GivenFile]:
    raise Invalid("Files cannot be given here.")


class Sandboxes:
    """Implements `services.SandboxesAPI`.  `blobs` holds the files of sandboxes and nothing else:
    what no sandbox names is deleted from it."""

    def __init__(
        self,
        launcher: Launcher,
        database: Database,
        blobs: BlobStore,
        limits: SandboxLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._limits = limits or SandboxLimits()
        self._clock = clock or SystemClock()
        self._database = database
        self._blobs = blobs
        self._read_files: ReadFiles = _no_files
        self._keeping = Keeping(database, blobs, self._limits, self._clock)
        self._recorder = Recorder(database, blobs, self._clock)
        self._open = OpenSandboxes(
            launcher, database, self._keeping, self._recorder, self._limits, self._clock
        )

    @asynccontextmanager
    async def running(self, read_files: ReadFiles) -> AsyncIterator[Sandboxes]:
        """The background work of sandboxes; leaving ends every container, and keeps the files.

        `read_files` comes late because files may be those of sandboxes.
        """
        self._read_files = read_files
        failure: Exception | None = None
        await self._open.enter()
        async with anyio.create_task_group() as tasks:
            self._open.readiness.tasks = tasks
            tasks.start_soon(self._look_after, name="sandbox sweeper")
            tasks.start_soon(self._recorder.run, name="sandbox recorder")
            try:
                yield self
            except Exception as error:
                # Not from inside the task group, which would wrap it.
                failure = error
            finally:
                tasks.cancel_scope.cancel()
                self._open.readiness.tasks = None
                with anyio.CancelScope(shield=True):
                    await self._open.leave()
        if failure is not None:
            raise failure

    def preparation(self) -> Preparation:
        return self._open.readiness.preparation()

    def prepare(self) -> None:
        """Begin to get ready, in the background; how far it is: `preparation()`."""
        self._open.readiness.begin()

    async def _look_after(self) -> None:
        renewed, forgotten = anyio.current_time(), anyio.current_time() - _FORGET + _FORGET_FIRST
        while True:
            await anyio.sleep(_TICK)
            now = anyio.current_time()
            try:
                await self._open.tidy()
                if now - renewed >= _RENEW:
                    renewed = now
                    await self._open.renew()
                    await self._keeping.count({entry.principal for entry in self._open.all()})
                    await self._keeping.leftovers.sweep()
                if now - forgotten >= _FORGET:
                    forgotten = now
                    await self.forget(self._clock.now() - self._limits.retention)
            except (LapError, OSError) as error:
                log.warning("sandboxes could not be looked after: %s", error)

    # Running code --------------------------------------------------------------------------------

    async def run(
        self,
        principal: Principal,
        code: str,
        *,
        sandbox_id: str | None = None,
        scope: str | None = None,
        files: Sequence[FileInput] = (),
        timeout: float = 45.0,
        replay: bool = False,
        on_output: OnOutput | None = None,
    ) -> SandboxRun:
        if not 0 < timeout <= self._limits.max_timeout:
            raise Invalid(
                f"timeout_s is {timeout:g}; it goes from 1 to {self._limits.max_timeout:g}."
            )
        given = await self._read_files(principal, files) if files else ()
        job = Job(code=code, given=given, timeout=timeout, replay=replay, on_output=on_output)
        while True:
            entry, opened = await self._entry(principal, sandbox_id, scope, bare=replay)
            with entry.used(self._clock):
                async with entry.lock:
                    if self._open.holds(entry):
                        return await self._run_in(entry, opened, job)
            # It ended while this call waited for its turn: it is opened again.
            sandbox_id = entry.id

    async def _entry(
        self, principal: Principal, sandbox_id: str | None, scope: str | None, *, bare: bool
    ) -> tuple[Entry, Opened | None]:
        if sandbox_id is not None:
            return await self._open.by_id(principal, sandbox_id, bare=bare)
        if scope is not None:
            return await self._open.of_scope(principal, scope, bare=bare)
        return await self._open.fresh(principal)

    async def _run_in(self, entry: Entry, opened: Opened | None, job: Job) -> SandboxRun:
        told = Told()
        restored = None if opened is None else opened.restored
        before = entry.dirty
        # Until it is known what became of the files: whatever cuts this off, they are looked at.
        entry.dirty = True
        try:
            stopped = await self._prepared(entry, job, restored, told)
            execution = stopped or await self._execute(entry, job, told)
        except SandboxGone as error:
            await self._open.lost(entry)
            raise gone(entry, error) from error
        except (BadPath, NoSuchFile, SandboxLimit, LauncherUnavailable) as error:
            raise worded(error) from error
        except LeaseLost as error:
            await self._open.lost(entry)
            raise Unavailable(
                f"Sandbox {entry.id} was taken over by another lap-mcp process meanwhile.",
                remedy="Go on there, or use a new one.",
            ) from error
        # What another look is owed for, beyond what this execution reported.
        entry.dirty = before or execution.files_more or bool(told.not_kept)
        return SandboxRun(
            sandbox_id=entry.id,
            execution=execution,
            fresh=opened is not None and restored is None,
            uris={file.path: sandbox_uri(entry.id, file.path) for file in execution.files},
            placed=told.placed,
            reopened=restored is not None,
            notes=told.notes,
            versions={
                file.path: entry.kept[file.path].sha256
                for file in execution.files
                if file.path in entry.kept and file.path not in told.not_kept
            },
            not_kept=told.not_kept,
        )

    async def _prepared(
        self, entry: Entry, job: Job, restored: Restored | None, told: Told
    ) -> Execution | None:
        """Replay, and have all files back; the outcome of a replay that ended early."""
        replayed = None
        if job.replay:
            entry.busy_until = self._clock.now() + 2 * job.timeout
            replayed = await self._replayed(entry, job)
        if entry.bare:
            rest = await self._keeping.restore(entry, only="made")
            if restored is not None:
                restored.files += rest.files
            told.not_kept.update(rest.left_out)
        if restored is not None:
            told.notes.append(restored_words(entry, restored, replay=job.replay))
            told.not_kept.update(restored.left_out)
        if replayed is None:
            return None
        told.notes.append(replayed.words)
        return replayed.stopped

    async def _replayed(self, entry: Entry, job: Job) -> Replayed:
        if not entry.cold:
            return Replayed("Its variables are still there: nothing was replayed.")
        todo = await replayable(entry, self._database, self._recorder)
        if isinstance(todo, str):
            return refused(f"Nothing was replayed: {todo}.")
        made = any(file.origin == "made" for file in entry.kept.values())
        if entry.ran or (made and not entry.bare):
            # Not among files that the cells are still to make: they would find what they left.
            await self._open.exchange(entry)
        return await replay_cells(entry, todo, job.timeout)

    async def _execute(self, entry: Entry, job: Job, told: Told) -> Execution:
        placed = [(await entry.sandbox.put(file.name, file.data), file.data) for file in job.given]
        told.placed += [info.path for info, _ in placed]
        if placed and not entry.borrowed:
            told.not_kept.update(await self._keeping.keep_given(entry, placed))
        entry.busy_until = self._clock.now() + job.timeout
        entry.ran = True
        execution = await entry.sandbox.execute(
            job.code, timeout=job.timeout, on_output=job.on_output
        )
        if execution.state_lost:
            entry.cold = True
        if entry.borrowed:
            return execution
        if execution.files_lost:
            execution = await self._refill(entry, execution)
        elif execution.files:
            told.not_kept.update(await self._keeping.keep(entry, execution.files))
        await self._recorder.note(entry, job.code, execution, room=self._keeping.has_room(entry))
        return execution

    async def _refill(self, entry: Entry, execution: Execution) -> Execution:
        """The execution ended its container, and there is another one: put the files back."""
        entry.ran = False
        if not entry.sandbox.alive:
            return replace(execution, notice=lost_words(execution, None))
        restored = await self._keeping.restore(entry)
        return replace(
            execution,
            files_lost=bool(restored.left_out),
            notice=lost_words(execution, restored),
        )

    # Looking -------------------------------------------------------------------------------------

    async def list(self, principal: Principal) -> Sequence[SandboxView]:
        records = await self._database.read(
            lambda connection: sandboxes.list_of(connection, principal.id)
        )
        entries = {entry.id: entry for entry in self._open.all() if entry.sandbox.alive}
        return [viewed(record, entries.get(record.id)) for record in records]

    async def files(
        self, principal: Principal, sandbox_id: str, *, after: str = "", limit: int = 1000
    ) -> Sequence[FileInfo]:
        entry = self._open.find(principal, sandbox_id)
        if entry is not None:
            try:
                listed = await entry.sandbox.list(limit=20_000)
            except SandboxError as error:
                raise worded(error) from error
            return [info for info in listed if info.path > after][:limit]

        def query(connection: Connection) -> Sequence[KeptFile]:
            sandboxes.find(connection, principal.id, sandbox_id)
            return sandbox_files.of_sandbox(connection, sandbox_id, after=after, limit=limit)

        kept = await self._database.read(query)
        return [FileInfo(path=f.path, size=f.size, modified=f.modified) for f in kept]

    async def file(self, principal: Principal, sandbox_id: str, path: str) -> bytes:
        kept = await self._kept(principal, sandbox_id, path)
        if kept is not None:
            return await self._blobs.get(kept.sha256)
        entry = self._open.find(principal, sandbox_id)
        if entry is None:
            raise NotFound(f"Sandbox {sandbox_id} keeps no file {path[:200]!r}.")
        with entry.used(self._clock):
            try:
                return await entry.sandbox.get(path)
            except SandboxError as error:
                raise worded(error) from error

    async def part(
        self, principal: Principal, sandbox_id: str, path: str, start: int, size: int
    ) -> FilePart:
        kept = await self._kept(principal, sandbox_id, path)
        if kept is None:
            raise NotFound(f"Sandbox {sandbox_id} keeps no file {path[:200]!r}.")
        data = await self._blobs.part(kept.sha256, start, size)
        return FilePart(path=path, size=kept.size, sha256=kept.sha256, start=start, data=data)

    async def content(
        self, principal: Principal, sandbox_id: str, path: str
    ) -> AsyncIterator[bytes]:
        """The whole file in pieces: one version of it.  Raises: NotFound."""
        kept = await self._kept(principal, sandbox_id, path)
        if kept is not None:
            return self._blobs.pieces(kept.sha256)
        return _once(await self.file(principal, sandbox_id, path))

    async def _kept(self, principal: Principal, sandbox_id: str, path: str) -> KeptFile | None:
        """Raises: NotFound: no such sandbox."""
        entry = self._open.find(principal, sandbox_id)
        if entry is not None:
            return entry.kept.get(path)

        def query(connection: Connection) -> KeptFile | None:
            sandboxes.find(connection, principal.id, sandbox_id)
            return sandbox_files.find(connection, sandbox_id, path)

        return await self._database.read(query)

    async def forget(self, before: float) -> int:
        """Forget sandboxes that nobody used since `before`, with their files; how many."""
        return await self._keeping.leftovers.forget(before)

    # What a container of the front doors needs (`container_parts.BoxesAPI`) ----------------------

    async def open(
        self, principal: Principal, scope: str, *, memory: int | None = None
    ) -> tuple[str, bool]:
        entry, opened = await self._open.borrowed(principal, scope, memory)
        return entry.id, opened is not None

    async def put(self, principal: Principal, sandbox_id: str, path: str, data: bytes) -> FileInfo:
        async with self._at(principal, sandbox_id) as sandbox:
            info: FileInfo = await sandbox.put(path, data)
        return info

    async def delete(self, principal: Principal, sandbox_id: str, path: str) -> None:
        async with self._at(principal, sandbox_id) as sandbox:
            await sandbox.delete(path)

    @asynccontextmanager
    async def _at(self, principal: Principal, sandbox_id: str) -> AsyncIterator[Sandbox]:
        """An open sandbox, to change its files.  Raises: NotFound, and what it refuses in words."""
        entry = self._open.find(principal, sandbox_id)
        if entry is None:
            raise sandboxes.missing(sandbox_id)
        with entry.used(self._clock):
            async with entry.lock:
                try:
                    yield entry.sandbox
                except SandboxGone as error:
                    raise gone(entry, error) from error
                except SandboxError as error:
                    raise worded(error) from error

    async def release(self, scope: str) -> None:
        await self._open.release(scope)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def sandbox_uri(sandbox_id: str, path: str) -> str:
    return f"lap://sandboxes/{sandbox_id}/files/{quote(path)}"
