"""Writing to one session as the holder of its lease.

A store that is full or locked for a while is asked again; a lease that is gone ends everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import anyio
from sqlalchemy import Connection

from lap_mcp.errors import StoreError, StoreUncertain
from lap_mcp.model import StoredEvent
from lap_mcp.store import events as event_store
from lap_mcp.store.events import Memory, NewEvent, Progress
from lap_mcp.store.leases import Lease

from .answers import Said
from .changes import Change
from .engine import Engine

T = TypeVar("T")

_PATIENCE = 60.0
"""Seconds before a turn is left to a later process."""


class Leased:
    def __init__(self, engine: Engine, lease: Lease, turn_id: str) -> None:
        self.engine = engine
        self.lease = lease
        self.turn_id = turn_id
        """The turn that runs now."""
        self.live = engine.hub.get(lease.session_id)
        self.said = Said()
        """What the agent said in the turn that runs now."""
        self.memory: Memory | None = None
        """Of that turn, where it is driven from here since it began."""
        self.order = anyio.Lock(fast_acquire=True)
        """Held while an event is taken in, and while an answer is passed on: what follows from an
        answer is stored after it."""

    @property
    def now(self) -> float:
        return self.engine.clock.now()

    async def write(self, query: Callable[[Connection], T], *, quick: bool = True) -> T:
        """A write, mostly a quick one.

        Raises:
            LeaseLost
            StoreError: the store stayed unusable, or does not tell whether it was written.
        """
        give_up = anyio.current_time() + _PATIENCE
        pause = 0.2
        while True:
            try:
                with anyio.CancelScope(shield=True):
                    return await self.engine.database.write(query, quick=quick)
            except StoreUncertain:
                raise
            except StoreError:
                if anyio.current_time() + pause > give_up:
                    raise
            await anyio.sleep(pause)
            pause = min(pause * 2, 5.0)

    async def append(self, new: Sequence[NewEvent], progress: Progress | None = None) -> None:
        """Raises: LeaseLost, StoreError."""
        turn_id, memory = self.turn_id, self.memory
        stored = await self.write(
            lambda connection: event_store.append(
                connection, self.lease, turn_id, new, self.now, progress, memory
            )
        )
        if memory is not None:
            memory.stored(new)
        self.publish(stored)

    def begin(self, *, whole: bool) -> None:
        """A turn comes now.  `whole`: nothing of it was stored before, by anybody."""
        self.said.begin(whole=whole)
        self.memory = Memory() if whole else None

    def publish(self, stored: Sequence[StoredEvent]) -> None:
        """Show what was stored to those who follow."""
        self.live.publish(stored)
        self.said.add(stored)
        if any(event.type.startswith("session.status") for event in stored):
            self.live.doubt(self.turn_id)
            uri = f"lap://sessions/{self.lease.session_id}"
            self.engine.changes.publish(Change("resource", uri))
