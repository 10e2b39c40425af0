"""What every launcher promises.  `LAUNCHERS` run code; `STAND_INS` keep the rest of the contract
without running any."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from lap_sandbox.base import Launcher, LauncherConfig, Limits, MiB, Sandbox
from lap_sandbox.docker_engine import DockerLauncher
from lap_sandbox.errors import BadPath, LauncherUnavailable, LimitReached, NotFound, SandboxGone
from lap_sandbox.testing import Scripted, ScriptedLauncher, echo

from tests.sandbox.pool import SMALL, Pool

pytestmark = pytest.mark.anyio

LAUNCHERS = [pytest.param("docker", marks=pytest.mark.docker)]
STAND_INS = ["scripted"]
SIZE = SMALL


def script(code: str) -> Scripted:
    """The one program that the stand-in knows: it never ends."""
    return Scripted(endless=True) if code == "while True: pass" else echo(code)


def scripted() -> ScriptedLauncher:
    return ScriptedLauncher(script, LauncherConfig(limits=SIZE, warm=0))


@pytest.fixture(params=[*LAUNCHERS, *STAND_INS])
def source(request: pytest.FixtureRequest) -> Pool:
    if request.param == "scripted":
        return Pool(scripted())
    found: Pool = request.getfixturevalue("pool")
    return found


@pytest.fixture
def launcher(source: Pool) -> Launcher:
    return source.launcher


@pytest.fixture
async def box(source: Pool) -> Sandbox:
    return await source.sandbox(0)


async def test_a_prepared_launcher_says_that_it_is_ready(launcher: Launcher) -> None:
    assert isinstance(launcher, Launcher)
    assert launcher.preparation().ready
    assert all(check.level != "error" for check in await launcher.preflight())


async def test_a_new_sandbox_is_alive_and_empty(box: Sandbox) -> None:
    assert isinstance(box, Sandbox)
    assert box.alive
    assert list(await box.list()) == []


async def test_a_file_comes_back_as_it_was_put(box: Sandbox) -> None:
    data = bytes(range(256)) * 1500
    info = await box.put("folder/sub/data.bin", data)
    assert (info.path, info.size) == ("folder/sub/data.bin", len(data))
    assert await box.get("folder/sub/data.bin") == data
    assert [f.path for f in await box.list()] == ["folder/sub/data.bin"]


async def test_a_file_may_be_empty_and_may_be_replaced(box: Sandbox) -> None:
    await box.put("a", b"first")
    await box.put("a", b"")
    assert await box.get("a") == b""
    assert [f.size for f in await box.list()] == [0]


async def test_a_stream_is_put_in_its_order(box: Sandbox) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(50):
            yield b"%d," % number * 300

    await box.put("stream", parts())
    assert await box.get("stream") == b"".join(b"%d," % n * 300 for n in range(50))


async def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(box: Sandbox) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1024 * 1024)

    with pytest.raises(LimitReached):
        await box.put("large", endless())
    assert list(await box.list()) == []
    assert box.alive


DECEIVING = [
    "", "/etc/passwd", "../x", "a/../../x", "a//b", ".", "..", "a\0b", "a\nb", "\u202ea", "a/",
    "x" * 300, "/".join("a" * 30),
]  # fmt: skip


async def test_paths_that_could_lead_out_or_deceive_are_refused(box: Sandbox) -> None:
    for path in DECEIVING:
        with pytest.raises(BadPath):
            await box.put(path, b"")
        with pytest.raises(BadPath):
            await box.get(path)
        with pytest.raises(BadPath):
            await box.delete(path)


async def test_names_of_all_languages_are_allowed_and_normalised(box: Sandbox) -> None:
    await box.put("re\u0301sume\u0301 日本.txt", b"x")
    assert await box.get("r\u00e9sum\u00e9 日本.txt") == b"x"


async def test_a_deleted_file_is_gone(box: Sandbox) -> None:
    await box.put("a", b"x")
    await box.delete("a")
    with pytest.raises(NotFound):
        await box.get("a")
    with pytest.raises(NotFound):
        await box.delete("a")


async def test_a_listing_is_sorted_and_can_be_cut(box: Sandbox) -> None:
    for name in ("c", "a", "b"):
        await box.put(name, name.encode())
    assert [f.path for f in await box.list()] == ["a", "b", "c"]
    assert [f.path for f in await box.list(limit=2)] == ["a", "b"]


async def test_an_endless_execution_is_stopped_at_its_limit(box: Sandbox) -> None:
    execution = await box.execute("while True: pass", timeout=0.2)
    assert execution.status == "timeout"
    assert "kept" in execution.notice
    assert box.alive


async def test_an_interrupt_stops_what_runs_and_nothing_else(box: Sandbox) -> None:
    await box.interrupt()
    found = []

    async def run() -> None:
        found.append(await box.execute("while True: pass", timeout=60))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        while not found:
            await anyio.sleep(0.02)
            await box.interrupt()
    assert found[0].status == "interrupted"


async def test_a_cancelled_call_leaves_the_sandbox_usable(box: Sandbox) -> None:
    with anyio.move_on_after(0.3) as scope:
        await box.execute("while True: pass", timeout=60)
    assert scope.cancelled_caught
    assert (await box.execute("1", timeout=10)).status == "ok"


async def test_executions_run_one_after_the_other(box: Sandbox) -> None:
    statuses: list[str] = []

    async def run(code: str, timeout: float) -> None:
        statuses.append((await box.execute(code, timeout=timeout)).status)

    async with anyio.create_task_group() as group:
        group.start_soon(run, "while True: pass", 0.3)
        await anyio.sleep(0.05)
        group.start_soon(run, "1", 10)
    assert statuses == ["timeout", "ok"]


async def test_files_survive_a_reset(box: Sandbox) -> None:
    await box.put("a", b"x")
    await box.reset()
    assert await box.get("a") == b"x"


async def test_a_closed_sandbox_says_so(box: Sandbox) -> None:
    await box.close()
    await box.close()
    assert not box.alive
    with pytest.raises(SandboxGone):
        await box.execute("1", timeout=1)
    with pytest.raises(SandboxGone):
        await box.list()


async def test_closing_the_stand_ins_launcher_closes_its_sandboxes() -> None:
    made = scripted()
    boxes = [await made.open(SIZE) for _ in range(2)]
    await made.aclose()
    assert not any(box.alive for box in boxes)


async def test_limits_that_make_no_sense_are_refused_in_words(tmp_path: Path) -> None:
    launcher = DockerLauncher(LauncherConfig(), {}, tmp_path)
    for limits in (
        Limits(memory=1 * MiB),
        Limits(memory=512 * MiB, disk=512 * MiB),
        Limits(pids=1),
        Limits(cpus=0),
    ):
        with pytest.raises(LimitReached):
            await launcher.open(limits)
    await launcher.aclose()


async def test_a_closed_launcher_opens_nothing(tmp_path: Path) -> None:
    launcher = DockerLauncher(LauncherConfig(), {}, tmp_path)
    await launcher.aclose()
    with pytest.raises(LauncherUnavailable):
        await launcher.open(SIZE)
