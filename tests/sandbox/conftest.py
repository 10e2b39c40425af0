"""Launchers for the sandbox tests: one engine's image for the whole run, one launcher a test."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from lap_sandbox.base import LauncherConfig, Limits, MiB
from lap_sandbox.docker_engine import DockerLauncher
from lap_sandbox.session import ContainerSandbox

SMALL = Limits(memory=512 * MiB, disk=64 * MiB, tmp=32 * MiB, file_size=48 * MiB, files=2000)


@pytest.fixture(scope="session")
def engine_environ() -> Mapping[str, str]:
    """What the operator's environment says about engines and building, as it is on this machine."""
    kept = ("DOCKER_", "PIP_", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    return {name: value for name, value in os.environ.items() if name.startswith(kept)}


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


@pytest.fixture
async def sandbox(make_launcher: MakeLauncher) -> ContainerSandbox:
    """A fresh sandbox of small size."""
    return await (await make_launcher()).open(SMALL)
