"""Progress of one call: what is fed in goes out in few, growing steps, and silence is filled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio

from .text import clean

Report = Callable[[float, float | None, str | None], Awaitable[None]]
"""`(progress, total, message)`."""

PACE: Final = 0.25
"""Seconds between two notifications at least."""
MAX_MESSAGE: Final = 1000
"""Characters of one message; of a burst the end is kept."""


class Progress:
    """Sends nothing at all where `report` is `None`: the client did not ask for progress."""

    def __init__(self, report: Report | None, *, heartbeat: float, idle: str = "Working.") -> None:
        self._report = report
        self._heartbeat = heartbeat
        self._buffer = ""
        self._step = 0
        self._news = anyio.Event()
        self.idle = idle
        """What a heartbeat says."""

    @property
    def wanted(self) -> bool:
        return self._report is not None

    def feed(self, text: str) -> None:
        """More text.  Never blocks."""
        if self._report is None or not text:
            return
        self._buffer = (self._buffer + text)[-4 * MAX_MESSAGE :]
        self._news.set()

    def say(self, text: str) -> None:
        """A line of its own."""
        start = "\n" if self._buffer and not self._buffer.endswith("\n") else ""
        self.feed(f"{start}{text}\n")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send while inside; what is left is sent at the end."""
        if self._report is None:
            yield
            return
        failure: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._pump)
            try:
                yield
            except Exception as error:
                # Not from inside the task group, which would wrap it.
                failure = error
            group.cancel_scope.cancel()
        await self._flush()
        if failure is not None:
            raise failure

    async def _pump(self) -> None:
        while True:
            with anyio.move_on_after(self._heartbeat):
                await self._news.wait()
            if self._buffer:
                await self._flush()
            else:
                await self._send(self.idle)
            await anyio.sleep(PACE)

    async def _flush(self) -> None:
        text, self._buffer = self._buffer, ""
        self._news = anyio.Event()
        message = clean(text).strip()[-MAX_MESSAGE:]
        if message:
            await self._send(message)

    async def _send(self, message: str) -> None:
        if self._report is not None:
            self._step += 1
            await self._report(float(self._step), None, message)
