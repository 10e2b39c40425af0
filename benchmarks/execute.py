"""A sandbox by itself: the launcher's round trip, without a server in front of it."""

from __future__ import annotations

import os
from pathlib import Path

from lap_sandbox.base import LauncherConfig
from lap_sandbox.docker_engine import DockerLauncher

from .measure import Variant, interleaved
from .report import Report, timed
from .surroundings import Place


async def execute(place: Place, n: int) -> list[Report]:
    config = LauncherConfig(warm=0, instance="benchmarks", image=place.image)
    launcher = DockerLauncher(config, environ=os.environ, home=Path.home())
    try:
        await launcher.prepare()
        sandbox = await launcher.open(config.limits)

        async def once() -> None:
            execution = await sandbox.execute("x=1", timeout=10)
            if execution.status != "ok":
                raise RuntimeError(f"x=1: {execution.status} {execution.notice}")

        variant = Variant("x=1", once, os.getpid())
        found = await interleaved([variant], n, block=100, warm_up=200)
    finally:
        await launcher.aclose()
    return [
        Report(
            "execute",
            "(4) sandbox execute x=1, launcher direct",
            [timed("x=1", found["x=1"], {"value": 0.5, "p99": 2.0})],
            "CPU is that of the calling process.",
        )
    ]
