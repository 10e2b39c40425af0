"""The warm pool: containers that are started before anybody wants them, one at a time, and replaced
when they are taken, dead or old.  Knows no engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import anyio
import anyio.to_thread

from lap_sandbox import pooling
from lap_sandbox.errors import LauncherUnavailable
from lap_sandbox.tasks import Tasks
from lap_sandbox.waiting import Signal

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 0.5
"""From the taking of a warm sandbox to its first answer; then another is started in any case."""
REST_SECONDS = 0.25
"""After that answer: what is asked next shall not compete with a start either."""
LOOK_SECONDS = 30.0
"""Between two looks at the pool."""
FIRST_RETRY_SECONDS = 0.5
"""After a start that failed; twice as long after each further one, up to the time between looks."""


class Warm(pooling.Aging, Protocol):
    async def remove(self) -> None: ...


T = TypeVar("T", bound=Warm)


class WarmPool(Generic[T]):
    """Keeps `size` ready, fewer where memory is short.  `start` makes one."""

    def __init__(
        self, tasks: Tasks, start: Callable[[], Awaitable[T]], *, size: int, age: float
    ) -> None:
        self._tasks = tasks
        self._start = start
        self._size = size
        self._age = age
        self._look_every = min(LOOK_SECONDS, age)
        self._waiting: list[T] = []
        self._filling = False
        self._looking = False
        self._news = Signal()
        """Something happened that makes another start worth trying."""

    def __len__(self) -> int:
        """How many wait to be taken."""
        return len(self._waiting)

    def all(self) -> list[T]:
        return list(self._waiting)

    def begin(self) -> None:
        """Fill it, and look after it from now on: what is dead or old is noticed, also where
        nobody takes any, and an engine that came back gets a pool again."""
        self.refill()
        if self._size and not self._looking:
            self._looking = self._tasks.start(self._look_after(), "look after the warm pool")

    async def take(
        self, fits: Callable[[T], bool], is_well: Callable[[T], Awaitable[bool]]
    ) -> T | None:
        """A waiting one that fits and is well."""
        for waiting in list(self._waiting):
            if not fits(waiting) or waiting not in self._waiting:
                continue
            self._waiting.remove(waiting)
            try:
                if await is_well(waiting):
                    return waiting
            except BaseException:  # the caller was cancelled: back with it
                self._waiting.append(waiting)
                raise
            self._tasks.start(waiting.remove(), "remove a dead warm sandbox")
        return None

    def refill(self, after: Signal | None = None) -> None:
        """Have it filled, in the background.

        `after`: not while the first answer of the one just taken is waited for, with which a start
        would compete."""
        if self._filling:
            self._news.set()
        else:
            self._filling = self._tasks.start(self._fill(after), "refill the warm pool")

    async def _fill(self, after: Signal | None) -> None:
        failures = 0
        try:
            if after is not None:
                await after.wait(ANSWER_SECONDS)
                await anyio.sleep(REST_SECONDS)
            while True:
                self._let_go()
                wanted = await self._wanted()
                # No turn of the loop from here to the end: one that is taken in it would be
                # missed, since this still counts as filling.
                if len(self._waiting) >= wanted:
                    return
                self._news.clear()
                try:
                    self._waiting.append(await self._start())
                    failures = 0
                except LauncherUnavailable as error:
                    failures += 1
                    if failures == 1:
                        logger.warning("no warm sandbox: %s", error.message)
                    pause = FIRST_RETRY_SECONDS * 2 ** min(failures - 1, 16)
                    await self._news.wait(min(pause, self._look_every))
        finally:
            self._filling = False

    def _let_go(self) -> None:
        """Of what is dead or old."""
        self._waiting, old = pooling.parted(self._waiting, time.monotonic(), self._age)
        for waiting in old:
            self._tasks.start(waiting.remove(), "remove an old warm sandbox")

    async def _wanted(self) -> int:
        standing = len(self._waiting)
        available = await anyio.to_thread.run_sync(pooling.available_memory)
        return pooling.wanted(self._size, standing, available)

    async def _look_after(self) -> None:
        while True:
            await anyio.sleep(self._look_every)
            self.refill()

    async def aclose(self) -> None:
        """End those that wait.  What fills it has ended by then: its `tasks` were closed."""
        async with anyio.create_task_group() as group:
            for waiting in self._waiting:
                group.start_soon(waiting.remove)
        self._waiting.clear()
