"""One task's wait for something that a callback of the event loop tells it, with a deadline.

An `anyio.Event` inside a cancel scope does the same at five times the cost, which every execution
would pay.  Being cancelled by an anyio scope works as anywhere else.
"""

from __future__ import annotations

import asyncio


class Signal:
    """Set once or again after `clear`; one task may wait at a time."""

    def __init__(self) -> None:
        self._set = False
        self._waiting: asyncio.Future[None] | None = None

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        if self._waiting is not None:
            _wake(self._waiting)

    def clear(self) -> None:
        self._set = False

    async def wait(self, seconds: float) -> bool:
        """Wait at most `seconds`; whether it is set."""
        if self._set:
            return True
        loop = asyncio.get_running_loop()
        waiting = self._waiting = loop.create_future()
        timer = loop.call_later(seconds, _wake, waiting)
        try:
            await waiting
        finally:
            timer.cancel()
            self._waiting = None
        return self._set


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
