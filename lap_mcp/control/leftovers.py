"""Bytes of sandboxes that nothing names any more: deleted a while later, or when they are found."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass

from lap_mcp.clock import Clock
from lap_mcp.store import sandbox_files, sandboxes
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import Database

from .sandbox_entry import SandboxLimits

GRACE = 300.0
"""Seconds between a blob's last name going away and its end: somebody may have found it there and
not yet have said so."""


@dataclass(frozen=True, slots=True)
class _Leftover:
    since: float
    sha256: str
    size: int
    principal: str


class Leftovers:
    def __init__(
        self, database: Database, blobs: BlobStore, limits: SandboxLimits, clock: Clock
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._limits = limits
        self._clock = clock
        self._waiting: deque[_Leftover] = deque()
        self._sizes: Counter[str] = Counter()

    def add(self, principal: str, sha256: str, size: int) -> None:
        """A sandbox of the principal named it, and names it no more."""
        self._waiting.append(_Leftover(self._clock.now(), sha256, size, principal))
        self._sizes[principal] += size

    def of(self, principal: str) -> int:
        """Bytes of theirs that wait for their end: they count as kept."""
        return self._sizes[principal]

    async def sweep(self) -> None:
        now = self._clock.now()
        due: dict[str, float] = {}
        while self._waiting and self._waiting[0].since + GRACE < now:
            one = self._waiting.popleft()
            self._sizes[one.principal] -= one.size
            due[one.sha256] = one.since
        if due:
            await self._discard(due, min(due.values()))

    async def forget(self, before: float) -> int:
        """Drop sandboxes that nobody used since `before`, with their bytes; how many."""
        count, now = 0, self._clock.now()
        while True:
            gone = await self._database.write(
                lambda connection: sandboxes.forget(connection, before, now)
            )
            count += gone.count
            if gone.blobs:
                await self._discard(gone.blobs, now - GRACE)
            if not gone.count:
                break
        # What was left by servers that were killed.  As old as that, because a store that was
        # exchanged for another one knows none of these files, and may come back.
        old = now - self._limits.retention
        candidates = await self._blobs.old(old)
        for start in range(0, len(candidates), 1000):
            await self._discard(candidates[start : start + 1000], old)
        return count

    async def _discard(self, candidates: Collection[str], before: float) -> None:
        unnamed = await self._database.read(
            lambda connection: sandbox_files.unnamed(connection, candidates)
        )
        await self._blobs.discard(unnamed, before)
