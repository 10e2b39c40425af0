"""A sandbox that plays a script, for tests of what stands above the launchers.

It runs no code at all, is never reachable by configuration, and keeps the contract of `base.py`
(serial executions, files, interrupts, closing) so that callers can be tested without an engine.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import anyio
import anyio.lowlevel

from lap_sandbox.base import (
    Check,
    Execution,
    FileInfo,
    LauncherConfig,
    Limits,
    OnOutput,
    Preparation,
)
from lap_sandbox.errors import LauncherUnavailable, LimitReached, NotFound, SandboxGone
from lap_sandbox.paths import clean_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripted:
    """What one execution is to do."""

    execution: Execution = field(default_factory=lambda: Execution(id="", status="ok"))
    """Its id, duration and files are filled in by the sandbox."""
    live: Sequence[tuple[Literal["stdout", "stderr"], str]] = ()
    """Given to `on_output`, in order, before the execution ends."""
    writes: Mapping[str, bytes] = field(default_factory=dict)
    """Files it makes."""
    endless: bool = False
    """It runs until its timeout, an interrupt or the caller's cancellation."""
    dies: bool = False
    """The sandbox ends under it: `SandboxGone`."""


_PIECE = 128 * 1024

Script = Callable[[str], Scripted]
"""From the code to what happens.  May raise to fail a test."""


def echo(code: str) -> Scripted:
    """The default script: the code is its own output, the way `print` would show it."""
    execution = Execution(id="", status="ok", stdout=code, value=None)
    return Scripted(execution=execution, live=[("stdout", code)] if code else [])


class ScriptedSandbox:
    """One sandbox in this process.  `executed` lists the code it was given."""

    def __init__(self, script: Script, limits: Limits, labels: Mapping[str, str]) -> None:
        self.script = script
        self.limits = limits
        self.labels = dict(labels)
        self.executed: list[str] = []
        self.interrupts = 0
        self.resets = 0
        self.files: dict[str, tuple[bytes, float]] = {}
        self._alive = True
        self._lock = anyio.Lock()
        self._stop: anyio.Event | None = None

    @property
    def alive(self) -> bool:
        return self._alive

    @property
    def running(self) -> bool:
        """An execution is under way."""
        return self._stop is not None

    def _require_alive(self) -> None:
        if not self._alive:
            raise SandboxGone("This sandbox has ended. Open a new one; its files are gone.")

    async def execute(
        self, code: str, *, timeout: float, on_output: OnOutput | None = None
    ) -> Execution:
        self._require_alive()
        async with self._lock:
            self._require_alive()
            self.executed.append(code)
            step = self.script(code)
            begun = time.monotonic()
            for stream, text in step.live:
                if on_output is not None:
                    on_output(stream, text)
            execution = step.execution
            if step.endless:
                execution = await self._run_endless(execution, timeout)
            else:
                await anyio.lowlevel.checkpoint()
            if step.dies:
                self._alive = False
            self._require_alive()
            return replace(
                execution,
                id=f"exe_{len(self.executed)}",
                duration=time.monotonic() - begun,
                files=[self._write(path, data) for path, data in step.writes.items()],
            )

    async def _run_endless(self, execution: Execution, timeout: float) -> Execution:
        stop = self._stop = anyio.Event()
        try:
            with anyio.move_on_after(timeout) as scope:
                await stop.wait()
        except BaseException:
            self.interrupts += 1
            raise
        finally:
            self._stop = None
        if scope.cancelled_caught:
            notice = f"Stopped at its limit of {timeout:g} s; variables and files are kept."
            return replace(execution, status="timeout", notice=notice)
        return replace(execution, status="interrupted", notice="Interrupted; state is kept.")

    def _write(self, path: str, data: bytes) -> FileInfo:
        self.files[path] = (data, time.time())
        return self._info(path)

    def _info(self, path: str) -> FileInfo:
        data, modified = self.files[path]
        return FileInfo(path=path, size=len(data), modified=modified)

    async def interrupt(self) -> None:
        if self._stop is not None:
            self.interrupts += 1
            self._stop.set()

    async def reset(self) -> None:
        self._require_alive()
        self.resets += 1

    async def put(self, path: str, data: AsyncIterator[bytes] | bytes) -> FileInfo:
        self._require_alive()
        name = clean_path(path)
        body = b""
        async for part in _parts(data):
            body += part
            if len(body) > self.limits.file_size:
                raise LimitReached(f"`{name}` is larger than {self.limits.file_size} bytes.")
        return self._write(name, body)

    async def get(self, path: str) -> bytes:
        self._require_alive()
        name = clean_path(path)
        if name not in self.files:
            raise NotFound(f"There is no file `{name}` in /mnt/data.")
        return self.files[name][0]

    async def copy(self, path: str, write: Callable[[bytes], Awaitable[None]]) -> int:
        data = await self.get(path)
        for start in range(0, len(data), _PIECE):
            await write(data[start : start + _PIECE])
        return len(data)

    async def list(self, *, limit: int = 1000) -> Sequence[FileInfo]:
        self._require_alive()
        return [self._info(path) for path in sorted(self.files)][:limit]

    async def delete(self, path: str) -> None:
        self._require_alive()
        name = clean_path(path)
        if self.files.pop(name, None) is None:
            raise NotFound(f"There is no file `{name}` in /mnt/data.")

    async def close(self) -> None:
        self._alive = False
        if self._stop is not None:
            self._stop.set()


async def _parts(data: AsyncIterator[bytes] | bytes) -> AsyncIterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    async for part in data:
        yield part


class ScriptedLauncher:
    """Makes `ScriptedSandbox`es; `sandboxes` lists all that were opened.

    `unavailable` makes `prepare` and `open` fail the way an engine that is down does;
    `standing` is what `preparation()` says (an image that is still being built, for one).
    """

    name = "scripted"

    def __init__(self, script: Script = echo, config: LauncherConfig | None = None) -> None:
        self.script = script
        self.config = config or LauncherConfig()
        self.sandboxes: list[ScriptedSandbox] = []
        self.unavailable: LauncherUnavailable | None = None
        self.standing = Preparation(ready=True, words="ready")
        self.max_sandboxes: int | None = None

    def preparation(self) -> Preparation:
        return self.standing

    async def prepare(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.unavailable is not None:
            raise self.unavailable

    async def open(
        self, limits: Limits, *, labels: dict[str, str] | None = None
    ) -> ScriptedSandbox:
        await self.prepare()
        alive = sum(sandbox.alive for sandbox in self.sandboxes)
        if self.max_sandboxes is not None and alive >= self.max_sandboxes:
            raise LimitReached(f"{alive} sandboxes are open already. Close one and try again.")
        sandbox = ScriptedSandbox(self.script, limits, labels or {})
        self.sandboxes.append(sandbox)
        return sandbox

    async def preflight(self) -> Sequence[Check]:
        if self.unavailable is not None:
            error = self.unavailable
            return [Check(name="engine", level="error", words=str(error), remedy=error.remedy)]
        return [Check(name="engine", level="ok", words="scripted: runs no code")]

    async def reap(self) -> int:
        return 0

    async def aclose(self) -> None:
        for sandbox in self.sandboxes:
            await sandbox.close()
