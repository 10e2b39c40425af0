"""Every hostile case runs against every launcher, and after each one: the next execution works, a
neighbour noticed nothing, and the host's memory, disk, processes and open files are as before."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import anyio
import pytest
from lap_sandbox.base import Launcher, LauncherConfig, Sandbox

from tests.conftest import require
from tests.hostile.launchers import CONFINEMENTS, Confinement
from tests.sandbox.conftest import engine_environ
from tests.sandbox.pool import SMALL, Pool
from tests.waiting import EVERY

__all__ = ["engine_environ"]

MiB = 1024 * 1024
OPEN_FILES = 6
"""Connections to an engine that its SDK may keep for later."""
RESIDENT = 96 * MiB
"""Growth of this process that a test may leave to Python's allocator."""
IN_SANDBOX = 300 * MiB
"""What an emptied sandbox may still use of its memory: its three processes."""
MakeLauncher = Callable[..., Awaitable[Launcher]]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """One loop for the whole session, so that sandboxes can be shared by tests."""
    return "asyncio"


@pytest.fixture(
    scope="session",
    params=[pytest.param(each, id=each.name, marks=each.marks) for each in CONFINEMENTS],
)
def confinement(request: pytest.FixtureRequest) -> Confinement:
    found: Confinement = request.param
    return found


@pytest.fixture(autouse=True)
def _applies(request: pytest.FixtureRequest) -> None:
    """Skip, by name and with its reason, what does not apply or cannot be tried."""
    if "confinement" not in request.fixturenames:
        return
    found: Confinement = request.getfixturevalue("confinement")
    if reason := found.lacking():
        require(found.name, reason)
    name = request.node.name
    numbers = re.match(r"test_((?:\d\d_)+)", name) or re.search(rf"\[{found.name}-(\d\d)-", name)
    for number in re.findall(r"\d\d", numbers[1]) if numbers else ():
        if why := found.not_applicable.get(int(number)):
            pytest.skip(f"case {number} does not apply to {found.name}: {why}")
    case = re.sub(rf"\[{found.name}-?(.*)\]$", r"[\1]", name).removesuffix("[]")
    attack = case.partition("[")[2].removesuffix("]")
    if why := found.open.get(case) or found.open.get(attack):
        reason = f"open on {found.name}: {why}"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture
def instance() -> str:
    """A label value of this test's own, so that it can tell its sandboxes from all others."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
async def make_launcher(
    confinement: Confinement, engine_environ: Mapping[str, str], instance: str, tmp_path: Path
) -> AsyncIterator[MakeLauncher]:
    """`await make_launcher(idle_stop=1, …)`: prepared, closed at the end of the test."""
    made: list[Launcher] = []

    async def make(**settings: object) -> Launcher:
        values: dict[str, object] = {
            "warm": 0,
            "limits": SMALL,
            "instance": instance,
            **confinement.settings,
            **settings,
        }
        launcher = confinement.make(
            LauncherConfig(**values),  # type: ignore[arg-type]
            engine_environ,
            tmp_path,
        )
        made.append(launcher)
        await launcher.prepare()
        return launcher

    yield make
    for launcher in made:
        await launcher.aclose()


@pytest.fixture(scope="session")
async def pool(
    confinement: Confinement,
    engine_environ: Mapping[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Pool]:
    if reason := confinement.lacking():
        require(confinement.name, reason)
    config = LauncherConfig(
        warm=0, limits=SMALL, instance=f"test-{secrets.token_hex(6)}", **confinement.settings
    )
    launcher = confinement.make(config, engine_environ, tmp_path_factory.mktemp("home"))
    await launcher.prepare()
    yield Pool(launcher)
    await launcher.aclose()


@pytest.fixture
def sandbox(unharmed: tuple[Sandbox, Sandbox]) -> Sandbox:
    """An empty sandbox of small size, for the attacker."""
    return unharmed[0]


@pytest.fixture
def neighbour(unharmed: tuple[Sandbox, Sandbox]) -> Sandbox:
    """Somebody else's, in which `marker` is set."""
    return unharmed[1]


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) * 1024


_USED = """
def used():
    for path in ("memory.current", "memory/memory.usage_in_bytes"):
        try: return int(open("/sys/fs/cgroup/" + path).read())
        except OSError: pass
    return 0
used()
"""


_EMPTY = """
import subprocess
for folder in ("/mnt/data", "/dev/shm"):
    subprocess.run(["find", folder, "-mindepth", "1", "-delete"], check=True)
"""


async def _emptied(pool: Pool, number: int) -> Sandbox:
    found = await pool.sandbox(number)
    await found.execute(_EMPTY, timeout=60)
    await found.reset()
    return found


async def _alone(confinement: Confinement, sandbox: Sandbox) -> None:
    """Nothing but the supervisor, the zygote and the worker is left, or will be in a moment."""
    left = await confinement.processes(sandbox)
    deadline = time.monotonic() + 30
    while left != 3 and time.monotonic() < deadline:
        await anyio.sleep(EVERY)
        left = await confinement.processes(sandbox)
    assert left == 3, f"{left} processes are left"


@pytest.fixture(autouse=True)
async def unharmed(
    pool: Pool, confinement: Confinement, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Sandbox, Sandbox]]:
    """What must hold after every case, whatever it did."""
    attacked, neighbour = await _emptied(pool, 0), await _emptied(pool, 1)
    await neighbour.execute("marker = 'untouched'", timeout=30)
    files, memory = _open_files(), _resident()
    yield attacked, neighbour
    assert (await neighbour.execute("marker", timeout=30)).value == "'untouched'"
    if attacked.alive:
        after = await attacked.execute("6 * 7", timeout=60)
        assert after.value == "42", after
    if request.node.get_closest_marker("xfail"):  # what it left is not for the next one
        await attacked.close()
    fresh = await _emptied(pool, 0)
    assert (await fresh.execute("6 * 7", timeout=60)).value == "42"
    assert int((await fresh.execute(_USED, timeout=30)).value or 0) < IN_SANDBOX
    assert _open_files() <= files + OPEN_FILES
    assert _resident() <= memory + RESIDENT
    for each in (fresh, neighbour):
        await _alone(confinement, each)
        assert confinement.written(each) == 0
