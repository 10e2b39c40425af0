"""Sandboxes: whose they are, which one a call means, and when they end."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import quote

import anyio
from anyio.abc import TaskGroup
from lap_sandbox.base import FileInfo, Launcher, Limits, Preparation, Sandbox
from lap_sandbox.errors import (
    BadPath,
    LauncherUnavailable,
    SandboxError,
    SandboxGone,
)
from lap_sandbox.errors import LimitReached as SandboxLimit
from lap_sandbox.errors import NotFound as NoSuchFile

from lap_mcp.clock import Clock, SystemClock, new_id
from lap_mcp.errors import Invalid, LimitReached, NotFound, Unavailable
from lap_mcp.model import Principal

from .polling import until
from .prompt_files import GivenFile
from .services import FileInput, SandboxRun, SandboxView

log = logging.getLogger(__name__)

_PATIENCE = 1.0
"""Seconds that a call waits for a sandbox that is about to be ready, before it says how far."""

_SWEEP = 15.0
"""Seconds between looks for sandboxes that are idle for too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    sandbox: Limits = field(default_factory=Limits)
    idle: float = 20 * 60
    """Seconds without use after which a sandbox is closed."""
    open: int = 16
    """Sandboxes open at the same time, of everybody together."""
    per_principal: int = 8
    max_timeout: float = 240.0


ReadFiles = Callable[[Principal, Sequence[FileInput]], Awaitable[Sequence[GivenFile]]]


async def _no_files(principal: Principal, given: Sequence[FileInput]) -> Sequence[GivenFile]:
    raise Invalid("Files cannot be given here.")


@dataclass(eq=False)
class _Entry:
    id: str
    sandbox: Sandbox
    principal: str
    scope: str | None
    created_at: float
    used_at: float
    executions: int = 0
    users: int = 0
    """Calls that use it now."""


class Sandboxes:
    """Implements `services.SandboxesAPI`."""

    def __init__(
        self,
        launcher: Launcher,
        limits: SandboxLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._launcher = launcher
        self._read_files: ReadFiles = _no_files
        self._limits = limits or SandboxLimits()
        self._clock = clock or SystemClock()
        self._entries: dict[str, _Entry] = {}
        self._scopes: dict[str, str] = {}
        """Connection to its default sandbox."""
        self._opening: dict[str, anyio.Lock] = {}
        self._tasks: TaskGroup | None = None
        self._preparing = False

    @asynccontextmanager
    async def running(self, read_files: ReadFiles) -> AsyncIterator[Sandboxes]:
        """The background work of sandboxes; leaving closes every one.

        `read_files` comes late because files may be those of sandboxes.
        """
        self._read_files = read_files
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._sweep, name="sandbox sweeper")
            try:
                yield self
            except Exception as error:
                # Not from inside the task group, which would wrap it.
                failure = error
            finally:
                tasks.cancel_scope.cancel()
                self._tasks = None
                with anyio.CancelScope(shield=True):
                    await self._launcher.aclose()
                self._entries.clear()
        if failure is not None:
            raise failure

    def preparation(self) -> Preparation:
        return self._launcher.preparation()

    def prepare(self) -> None:
        """Begin to get ready, in the background; how far it is: `preparation()`."""
        if self._tasks is None or self._preparing:
            return
        self._preparing = True
        self._tasks.start_soon(self._prepare, name="sandbox preparation")

    async def _prepare(self) -> None:
        try:
            await self._launcher.prepare()
        except LauncherUnavailable as error:
            log.warning("no sandbox can be opened: %s", error)
        finally:
            self._preparing = False

    async def run(
        self,
        principal: Principal,
        code: str,
        *,
        sandbox_id: str | None = None,
        scope: str | None = None,
        files: Sequence[FileInput] = (),
        timeout: float = 45.0,
        on_output: Callable[[Literal["stdout", "stderr"], str], None] | None = None,
    ) -> SandboxRun:
        if not 0 < timeout <= self._limits.max_timeout:
            raise Invalid(
                f"timeout_s is {timeout:g}; it goes from 1 to {self._limits.max_timeout:g}."
            )
        given = await self._read_files(principal, files) if files else ()
        entry, fresh = await self._entry(principal, sandbox_id, scope)
        entry.users += 1
        try:
            with _worded(entry.id):
                for file in given:
                    await entry.sandbox.put(file.name, file.data)
                execution = await entry.sandbox.execute(code, timeout=timeout, on_output=on_output)
        finally:
            entry.users -= 1
            entry.used_at = self._clock.now()
            if not entry.sandbox.alive:
                self._forget(entry)
        entry.executions += 1
        return SandboxRun(
            sandbox_id=entry.id,
            execution=execution,
            fresh=fresh,
            uris={file.path: sandbox_uri(entry.id, file.path) for file in execution.files},
            placed=[file.name for file in given],
        )

    async def list(self, principal: Principal) -> Sequence[SandboxView]:
        return [
            SandboxView(
                id=entry.id,
                principal=entry.principal,
                created_at=entry.created_at,
                used_at=entry.used_at,
                executions=entry.executions,
                busy=entry.users > 0,
            )
            for entry in self._entries.values()
            if entry.principal == principal.id and entry.sandbox.alive
        ]

    async def files(self, principal: Principal, sandbox_id: str) -> Sequence[FileInfo]:
        entry = self._find(principal, sandbox_id)
        with _worded(sandbox_id):
            return await entry.sandbox.list()

    async def file(self, principal: Principal, sandbox_id: str, path: str) -> bytes:
        entry = self._find(principal, sandbox_id)
        entry.users += 1
        try:
            with _worded(sandbox_id):
                return await entry.sandbox.get(path)
        finally:
            entry.users -= 1
            entry.used_at = self._clock.now()

    # What a container of the front doors needs (`containers.BoxesAPI`).

    async def open(
        self, principal: Principal, scope: str, *, memory: int | None = None
    ) -> tuple[str, bool]:
        entry, fresh = await self._entry(principal, None, scope, memory)
        return entry.id, fresh

    async def put(self, principal: Principal, sandbox_id: str, path: str, data: bytes) -> FileInfo:
        entry = self._find(principal, sandbox_id)
        with _worded(sandbox_id):
            return await entry.sandbox.put(path, data)

    async def delete(self, principal: Principal, sandbox_id: str, path: str) -> None:
        entry = self._find(principal, sandbox_id)
        with _worded(sandbox_id):
            await entry.sandbox.delete(path)

    async def release(self, scope: str) -> None:
        sandbox_id = self._scopes.pop(scope, None)
        entry = None if sandbox_id is None else self._entries.get(sandbox_id)
        self._opening.pop(scope, None)
        if entry is not None:
            await self._close(entry)

    # Which sandbox -----------------------------------------------------------------------------

    async def _entry(
        self,
        principal: Principal,
        sandbox_id: str | None,
        scope: str | None,
        memory: int | None = None,
    ) -> tuple[_Entry, bool]:
        if sandbox_id is not None:
            return self._find(principal, sandbox_id), False
        if scope is None:
            return await self._open(principal, None), True
        # Free nearly always: then taking it costs no turn of the loop.
        async with self._opening.setdefault(scope, anyio.Lock(fast_acquire=True)):
            known = self._entries.get(self._scopes.get(scope, ""))
            if known is not None and known.sandbox.alive and known.principal == principal.id:
                return known, False
            return await self._open(principal, scope, memory), True

    def _find(self, principal: Principal, sandbox_id: str) -> _Entry:
        entry = self._entries.get(sandbox_id)
        if entry is None or entry.principal != principal.id or not entry.sandbox.alive:
            raise NotFound(
                f"There is no sandbox {sandbox_id[:60]!r}; it may have ended, with its files.",
                remedy="Leave sandbox out to use a new one.",
            )
        return entry

    async def _open(
        self, principal: Principal, scope: str | None, memory: int | None = None
    ) -> _Entry:
        await self._ready()
        await self._make_room(principal)
        limits = self._limits.sandbox
        if memory is not None and memory != limits.memory:
            limits = replace(limits, memory=memory)
        try:
            sandbox = await self._launcher.open(limits)
        except LauncherUnavailable as error:
            raise Unavailable(error.message, remedy=error.remedy) from error
        except SandboxLimit as error:
            raise LimitReached(str(error)) from error
        now = self._clock.now()
        entry = _Entry(new_id("sbx"), sandbox, principal.id, scope, now, now)
        self._entries[entry.id] = entry
        if scope is not None:
            self._scopes[scope] = entry.id
        return entry

    async def _ready(self) -> None:
        if self._launcher.preparation().ready:
            return
        self.prepare()
        await until(self._known, _PATIENCE)
        state = self._launcher.preparation()
        if state.ready:
            return
        if state.error is not None:
            raise Unavailable(f"Python cannot run here now: {state.error}")
        far = "" if state.fraction is None else f" ({state.fraction:.0%})"
        raise Unavailable(
            f"The sandbox is being prepared: {state.words}{far}.",
            remedy="Call again in half a minute; everything else works meanwhile.",
        )

    def _known(self) -> bool:
        state = self._launcher.preparation()
        return state.ready or (state.error is not None and not self._preparing)

    async def _make_room(self, principal: Principal) -> None:
        mine = [entry for entry in self._entries.values() if entry.principal == principal.id]
        if len(mine) >= self._limits.per_principal:
            await self._close_oldest(mine, "sandboxes of yours", "sandbox.per_principal")
        elif len(self._entries) >= self._limits.open:
            await self._close_oldest(list(self._entries.values()), "sandboxes", "sandbox.max_open")

    async def _close_oldest(self, entries: Sequence[_Entry], what: str, key: str) -> None:
        idle = [entry for entry in entries if entry.users == 0]
        if not idle:
            raise LimitReached(
                f"{len(entries)} {what} are busy, the limit ({key}).", remedy="Try again in 10 s."
            )
        await self._close(min(idle, key=lambda entry: entry.used_at))

    # Ends --------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        while True:
            await anyio.sleep(_SWEEP)
            limit = self._clock.now() - self._limits.idle
            for entry in tuple(self._entries.values()):
                if not entry.sandbox.alive:
                    self._forget(entry)
                elif entry.users == 0 and entry.used_at < limit:
                    await self._close(entry)

    async def _close(self, entry: _Entry) -> None:
        self._forget(entry)
        with anyio.CancelScope(shield=True):
            try:
                await entry.sandbox.close()
            except SandboxError as error:
                log.warning("sandbox %s did not close cleanly: %s", entry.id, error)

    def _forget(self, entry: _Entry) -> None:
        self._entries.pop(entry.id, None)
        if entry.scope is not None and self._scopes.get(entry.scope) == entry.id:
            del self._scopes[entry.scope]


def sandbox_uri(sandbox_id: str, path: str) -> str:
    return f"lap://sandboxes/{sandbox_id}/files/{quote(path)}"


class _worded:  # noqa: N801 - reads as the statement it is
    """Says what a sandbox refuses in the words and classes of the control plane."""

    _MAP: Mapping[type[SandboxError], type[Exception]] = {
        BadPath: Invalid,
        NoSuchFile: NotFound,
        SandboxLimit: LimitReached,
        LauncherUnavailable: Unavailable,
    }

    def __init__(self, sandbox_id: str) -> None:
        self._sandbox_id = sandbox_id

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SandboxGone):
            raise Unavailable(
                f"Sandbox {self._sandbox_id} has ended: {error}",
                remedy="Call again without sandbox for a new one; its files are gone.",
            ) from error
        for ours, theirs in self._MAP.items():
            if isinstance(error, ours):
                raise theirs(str(error)) from error
