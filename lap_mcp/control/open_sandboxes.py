"""Sandboxes that have a container in this process: opened, opened again with their files, closed.

One id is opened or closed by one task at a time, and by one process: whoever opens it holds its
lease, so that no other process writes for it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio
import anyio.to_thread
from lap_sandbox.base import Launcher, Sandbox
from lap_sandbox.errors import LauncherUnavailable, SandboxError
from lap_sandbox.errors import LimitReached as SandboxLimit
from sqlalchemy import Connection

from lap_mcp.clock import Clock, new_id
from lap_mcp.errors import Conflict, LapError, LimitReached, NotFound, Unavailable
from lap_mcp.model import Principal
from lap_mcp.store import owners, sandbox_files, sandboxes
from lap_mcp.store.database import Database
from lap_mcp.store.sandboxes import Held, SandboxRecord

from .cell_record import Recorder
from .keeping import Keeping, Restored
from .readiness import Readiness
from .sandbox_entry import Entry, Room, SandboxLimits

log = logging.getLogger(__name__)

_LAST_LOOK = 10.0
"""Seconds for what is to be kept of a sandbox that is closed."""
_LAST_LOOK_AT_END = 4.0
"""The same when the server stops."""
_GOODBYE = 2.0


@dataclass(frozen=True, slots=True)
class Opened:
    """A container was opened for this call."""

    restored: Restored | None = None
    """Of an earlier container; `None`: the sandbox is new."""


class OpenSandboxes:
    def __init__(
        self,
        launcher: Launcher,
        database: Database,
        keeping: Keeping,
        recorder: Recorder,
        limits: SandboxLimits,
        clock: Clock,
    ) -> None:
        self._launcher = launcher
        self._database = database
        self._keeping = keeping
        self._recorder = recorder
        self._limits = limits
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._scopes: dict[str, str] = {}
        """Connection to its default sandbox."""
        self._busy: dict[str, anyio.Lock] = {}
        """By scope and by sandbox id: who opens or closes it."""
        self._room = Room(limits, clock, self._entries.values, self.close)
        self.owner = new_id("own")
        self.readiness = Readiness(launcher)

    # Who we are ----------------------------------------------------------------------------------

    async def enter(self) -> None:
        me = await anyio.to_thread.run_sync(owners.this_process, self.owner)
        now = self._clock.now()
        await self._database.write(lambda connection: owners.register(connection, me, now))

    async def leave(self) -> None:
        """Keep what is there, end every container, let go of every lease."""
        left = list(self._entries.values())
        self._entries.clear()
        self._scopes.clear()
        with anyio.move_on_after(_LAST_LOOK_AT_END):
            async with anyio.create_task_group() as tasks:
                for entry in left:
                    if entry.sandbox.alive:
                        tasks.start_soon(self._keeping.close, entry)
        await self._launcher.aclose()
        with anyio.move_on_after(_GOODBYE):
            try:
                await self._recorder.flush()
                await self._database.write(lambda connection: self._goodbye(connection, left))
            except LapError as error:
                log.warning("sandboxes could not say goodbye to the store: %s", error)

    def _goodbye(self, connection: Connection, left: list[Entry]) -> None:
        for entry in left:
            (sandboxes.drop if entry.borrowed else sandboxes.free)(connection, entry.held)
        owners.leave(connection, self.owner)

    # Which one -----------------------------------------------------------------------------------

    def all(self) -> list[Entry]:
        return list(self._entries.values())

    def find(self, principal: Principal, sandbox_id: str) -> Entry | None:
        """The one that is open here.  Raises: NotFound for somebody else's."""
        entry = self._entries.get(sandbox_id)
        if entry is None or not entry.sandbox.alive:
            return None
        if entry.principal != principal.id:
            raise sandboxes.missing(sandbox_id)
        return entry

    def holds(self, entry: Entry) -> bool:
        return self._entries.get(entry.id) is entry and entry.sandbox.alive

    async def by_id(
        self, principal: Principal, sandbox_id: str, *, bare: bool = False
    ) -> tuple[Entry, Opened | None]:
        """`bare`: if it is opened again, then with the given files only.

        Raises: NotFound, Conflict, LimitReached, Unavailable.
        """
        entry = self.find(principal, sandbox_id)
        if entry is not None:
            return entry, None
        # Before anything that takes time: foreign and missing are alike in that, too.
        await self._record(principal, sandbox_id)
        async with self._alone(sandbox_id):
            entry = self.find(principal, sandbox_id)
            if entry is not None:
                return entry, None
            dead = self._entries.get(sandbox_id)
            if dead is not None:
                await self._end(dead)
            return await self._reopen(await self._record(principal, sandbox_id), bare=bare)

    async def of_scope(
        self, principal: Principal, scope: str, *, bare: bool = False
    ) -> tuple[Entry, Opened | None]:
        """The default sandbox of a connection; as `by_id`."""
        known = self._entries.get(self._scopes.get(scope, ""))
        if known is not None and known.sandbox.alive and known.principal == principal.id:
            return known, None
        async with self._alone(scope):
            sandbox_id = self._scopes.get(scope)
            if sandbox_id is not None:
                try:
                    return await self.by_id(principal, sandbox_id, bare=bare)
                except NotFound:  # forgotten, or another principal's on the same connection
                    self._scopes.pop(scope, None)
            return await self._fresh(principal, scope)

    async def fresh(self, principal: Principal) -> tuple[Entry, Opened | None]:
        return await self._fresh(principal, None)

    async def borrowed(
        self, principal: Principal, scope: str, memory: int | None
    ) -> tuple[Entry, Opened | None]:
        """As `of_scope`, for one that keeps everything itself.  `memory`: bytes of a new one."""
        known = self._entries.get(self._scopes.get(scope, ""))
        if known is not None and known.sandbox.alive and known.principal == principal.id:
            return known, None
        async with self._alone(scope):
            dead = self._entries.get(self._scopes.pop(scope, ""))
            if dead is not None:
                await self._end(dead)
            return await self._fresh(principal, scope, memory=memory, borrowed=True)

    async def _record(self, principal: Principal, sandbox_id: str) -> SandboxRecord:
        return await self._database.read(
            lambda connection: sandboxes.find(connection, principal.id, sandbox_id)
        )

    @asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[None]:
        # Free nearly always: then taking it costs no turn of the loop.
        lock = self._busy.setdefault(key, anyio.Lock(fast_acquire=True))
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and self._busy.get(key) is lock:
                del self._busy[key]

    # Opening -------------------------------------------------------------------------------------

    async def _fresh(
        self,
        principal: Principal,
        scope: str | None,
        *,
        memory: int | None = None,
        borrowed: bool = False,
    ) -> tuple[Entry, Opened]:
        await self.readiness.require()
        await self._room.reserve(principal.id)
        try:
            sandbox = await self._launch(memory)
            now = self._clock.now()
            sandbox_id = new_id("sbx")
            try:
                held = await self._database.write(
                    lambda connection: sandboxes.add(
                        connection, sandbox_id, principal.id, self.owner, now
                    )
                )
            except BaseException:
                await self._drop(sandbox)
                raise
            entry = Entry(sandbox_id, principal.id, sandbox, held, scope, now, now, borrowed)
            self._entries[entry.id] = entry
        finally:
            self._room.settled(principal.id)
        if scope is not None:
            self._scopes[scope] = entry.id
        return entry, Opened()

    async def _reopen(self, record: SandboxRecord, *, bare: bool) -> tuple[Entry, Opened]:
        await self.readiness.require()
        await self._room.reserve(record.principal)
        try:
            held = await self._seize(record.id)
            try:
                entry, restored = await self._refilled(record, held, bare=bare)
            except BaseException:
                await self._free(held)
                raise
            self._entries[entry.id] = entry
        finally:
            self._room.settled(record.principal)
        return entry, Opened(restored)

    async def _refilled(
        self, record: SandboxRecord, held: Held, *, bare: bool
    ) -> tuple[Entry, Restored]:
        kept = await self._database.read(
            lambda connection: sandbox_files.of_sandbox(connection, record.id)
        )
        sandbox = await self._launch()
        now = self._clock.now()
        entry = Entry(record.id, record.principal, sandbox, held, None, record.created_at, now)
        entry.number = record.executions
        entry.cold = record.executions > 0
        entry.kept = {file.path: file for file in kept}
        entry.kept_size = sum(file.size for file in kept)
        try:
            return entry, await self._keeping.restore(entry, only="given" if bare else None)
        except BaseException as error:
            await self._drop(sandbox)
            if not isinstance(error, SandboxError):
                raise
            raise Unavailable(
                f"The files of sandbox {record.id} could not be put back: {error}",
                remedy="They are still kept. Call again.",
            ) from error

    async def exchange(self, entry: Entry) -> Restored:
        """Another container for an open sandbox, with the given files only.

        Raises: Unavailable, LimitReached, SandboxGone
        """
        fresh = await self._launch()
        old, entry.sandbox = entry.sandbox, fresh
        entry.ran = False
        await self._drop(old)
        return await self._keeping.restore(entry, only="given")

    async def _seize(self, sandbox_id: str) -> Held:
        """Raises: Conflict: another process has it open; which."""
        holder = await self._database.read(
            lambda connection: sandboxes.holder(connection, sandbox_id)
        )
        dead: list[str] = []
        if holder is not None and (
            holder.id == self.owner
            or holder.pid == 0
            or await anyio.to_thread.run_sync(owners.gone, holder)
        ):
            dead = [holder.id]
        now = self._clock.now()
        held = await self._database.write(
            lambda connection: sandboxes.take(connection, sandbox_id, self.owner, now, dead)
        )
        if held is None:
            which = "" if holder is None else f" (process {holder.pid})"
            raise Conflict(
                f"Sandbox {sandbox_id} is open in another lap-mcp process{which}.",
                remedy="Go on there, or use a new one: its files can be given by their lap:// "
                "addresses.",
            )
        return held

    async def _launch(self, memory: int | None = None) -> Sandbox:
        limits = self._limits.sandbox
        if memory is not None and memory != limits.memory:
            limits = replace(limits, memory=memory)
        try:
            return await self._launcher.open(limits)
        except LauncherUnavailable as error:
            raise Unavailable(error.message, remedy=error.remedy) from error
        except SandboxLimit as error:
            raise LimitReached(str(error)) from error

    # Closing -------------------------------------------------------------------------------------

    async def release(self, scope: str) -> None:
        """A connection ended."""
        entry = self._entries.get(self._scopes.pop(scope, ""))
        if entry is not None:
            entry.scope = None
            await self.close(entry)

    async def close(self, entry: Entry) -> None:
        """Give up the container of an idle sandbox; its files are kept, its id opens it again."""
        async with self._alone(entry.id):
            if entry.idle and self._entries.get(entry.id) is entry:
                await self._end(entry)

    async def lost(self, entry: Entry) -> None:
        """Its container, or its lease, is gone."""
        async with self._alone(entry.id):
            if self._entries.get(entry.id) is entry:
                await self._end(entry)

    async def _end(self, entry: Entry) -> None:
        del self._entries[entry.id]
        with anyio.CancelScope(shield=True):
            if entry.sandbox.alive:
                with anyio.move_on_after(_LAST_LOOK):
                    await self._keeping.close(entry)
            await self._drop(entry.sandbox)
            self._keeping.closed(entry)
            try:
                await self._recorder.flush()
            except LapError as error:
                log.warning("cells could not be recorded: %s", error)
            await self._free(entry.held, whole=entry.borrowed)

    async def _drop(self, sandbox: Sandbox) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await sandbox.close()
            except SandboxError as error:
                log.warning("a sandbox did not close cleanly: %s", error)

    async def _free(self, held: Held, *, whole: bool = False) -> None:
        """`whole`: with everything that the store knows of it."""
        free = sandboxes.drop if whole else sandboxes.free
        with anyio.CancelScope(shield=True):
            try:
                await self._database.write(lambda connection: free(connection, held))
            except LapError as error:
                log.warning("sandbox %s stays ours until its lease ends: %s", held, error)

    # Looking after -------------------------------------------------------------------------------

    async def renew(self) -> None:
        """Renew leases; close what another process took, what is dead, what is idle for long."""
        now = self._clock.now()
        held = [entry.held for entry in self._entries.values()]
        if held:
            taken = await self._database.write(
                lambda connection: sandboxes.renew(connection, held, now)
            )
            for sandbox_id in taken:
                log.warning("sandbox %s was taken over by another process", sandbox_id)
                if (found := self._entries.get(sandbox_id)) is not None:
                    await self._drop(found.sandbox)
        for entry in self.all():
            old = entry.used_at < now - self._limits.idle
            if entry.idle and (old or not entry.sandbox.alive):
                await self.close(entry)

    async def tidy(self) -> None:
        """Keep what idle sandboxes hold and no execution reported."""
        for entry in self.all():
            if not (entry.dirty and entry.idle and entry.sandbox.alive):
                continue
            async with self._alone(entry.id):
                # A call that has the lock may want to be alone with it, to close it: so nobody
                # who is alone ever waits for the lock.
                if not self.holds(entry) or entry.lock.locked():
                    continue
                async with entry.lock:
                    await self._tidied(entry)

    async def _tidied(self, entry: Entry) -> None:
        try:
            await self._keeping.reconcile(entry)
        except (LapError, SandboxError) as error:
            log.warning("files of %s were not looked through: %s", entry.id, error)
            entry.dirty = False
