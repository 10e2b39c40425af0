"""The same fixtures as for containers, over bubblewrap: the tests of executions, hostile code and
the contract are run again with these."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from lap_sandbox.base import LauncherConfig
from lap_sandbox.bubblewrap import BubblewrapLauncher

from tests.capabilities import BUBBLEWRAP_HOME
from tests.sandbox.bubblewrap.records import records_of
from tests.sandbox.pool import SMALL, Pool

MakeLauncher = Callable[..., Awaitable[BubblewrapLauncher]]


@pytest.fixture(scope="session")
def lap_home() -> Path:
    return BUBBLEWRAP_HOME


@pytest.fixture(scope="session")
async def pool(lap_home: Path, engine_environ: Mapping[str, str]) -> AsyncIterator[Pool]:
    instance = f"test-{secrets.token_hex(6)}"
    config = LauncherConfig(warm=0, limits=SMALL, instance=instance)
    launcher = BubblewrapLauncher(config, engine_environ, lap_home)
    await launcher.prepare()
    yield Pool(launcher)
    await launcher.aclose()
    assert records_of(lap_home, instance) == {}


@pytest.fixture
async def make_launcher(
    lap_home: Path, engine_environ: Mapping[str, str], instance: str, pool: Pool
) -> AsyncIterator[MakeLauncher]:
    """`await make_launcher(warm=1, …)`: prepared, closed at the end of the test."""
    made: list[BubblewrapLauncher] = []

    async def make(**settings: object) -> BubblewrapLauncher:
        values: dict[str, object] = {"warm": 0, "limits": SMALL, "instance": instance, **settings}
        config = LauncherConfig(**values)  # type: ignore[arg-type]
        launcher = BubblewrapLauncher(config, engine_environ, lap_home)
        made.append(launcher)
        await launcher.prepare()
        return launcher

    yield make
    for launcher in made:
        await launcher.aclose()
