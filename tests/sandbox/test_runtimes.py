"""Sandboxes under an OCI runtime with a kernel of its own, where the engine has one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from lap_sandbox.base import LauncherConfig, Sandbox
from lap_sandbox.docker_engine import DockerEngine, DockerLauncher
from lap_sandbox.errors import SandboxGone

from tests.conftest import require
from tests.sandbox.pool import SMALL

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

HOW = (
    "the engine has no runtime `runsc` (Debian: apt install runsc; in daemon.json: "
    '{"runtimes": {"runsc": {"path": "/usr/bin/runsc", "runtimeArgs": ["--network=none"]}}})'
)


@pytest.fixture
async def gvisor(
    engine_environ: Mapping[str, str], tmp_path: Path, instance: str
) -> AsyncIterator[DockerLauncher]:
    """Under gVisor."""
    engine = DockerEngine(engine_environ, tmp_path)
    runtimes = (await engine.find()).runtimes
    await engine.aclose()
    if "runsc" not in runtimes:
        require("runsc", HOW)
    config = LauncherConfig(warm=0, limits=SMALL, instance=instance, runtime="runsc")
    launcher = DockerLauncher(config, engine_environ, tmp_path)
    await launcher.prepare()
    yield launcher
    await launcher.aclose()


@pytest.fixture
async def box(gvisor: DockerLauncher) -> Sandbox:
    return await gvisor.open(SMALL)


async def test_gvisor_runs_code_keeps_state_and_stops_what_does_not_end(box: Sandbox) -> None:
    kernel = await box.execute("open('/proc/version').read().split()[2]", timeout=60)
    assert kernel.value == "'4.4.0'", "gVisor's own, not this machine's"
    await box.put("f", b"kept")
    await box.execute("import pandas; x = 5", timeout=60)
    assert (await box.execute("while True: pass", timeout=1)).status == "timeout"
    assert (await box.execute("x, open('f').read()", timeout=60)).value == "(5, 'kept')"
    stopped = await box.execute("sum(range(10**12))", timeout=1)
    assert (stopped.status, stopped.state_lost, stopped.files_lost) == ("timeout", True, False)
    assert (await box.execute("open('f').read()", timeout=60)).value == "'kept'"


async def test_gvisor_reaches_nothing_outside(box: Sandbox) -> None:
    """Sockets can be made there unless it was told to apply our profile; they lead nowhere."""
    attempt = "import socket; socket.create_connection(('1.1.1.1', 53), 2)"
    assert (await box.execute(attempt, timeout=60)).error is not None


async def test_too_much_memory_under_gvisor_ends_in_words_and_the_next_sandbox_works(
    gvisor: DockerLauncher, box: Sandbox
) -> None:
    """The limit holds for its kernel too, so that the whole sandbox may go."""
    try:
        full = await box.execute("x = bytearray(2 << 30)", timeout=60)
        assert full.status in ("out_of_memory", "died", "error")
    except SandboxGone:
        assert not box.alive
    other = await gvisor.open(SMALL)
    assert (await other.execute("1 + 1", timeout=60)).value == "2"
