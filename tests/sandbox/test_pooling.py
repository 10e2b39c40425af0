"""How large the warm pool is and whom it lets go, decided without an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from lap_sandbox.base import MiB
from lap_sandbox.pooling import RESERVE, WARM_MEMORY, available_memory, parted, wanted


@dataclass(frozen=True)
class Waiting:
    born: float
    alive: bool = True


@pytest.mark.parametrize(
    ("configured", "standing", "available", "expected"),
    [
        (3, 0, None, 3),
        (3, 0, RESERVE + 10 * WARM_MEMORY, 3),
        (3, 0, RESERVE + WARM_MEMORY + 1, 1),
        (3, 2, RESERVE, 2),
        (3, 0, RESERVE - 1, 0),
        (0, 0, 64 * 1024 * MiB, 0),
    ],
)
def test_the_pool_is_as_large_as_configured_and_as_memory_allows(
    configured: int, standing: int, available: int | None, expected: int
) -> None:
    assert wanted(configured, standing, available) == expected


def test_available_memory_is_what_the_kernel_says_or_unknown(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert available_memory(meminfo) is None
    meminfo.write_text("MemTotal: 8 kB\n")
    assert available_memory(meminfo) is None
    meminfo.write_text("MemTotal:       16 kB\nMemAvailable:    4 kB\n")
    assert available_memory(meminfo) == 4096


def test_the_dead_are_dropped_and_the_old_are_to_be_removed() -> None:
    fresh, old, dead = Waiting(95), Waiting(10), Waiting(99, alive=False)
    assert parted([fresh, old, dead], now=100, age=60) == ([fresh], [old])
