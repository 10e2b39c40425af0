"""Background tasks with an owner that ends them.  Needed where a contract has no task group: a
launcher's `open` returns a sandbox whose link must be read from then on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import anyio

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 40
"""A container that is being started cannot be left half-way; this is longer than that takes."""


class Tasks:
    """Tasks of one owner, on the running event loop (asyncio is the only backend)."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], anyio.CancelScope] = {}
        self._closed = False

    def start(self, work: Coroutine[Any, Any, None], name: str) -> bool:
        """Run `work` until it ends or `aclose`; after `aclose` it is not run at all."""
        if self._closed:
            work.close()
            return False
        scope = anyio.CancelScope()
        task = asyncio.get_running_loop().create_task(_within(scope, work), name=name)
        self._tasks[task] = scope
        task.add_done_callback(self._done)
        return True

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s ended by an error", task.get_name(), exc_info=task.exception())

    async def aclose(self) -> None:
        """Cancel all and wait for them.  By their scopes: `Task.cancel` would break into what
        they shield, such as the start of a container."""
        self._closed = True
        for scope in self._tasks.values():
            scope.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=CLOSE_SECONDS)


async def _within(scope: anyio.CancelScope, work: Coroutine[Any, Any, None]) -> None:
    with scope:
        await work
