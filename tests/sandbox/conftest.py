"""Launchers for the sandbox tests: one engine's image for the whole run, one launcher a test."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from lap_sandbox.base import LauncherConfig, Sandbox
from lap_sandbox.docker_engine import DockerLauncher

from tests.sandbox.engine_view import containers_of
from tests.sandbox.pool import SMALL, Pool


@pytest.fixture(scope="session")
def engine_environ() -> Mapping[str, str]:
    """What the operator's environment says about engines and building, as it is on this machine."""
    kept = ("DOCKER_", "PIP_", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    return {name: value for name, value in os.environ.items() if name.startswith(kept)}


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """One loop for the whole session, so that containers can be shared by tests."""
    return "asyncio"


@pytest.fixture
def instance() -> str:
    """A label value of this test's own, so that it can tell its containers from all others."""
    return f"test-{secrets.token_hex(6)}"


MakeLauncher = Callable[..., Awaitable[DockerLauncher]]


@pytest.fixture
async def make_launcher(
    engine_environ: Mapping[str, str], instance: str, tmp_path: Path
) -> AsyncIterator[MakeLauncher]:
    """`await make_launcher(warm=1, …)`: prepared, closed at the end of the test."""
    made: list[DockerLauncher] = []

    async def make(**settings: object) -> DockerLauncher:
        values: dict[str, object] = {"warm": 0, "limits": SMALL, "instance": instance, **settings}
        config = LauncherConfig(**values)  # type: ignore[arg-type]
        launcher = DockerLauncher(config, engine_environ, tmp_path)
        made.append(launcher)
        await launcher.prepare()
        return launcher

    yield make
    for launcher in made:
        await launcher.aclose()


@pytest.fixture(scope="session")
async def pool(
    engine_environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Pool]:
    instance = f"test-{secrets.token_hex(6)}"
    config = LauncherConfig(warm=0, limits=SMALL, instance=instance)
    launcher = DockerLauncher(config, engine_environ, tmp_path_factory.mktemp("home"))
    await launcher.prepare()
    yield Pool(launcher)
    await launcher.aclose()
    assert containers_of(instance) == []


@pytest.fixture
async def sandbox(pool: Pool) -> Sandbox:
    """An empty sandbox of small size."""
    return await pool.sandbox(0)


@pytest.fixture
async def neighbour(pool: Pool) -> Sandbox:
    """Another one."""
    return await pool.sandbox(1)
