"""Ends a turn's stream here as soon as its runtime was told to stop it, for runtimes whose stream
may stay open after that.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import anyio

from lap_runtimes.base import Event


class Running:
    """One stream that is read.  `stopped` tells that it was ended by `Stoppable.stop`."""

    def __init__(self) -> None:
        self.stopped = False
        self._scope: anyio.CancelScope | None = None

    def stop(self) -> None:
        self.stopped = True
        if self._scope is not None:
            self._scope.cancel()

    async def each(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """The events until they end or are stopped.  No scope is open while one is given out."""
        while not self.stopped:
            event: Event | None = None
            with anyio.CancelScope() as self._scope:
                event = await anext(events, None)
            self._scope = None
            if event is None:
                return
            yield event


class Stoppable:
    """The streams of one runtime that are being read, by turn."""

    def __init__(self) -> None:
        self._running: dict[str, set[Running]] = {}

    @contextmanager
    def running(self, turn_id: str) -> Iterator[Running]:
        made = Running()
        self._running.setdefault(turn_id, set()).add(made)
        try:
            yield made
        finally:
            here = self._running[turn_id]
            here.discard(made)
            if not here:
                del self._running[turn_id]

    def stop(self, turn_id: str) -> None:
        for running in tuple(self._running.get(turn_id, ())):
            running.stop()
