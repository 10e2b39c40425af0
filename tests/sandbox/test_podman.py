"""Sandboxes of a real Podman, through the service that it has for Docker's clients."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
from lap_sandbox.base import LauncherConfig
from lap_sandbox.docker_engine import DockerLauncher

from tests.capabilities import ROOT
from tests.conftest import require
from tests.sandbox import own_podman
from tests.sandbox.any_engine import confines, runs
from tests.sandbox.conftest import MakeLauncher
from tests.sandbox.own_podman import OwnPodman
from tests.sandbox.pool import SMALL
from tests.waiting import eventually_async

pytestmark = [pytest.mark.anyio, pytest.mark.docker, pytest.mark.tier2]


@pytest.fixture
async def current_image(make_launcher: MakeLauncher) -> None:
    """On the shared engine, whatever stood there before."""
    await make_launcher()


@pytest.fixture
def podman(current_image: None) -> Iterator[OwnPodman]:
    if reason := own_podman.why_not():
        require("podman", reason)
    with own_podman.own_podman() as started:
        yield started


@pytest.fixture
async def launcher(
    podman: OwnPodman, instance: str, tmp_path: Path
) -> AsyncIterator[DockerLauncher]:
    config = LauncherConfig(warm=1, limits=SMALL, instance=instance)
    made = DockerLauncher(config, {"DOCKER_HOST": podman.address}, tmp_path)
    await made.prepare()
    yield made
    await made.aclose()
    assert podman.run("ps", "-aq") == ""


async def test_podman_runs_code_keeps_files_and_holds_what_is_promised(
    launcher: DockerLauncher,
) -> None:
    levels = {check.name: check.level for check in await launcher.preflight()}
    assert (levels["engine"], levels["image"], levels["files"]) == ("ok", "ok", "warning")
    await eventually_async(lambda: launcher.ready_sandboxes == 1, within=120)
    box, other = await launcher.open(SMALL), await launcher.open(SMALL)
    await confines(box, other)
    await runs(box)


async def test_nothing_is_left_in_podman_of_a_server_that_is_killed(
    podman: OwnPodman, instance: str, tmp_path: Path
) -> None:
    environ = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT}/sandbox",
        "DOCKER_HOST": podman.address,
    }
    process = await anyio.open_process(
        [sys.executable, str(ROOT / "tests/sandbox/holder.py"), instance],
        env=environ,
        stderr=None,
    )
    assert process.stdout is not None
    with anyio.fail_after(120):
        await process.stdout.receive()
    assert len(podman.run("ps", "-q").split()) >= 2
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await process.aclose()
    await eventually_async(lambda: podman.run("ps", "-q") == "", within=60)
    made = DockerLauncher(
        LauncherConfig(warm=0, limits=SMALL, instance=instance),
        {"DOCKER_HOST": podman.address},
        tmp_path,
    )
    await made.prepare()
    await made.reap()
    assert podman.run("ps", "-aq") == ""
    await made.aclose()
