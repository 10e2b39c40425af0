"""Background tasks with an owner that ends them.  Needed where a contract has no task group: a
launcher's `open` returns a sandbox whose link must be read from then on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 40
"""A container that is being started cannot be left half-way; this is longer than that takes."""


class Tasks:
    """Tasks of one owner, on the running event loop (asyncio is the only backend)."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None] | None:
        """Run `work` until it ends or `aclose`; after `aclose` it is not run at all."""
        if self._closed:
            work.close()
            return None
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s ended by an error", task.get_name(), exc_info=task.exception())

    async def aclose(self) -> None:
        """Cancel and wait for all."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
