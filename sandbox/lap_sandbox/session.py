"""A sandbox on a container: executions with their ladder of stopping, files, replacement."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Literal

import anyio

from lap_sandbox import download, transfer
from lap_sandbox.base import Execution, FileInfo, Limits, OnOutput
from lap_sandbox.collect import Collector
from lap_sandbox.container import Container
from lap_sandbox.endings import NO_ENDING, Ending, outcome
from lap_sandbox.errors import LauncherUnavailable, LimitReached, SandboxGone
from lap_sandbox.runner import wire
from lap_sandbox.runner.wire import Kind
from lap_sandbox.waiting import Signal

SOFT_SECONDS = 2.0
"""What an interpreter gets to react to SIGINT."""
HARD_SECONDS = 10.0
"""What the supervisor gets to end everything and have a new worker: after a fork bomb on a machine
that is busy it takes several seconds, and without it the files are lost."""
QUIET_SECONDS = 2.0
"""Without a byte: ask the supervisor whether it is there."""
PONG_SECONDS = 5.0
MAX_CODE = 4 * 1024 * 1024
"""Bytes of code in one execution."""

GONE = "This sandbox has ended, and its variables and files with it. Open a new one."


class ContainerSandbox:
    """One sandbox.  Its container may be replaced during its life, never restarted.

    `spawn` makes a container like the first one; `ended` tells the launcher that this is over.
    """

    def __init__(
        self,
        container: Container,
        limits: Limits,
        spawn: Callable[[], Awaitable[Container]],
        ended: Callable[[ContainerSandbox], None],
        was_oom: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._container = container
        self._limits = limits
        self._head = wire.header_bytes(_asked(limits))
        self._spawn = spawn
        self._ended = ended
        self._was_oom = was_oom
        self._closed = False
        # Nobody waits, mostly: then taking it costs no turn of the loop.
        self._turn = anyio.Lock(fast_acquire=True)
        self._interrupted = False
        self._running: Signal | None = None
        """Tells the execution under way that something came."""
        self.answered = Signal()
        """The first execution has ended, or there will be none."""

    @property
    def alive(self) -> bool:
        return not self._closed and self._container.alive

    @property
    def container_id(self) -> str:
        return self._container.id

    def _require_alive(self) -> None:
        if not self.alive:
            error = self._container.link.error
            raise SandboxGone(f"{GONE} ({error})" if error is not None else GONE)

    async def execute(
        self, code: str, *, timeout: float, on_output: OnOutput | None = None
    ) -> Execution:
        self._require_alive()
        data = code.encode("utf-8", "replace")
        if len(data) > MAX_CODE:
            raise LimitReached(
                f"The code has {len(data)} bytes; {MAX_CODE} is the limit. Put data into a file."
            )
        async with self._turn:
            self._require_alive()
            return await self._execute(data, timeout, on_output)

    async def _execute(self, code: bytes, timeout: float, on_output: OnOutput | None) -> Execution:
        done = Signal()
        link = self._container.link
        collector = Collector(self._limits, on_output, done.set)
        id = link.expect(collector.on_frame)
        link.on_end(done.set)
        begun = time.monotonic()
        self._interrupted, self._running = False, done
        try:
            ending = await self._run(id, code, timeout, done, collector)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._stop("interrupted", done, collector, respawn=False)
            raise
        finally:
            self._running = None
            self.answered.set()
            link.off_end(done.set)
            link.forget(id)
        duration = time.monotonic() - begun
        end = outcome(collector.raised, collector.done or {}, ending, timeout, duration)
        return collector.execution(f"exe_{os.urandom(16).hex()}", end)

    async def _run(
        self, id: int, code: bytes, timeout: float, done: Signal, collector: Collector
    ) -> Ending:
        """Send the code and wait for its end, whatever the end is."""
        link = self._container.link
        await link.send(self._request(id, code))
        if await self._wait(done, timeout):
            if collector.done is not None:
                return NO_ENDING
            if self._interrupted and link.open:
                return await self._stop("interrupted", done, collector)
            return await self._container_lost()
        return await self._stop("timeout", done, collector)

    def _request(self, id: int, code: bytes) -> bytes:
        if len(code) <= wire.CHUNK:
            return wire.frame(Kind.EXECUTE, id, self._head, code)
        frames = [wire.encode(Kind.EXECUTE, id, {**_asked(self._limits), "more": True})]
        for start in range(0, len(code), wire.CHUNK):
            frames.append(wire.frame(Kind.DATA, id, b"", code[start : start + wire.CHUNK]))
        frames.append(wire.frame(Kind.END, id))
        return b"".join(frames)

    async def _wait(self, done: Signal, timeout: float) -> bool:
        """Wait for `done`; whether it came.  An engine that hangs is noticed on the way."""
        deadline = time.monotonic() + timeout
        link = self._container.link
        while (left := deadline - time.monotonic()) > 0:
            received = link.received
            if await done.wait(min(left, QUIET_SECONDS)):
                return True
            if link.received == received and left > QUIET_SECONDS:
                try:
                    await link.ping(PONG_SECONDS)
                except SandboxGone:
                    if not link.open:  # it has ended meanwhile: silence is another thing
                        return True
                    link.close()
                    self._closed = True
                    self._ended(self)
                    raise SandboxGone(
                        "The container engine or the sandbox stopped answering while code ran. "
                        "Its variables and files are lost."
                    ) from None
        return done.is_set()

    async def _stop(
        self,
        cause: Literal["timeout", "interrupted"],
        done: Signal,
        collector: Collector,
        *,
        respawn: bool = True,
    ) -> Ending:
        """The ladder: SIGINT, then SIGKILL of everything and a new worker, then a new container
        (not where nobody waits for it: a cancelled caller's sandbox just ends)."""
        link = self._container.link
        if link.open and collector.done is None:
            done.clear()  # an interrupt had set it
        for kind, seconds in ((Kind.INTERRUPT, SOFT_SECONDS), (Kind.KILL, HARD_SECONDS)):
            try:
                await link.send(wire.encode(kind))
            except SandboxGone:
                break
            await done.wait(seconds)
            if collector.done is not None:
                return Ending(cause=cause)
        if not respawn:
            await self.close()
            return Ending(cause=cause, container_lost=True, replaced=False)
        return await self._replace(Ending(cause=cause, container_lost=True))

    async def _container_lost(self) -> Ending:
        """The container ended while code ran: why, and a new one in its place.

        Raises:
            SandboxGone: it cannot be replaced, or was closed.
        """
        if self._closed or self._container.link.error is not None:
            self._closed = True
            raise SandboxGone(f"{GONE} {self._container.link.error or ''}".strip())
        try:
            oom = await self._was_oom(self._container.id)
        except LauncherUnavailable as error:
            self._closed = True
            self._ended(self)
            raise SandboxGone(f"The container engine stopped; {error.message}") from None
        return await self._replace(
            Ending(cause="out_of_memory" if oom else "died", container_lost=True)
        )

    async def _replace(self, ending: Ending) -> Ending:
        old = self._container
        try:
            await old.remove()
            if not self._closed:
                self._container = await self._spawn()
        except LauncherUnavailable:
            self._closed = True
            self._ended(self)
            return replace(ending, replaced=False)
        return ending

    async def interrupt(self) -> None:
        if self._running is not None and self.alive:
            self._interrupted = True
            self._running.set()

    async def reset(self) -> None:
        self._require_alive()
        async with self._turn:
            self._require_alive()
            await self._container.link.request(Kind.KILL, deadline=HARD_SECONDS)

    async def put(self, path: str, data: AsyncIterator[bytes] | bytes) -> FileInfo:
        self._require_alive()
        return await transfer.put(self._container.link, self._limits, path, data)

    async def get(self, path: str) -> bytes:
        self._require_alive()
        return await transfer.get(self._container.link, self._limits, path)

    async def copy(self, path: str, write: Callable[[bytes], Awaitable[None]]) -> int:
        self._require_alive()
        return await download.copy(self._container.link, self._limits, path, write)

    async def list(self, *, limit: int = 1000) -> Sequence[FileInfo]:
        self._require_alive()
        return await transfer.list_files(self._container.link, limit)

    async def delete(self, path: str) -> None:
        self._require_alive()
        await transfer.delete(self._container.link, path)

    async def close(self) -> None:
        self._closed = True
        self.answered.set()
        self._ended(self)
        with anyio.CancelScope(shield=True):
            await self._container.remove()


def _asked(limits: Limits) -> dict[str, int]:
    """The header of an `EXECUTE`."""
    return {
        "head": limits.output_head,
        "tail": limits.output_tail,
        "stdout_short": limits.stdout_short,
        "stderr_short": limits.stderr_short,
        "whole": limits.whole,
        "outputs": limits.images,
        "output_size": limits.image_size,
        "files": limits.reported_files,
    }
