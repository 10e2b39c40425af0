"""Sandboxes of a real Podman, through the service that it has for Docker's clients."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
from lap_sandbox.base import LauncherConfig, Sandbox
from lap_sandbox.docker_engine import DockerLauncher

from tests.capabilities import ROOT
from tests.conftest import require
from tests.sandbox import own_podman
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


async def _value(sandbox: Sandbox, code: str) -> str | None:
    execution = await sandbox.execute(code, timeout=60)
    assert execution.status == "ok", execution
    return execution.value


async def test_podman_runs_code_keeps_files_and_holds_what_is_promised(
    launcher: DockerLauncher,
) -> None:
    levels = {check.name: check.level for check in await launcher.preflight()}
    assert (levels["engine"], levels["image"], levels["files"]) == ("ok", "ok", "warning")
    await eventually_async(lambda: launcher.ready_sandboxes == 1, within=120)
    box, other = await launcher.open(SMALL), await launcher.open(SMALL)
    await _rules(box, other)
    await _runs(box)


async def _rules(box: Sandbox, other: Sandbox) -> None:
    status = "dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines())"
    rights = f"s = {status}\ns['Seccomp'], s['NoNewPrivs'], int(s['CapEff'], 16)"
    assert await _value(box, rights) == "('2', '1', 0)"
    uid = "import os; os.getuid()"
    uids = {await _value(box, uid), await _value(other, uid)}
    assert len(uids) == 2
    assert "0" not in uids
    for refused in (
        "import socket; socket.socket()",
        "open('/opt/lap/lib/x', 'w')",
        "open('/mnt/data/big', 'wb').write(bytes(80 << 20))",
        "import os; [os.fork() or os.read(os.pipe()[0], 1) for _ in range(1000)]",
    ):
        assert (await box.execute(refused, timeout=60)).error is not None, refused
    await box.reset()


async def _runs(box: Sandbox) -> None:
    await box.put("folder/f", b"kept")
    assert await _value(box, "import pandas; x = open('folder/f').read(); x") == "'kept'"
    assert (await box.execute("while True: pass", timeout=1)).status == "timeout"
    assert await _value(box, "x") == "'kept'"
    full = await box.execute("y = bytearray(2 << 30)", timeout=60)
    assert full.status in ("out_of_memory", "error")
    printed = await box.execute("print('x' * 10_000)", timeout=60)
    assert printed.stdout_left is not None
    assert len(await box.get(printed.stdout_left.path)) == 10_001
    assert await box.get("folder/f") == b"kept"


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
