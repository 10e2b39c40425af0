"""Clocks and samples: wall time of calls, CPU time and memory of another process, percentiles.

Linux only: CPU time comes from the other process's own clock, memory from /proc.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """CPU time that the process has used so far, all its threads, ended ones too.

    A process's CPU clock is numbered `~pid << 3 | 2`: clock_getcpuclockid(3), which Python lacks.
    """
    return time.clock_gettime((~pid << 3) | 2)


def memory(pid: int) -> Mapping[str, float]:
    """MiB: `Rss`, and `Pss`, in which shared pages count by share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    found = (line.split() for line in lines[1:])
    return {w[0].rstrip(":"): int(w[1]) / 1024 for w in found if w[0] in ("Rss:", "Pss:")}


@dataclass
class Samples:
    """Seconds of single calls, and CPU seconds per call of whole blocks of them."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def n(self) -> int:
        return len(self.wall)

    def p50(self) -> float:
        return statistics.median(self.wall)

    def p99(self) -> float:
        return percentile(self.wall, 0.99)

    def cpu_p50(self) -> float | None:
        return statistics.median(self.cpu) if self.cpu else None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not below `share` of all (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, round(share * len(ordered)) - 1))]


@dataclass(frozen=True)
class Variant:
    """One of the things compared: how to do it once, and whose CPU time it costs."""

    name: str
    once: Callable[[], Awaitable[object]]
    pid: int | None = None


async def interleaved(
    variants: Sequence[Variant], n: int, *, block: int = 10, warm_up: int = 20
) -> dict[str, Samples]:
    """Do each variant at least `n` times, in short blocks by turns, so that whatever else the
    machine does meanwhile falls on all of them.  The order is reversed with every round."""
    found = {variant.name: Samples() for variant in variants}
    for variant in variants:
        for _ in range(warm_up):
            await variant.once()
    order = list(variants)
    for _ in range(max(1, -(-n // block))):
        for variant in order:
            await _block(variant, block, found[variant.name])
        order.reverse()
    return found


async def _block(variant: Variant, count: int, samples: Samples) -> None:
    before = cpu_seconds(variant.pid) if variant.pid is not None else 0.0
    for _ in range(count):
        began = time.perf_counter()
        await variant.once()
        samples.wall.append(time.perf_counter() - began)
    if variant.pid is not None:
        samples.cpu.append((cpu_seconds(variant.pid) - before) / count)
