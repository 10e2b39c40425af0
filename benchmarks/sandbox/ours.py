"""Our sandboxes as the benchmarks use them: one launcher, no server in front of it."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import docker
from lap_sandbox.base import Execution, LauncherConfig, Sandbox
from lap_sandbox.docker_engine import DockerLauncher
from lap_sandbox.session import ContainerSandbox

from benchmarks.measure import Samples
from benchmarks.surroundings import Place

INSTANCE = "benchmarks"


@asynccontextmanager
async def launcher(place: Place, *, warm: int = 0) -> AsyncIterator[DockerLauncher]:
    config = LauncherConfig(warm=warm, instance=INSTANCE, image=place.image)
    made = DockerLauncher(config, environ=os.environ, home=Path.home())
    try:
        await made.prepare()
        yield made
    finally:
        await made.aclose()


@asynccontextmanager
async def sandbox(place: Place) -> AsyncIterator[ContainerSandbox]:
    """A sandbox that has run something."""
    async with launcher(place) as made:
        opened = await made.open(made.limits)
        await well(opened, "import numpy, pandas, matplotlib.pyplot as plt")
        yield opened


async def well(sandbox: Sandbox, code: str, *, timeout: float = 60) -> Execution:
    """Raises: RuntimeError where it does not end well."""
    execution = await sandbox.execute(code, timeout=timeout)
    if execution.status != "ok":
        raise RuntimeError(f"{code[:60]}: {execution.status} {execution.notice} {execution.error}")
    return execution


async def again(once: Callable[[], Awaitable[object]], n: int) -> Samples:
    """The wall time of each of `n` times."""
    found = Samples()
    for _ in range(n):
        began = time.perf_counter()
        await once()
        found.wall.append(time.perf_counter() - began)
    return found


def _memory_of(container: str) -> float:
    client = docker.from_env(timeout=30)
    try:
        stats = client.api.stats(container, stream=False)["memory_stats"]
    finally:
        client.close()
    cached = stats["stats"].get("total_inactive_file", stats["stats"].get("inactive_file", 0))
    return float(stats["usage"] - cached) / 2**20


async def memory_of(container: str) -> float:
    """MiB that the engine counts for a container, without what it can take back at once."""
    return await anyio.to_thread.run_sync(_memory_of, container)


async def warm_one(made: DockerLauncher) -> None:
    """Wait until one is ready."""
    with anyio.fail_after(60):
        while not made.ready_sandboxes:  # noqa: ASYNC110 - the pool fills itself
            await anyio.sleep(0.02)
    await anyio.sleep(0.2)
