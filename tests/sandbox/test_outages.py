"""The server killed with many sandboxes open, and the engine restarted under load."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from lap_sandbox.base import LauncherConfig
from lap_sandbox.docker_engine import DockerLauncher

from lap_mcp.control.sandboxes import Sandboxes, SandboxLimits
from lap_mcp.errors import LapError
from lap_mcp.model import LOCAL
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import open_database
from tests.capabilities import ROOT
from tests.conftest import require
from tests.control.sandbox_home import read
from tests.sandbox import own_engine
from tests.sandbox.conftest import MakeLauncher
from tests.sandbox.engine_view import containers_of, docker, running_of
from tests.sandbox.own_engine import OwnEngine
from tests.sandbox.pool import SMALL
from tests.waiting import eventually_async

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

OPEN = 20
USERS = 4
AFTER = 3
"""Good answers that each user wants once the engine is back."""


def _is_stopped(id: str) -> bool:
    states = docker("top", id, "-o", "stat,pid").splitlines()[1:]
    return any(state.startswith("T") for state in states)


async def test_nothing_is_left_of_twenty_sandboxes_half_of_them_stopped_of_a_killed_server(
    instance: str,
) -> None:
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/sandbox"}
    command = [sys.executable, str(ROOT / "tests/sandbox/crowd.py"), instance, str(OPEN)]
    process = await anyio.open_process(command, env=environ, stderr=None)
    assert process.stdout is not None
    with anyio.fail_after(240):
        said = BufferedByteReceiveStream(process.stdout)
        assert await said.receive_until(b"\n", 100) == b"held"
    everything = running_of(instance)
    assert len(everything) == OPEN
    left = set(everything)

    def half_is_stopped() -> bool:
        left.difference_update([id for id in left if _is_stopped(id)])
        return len(left) <= OPEN // 2

    await eventually_async(half_is_stopped, within=60)
    assert len(left) == OPEN // 2, "those that work are not"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await process.aclose()
    await eventually_async(lambda: containers_of(instance) == [], within=60)


@pytest.fixture
async def current_image(make_launcher: MakeLauncher) -> None:
    """On the shared engine, whatever stood there before."""
    await make_launcher()


@pytest.fixture
def engine(current_image: None) -> Iterator[OwnEngine]:
    if reason := own_engine.why_not():
        require("docker", reason)
    with own_engine.own_engine() as started:
        yield started


@pytest.fixture
async def launcher(
    engine: OwnEngine, instance: str, tmp_path: Path
) -> AsyncIterator[DockerLauncher]:
    config = LauncherConfig(warm=1, warm_age=10.0, limits=SMALL, instance=instance)
    made = DockerLauncher(config, {"DOCKER_HOST": engine.address}, tmp_path)
    await made.prepare()
    yield made
    await made.aclose()


@dataclass
class User:
    """Writes a new file in each call, and remembers what was reported to be kept."""

    sandboxes: Sandboxes
    number: int
    sandbox: str | None = None
    kept: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    good: int = 0

    async def call(self, turn: int) -> bool:
        """It ends with an answer: a good one, or words."""
        name, text = f"{turn}.txt", f"{self.number} {turn}"
        code = f"import time; time.sleep(0.05); open('{name}', 'w').write('{text}')"
        try:
            with anyio.fail_after(120):
                run = await self.sandboxes.run(LOCAL, code, sandbox_id=self.sandbox)
        except LapError as error:
            self.refused.append(str(error))
            return False
        self.sandbox = run.sandbox_id
        reported = [file.path for file in run.execution.files if file.path not in run.not_kept]
        if name in reported:
            self.kept[name] = text
        if run.execution.status != "ok":
            assert run.execution.notice
            self.refused.append(run.execution.notice)
            return False
        assert name in reported
        self.good += 1
        return True

    async def work(self, until: anyio.Event) -> None:
        turn, after = 0, 0
        while after < AFTER:
            turn += 1
            back = until.is_set()
            if await self.call(turn):
                after += back
            else:
                await anyio.sleep(0.2)

    async def missing(self) -> set[str]:
        assert self.sandbox is not None
        run = await self.sandboxes.run(
            LOCAL,
            "import os\nfor n in os.listdir(): print(n, open(n).read(), sep=':')",
            sandbox_id=self.sandbox,
        )
        found = set(run.execution.stdout.splitlines())
        return {f"{name}:{text}" for name, text in self.kept.items()} - found


@pytest.mark.tier2
async def test_an_engine_restarted_under_load_costs_no_answer_no_file_and_no_pool(
    engine: OwnEngine, launcher: DockerLauncher, tmp_path: Path
) -> None:
    database = await open_database(tmp_path / "lap.db")
    made = Sandboxes(
        launcher, database, BlobStore(tmp_path / "blobs"), SandboxLimits(sandbox=SMALL)
    )
    async with made.running(read) as sandboxes:
        users = [User(sandboxes, number) for number in range(USERS)]
        back = anyio.Event()
        with anyio.fail_after(300):
            async with anyio.create_task_group() as group:
                for user in users:
                    group.start_soon(user.work, back)
                await eventually_async(lambda: all(user.good > 2 for user in users), within=120)
                await anyio.to_thread.run_sync(engine.stop)
                await eventually_async(lambda: all(user.refused for user in users), within=120)
                await anyio.to_thread.run_sync(engine.start)
                back.set()
        for user in users:
            assert len(user.kept) >= AFTER + 2
            assert await user.missing() == set()
            assert all(user.refused), "each answer has words"
        await eventually_async(lambda: launcher.ready_sandboxes == 1, within=120)
    await database.aclose()
