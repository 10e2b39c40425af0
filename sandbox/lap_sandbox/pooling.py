"""How many sandboxes are kept ready, and which of them are too old.  Starts and ends nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from lap_sandbox.base import MiB

WARM_MEMORY = 128 * MiB
"""What a sandbox that nobody uses yet takes: an interpreter that has imported everything."""
RESERVE = 512 * MiB
"""Memory that a pool leaves to everybody else."""

_MEMINFO = Path("/proc/meminfo")


class Aging(Protocol):
    @property
    def alive(self) -> bool: ...
    @property
    def born(self) -> float:
        """By `time.monotonic()`."""
        ...


T = TypeVar("T", bound=Aging)


def available_memory(source: Path = _MEMINFO) -> int | None:
    """Bytes that this machine can still give; `None` where it does not say, as where containers
    run in a virtual machine.  Reads a file: not for an event loop."""
    try:
        lines = source.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def wanted(configured: int, standing: int, available: int | None) -> int:
    """How many are to be kept ready: as configured, as far as memory goes beyond the `standing`
    ones, which have taken theirs already."""
    if available is None:
        return configured
    more = max(available - RESERVE, 0) // WARM_MEMORY
    return min(configured, standing + more)


def parted(waiting: Sequence[T], now: float, age: float) -> tuple[list[T], list[T]]:
    """The ones to keep, and the living ones that have waited for more than `age` seconds."""
    alive = [each for each in waiting if each.alive]
    old = [each for each in alive if now - each.born > age]
    return [each for each in alive if each not in old], old
