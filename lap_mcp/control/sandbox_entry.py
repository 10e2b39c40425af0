"""One sandbox that is open in this process, and how much room there is for more of them."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
from lap_sandbox.base import FileInfo, Limits, Sandbox

from lap_mcp.clock import Clock
from lap_mcp.errors import LimitReached
from lap_mcp.store.sandbox_files import KeptFile
from lap_mcp.store.sandboxes import Held, SandboxRecord

from .services import SandboxView

MiB = 1024 * 1024

_SOONEST, _LATEST = 1, 60
"""Seconds that "try again in" says at least and at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    sandbox: Limits = field(default_factory=Limits)
    idle: float = 20 * 60
    """Seconds without use after which a sandbox gives up its container."""
    open: int = 16
    """Sandboxes open at the same time, of everybody together."""
    per_principal: int = 8
    max_timeout: float = 240.0
    keep: int = 4096 * MiB
    """Bytes kept for the sandboxes of one principal."""
    keep_each: int = 512 * MiB
    """Bytes of files kept for one sandbox."""
    retention: float = 30 * 24 * 3600
    """Seconds that a sandbox without use is kept."""


def mark(info: FileInfo) -> tuple[int, float]:
    """What tells a changed file from an unchanged one."""
    return info.size, info.modified


@dataclass(eq=False)
class Entry:
    """An open sandbox.  What holds `lock` is the only one that runs code in it."""

    id: str
    principal: str
    sandbox: Sandbox
    held: Held
    scope: str | None
    created_at: float
    used_at: float
    borrowed: bool = False
    """Whoever opened it keeps its files and what ran in it, and gives it back whole."""
    number: int = 0
    """Executions that were recorded, here and in earlier containers."""
    users: int = 0
    """Calls that use it now."""
    busy_until: float = 0.0
    """When the code that runs now has ended, at the latest."""
    ran: bool = False
    """The interpreter has run something since it began."""
    cold: bool = False
    """Variables of recorded cells are gone."""
    bare: bool = False
    """Kept files are not back yet, because a replay is to make its own first."""
    dirty: bool = False
    """There may be changes in /mnt/data that no execution reported."""
    kept: dict[str, KeptFile] = field(default_factory=dict)
    kept_size: int = 0
    seen: dict[str, tuple[int, float]] = field(default_factory=dict)
    """`mark`s of files whose present bytes are kept."""
    # Free nearly always: then taking it costs no turn of the loop.
    lock: anyio.Lock = field(default_factory=lambda: anyio.Lock(fast_acquire=True))

    @contextmanager
    def used(self, clock: Clock) -> Iterator[None]:
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1
            self.used_at = clock.now()

    @property
    def idle(self) -> bool:
        return self.users == 0


def viewed(record: SandboxRecord, entry: Entry | None) -> SandboxView:
    """How a sandbox is listed; `entry`: it is open here."""
    return SandboxView(
        id=record.id,
        principal=record.principal,
        created_at=record.created_at,
        used_at=record.used_at if entry is None else entry.used_at,
        executions=record.executions if entry is None else entry.number,
        busy=entry is not None and not entry.idle,
        open=entry is not None,
        files=record.files,
        size=record.size,
    )


class Room:
    """Who may open one more sandbox.  Whatever is open and idle can be closed for it, the least
    recently used first: its files are kept, and its id opens it again."""

    def __init__(
        self,
        limits: SandboxLimits,
        clock: Clock,
        entries: Callable[[], Collection[Entry]],
        close: Callable[[Entry], Awaitable[None]],
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._entries = entries
        self._close = close
        self._coming: list[str] = []
        """Principals of sandboxes that are being opened."""

    async def reserve(self, principal: str) -> None:
        """Take one of the places, until `settled`.

        Raises:
            LimitReached: all are busy.
        """
        while (full := self._full(principal)) is not None:
            entries, what, key = full
            idle = [entry for entry in entries if entry.idle]
            if not idle:
                raise LimitReached(
                    f"All {what} are busy ({key} is the limit).",
                    remedy=f"Try again in {self._patience(entries)} s.",
                )
            await self._close(min(idle, key=lambda entry: entry.used_at))
        self._coming.append(principal)

    def settled(self, principal: str) -> None:
        """The sandbox is among the entries now, or will never be."""
        self._coming.remove(principal)

    def _full(self, principal: str) -> tuple[Collection[Entry], str, str] | None:
        entries = self._entries()
        mine = [entry for entry in entries if entry.principal == principal]
        own = len(mine) + self._coming.count(principal)
        if own >= self._limits.per_principal:
            return mine, f"{own} sandboxes of yours", "sandbox.per_principal"
        if len(entries) + len(self._coming) >= self._limits.open:
            return entries, f"{self._limits.open} sandboxes of this server", "sandbox.max_open"
        return None

    def _patience(self, entries: Collection[Entry]) -> int:
        """Until the first of them has ended at the latest."""
        first = min((entry.busy_until for entry in entries), default=0.0) - self._clock.now()
        return min(max(math.ceil(first), _SOONEST), _LATEST)
