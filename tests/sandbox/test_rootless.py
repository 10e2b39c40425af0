"""Sandboxes of a real rootless Docker Engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from lap_sandbox.base import LauncherConfig
from lap_sandbox.docker_engine import DockerLauncher

from tests.conftest import require
from tests.sandbox import own_rootless
from tests.sandbox.any_engine import confines, runs, value
from tests.sandbox.conftest import MakeLauncher
from tests.sandbox.own_rootless import OwnRootless
from tests.sandbox.pool import SMALL
from tests.waiting import eventually_async

pytestmark = [pytest.mark.anyio, pytest.mark.docker, pytest.mark.tier2]


@pytest.fixture
async def current_image(make_launcher: MakeLauncher) -> None:
    """On the shared engine, whatever stood there before."""
    await make_launcher()


@pytest.fixture
def engine(current_image: None) -> Iterator[OwnRootless]:
    if reason := own_rootless.why_not():
        require("rootless", reason)
    with own_rootless.own_rootless() as started:
        yield started


@pytest.fixture
async def launcher(
    engine: OwnRootless, instance: str, tmp_path: Path
) -> AsyncIterator[DockerLauncher]:
    config = LauncherConfig(warm=1, limits=SMALL, instance=instance)
    made = DockerLauncher(config, {"DOCKER_HOST": engine.address}, tmp_path)
    await made.prepare()
    yield made
    await made.aclose()
    assert engine.run("ps", "-aq") == ""


async def test_a_rootless_engine_runs_code_keeps_files_and_holds_what_is_promised(
    launcher: DockerLauncher,
) -> None:
    """Where it has no control groups, each process is limited, and `doctor` says so."""
    checks = {check.name: check for check in await launcher.preflight()}
    assert checks["user namespace"].words.startswith("rootless")
    assert checks["image"].level == "ok"
    await eventually_async(lambda: launcher.ready_sandboxes == 1, within=120)
    box, other = await launcher.open(SMALL), await launcher.open(SMALL)
    await confines(box, other)
    uid = int(await value(box, "import os; os.getuid()") or 0)
    assert 10_000 <= uid < 65_536, "what such an engine maps"
    await runs(box)
    if checks["cgroup"].level == "warning":
        assert (await box.execute("x = bytearray(1 << 30)", timeout=60)).error is not None
    assert await value(other, "1 + 1") == "2"
