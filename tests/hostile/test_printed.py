"""Cases 82 to 86: the files in which all output of a cell is left, attacked from inside."""

from __future__ import annotations

import pytest
from lap_sandbox.base import Execution, Sandbox
from lap_sandbox.errors import SandboxError

from tests.hostile.attacks import run, value
from tests.sandbox.pool import SMALL

pytestmark = pytest.mark.anyio

FLOOD = "line = 'x' * 99\nwhile True: print(line)"
MUCH = "print('line\\n' * 200_000)"


async def _whole(sandbox: Sandbox, execution: Execution) -> bytes:
    assert execution.stdout_left is not None
    return await sandbox.get(execution.stdout_left.path)


async def test_82_printing_without_end_leaves_files_of_bounded_size_and_room_for_the_rest(
    sandbox: Sandbox,
) -> None:
    await run(sandbox, "kept = 5")
    for _ in range(6):
        flood = await run(sandbox, FLOOD, 2)
        assert flood.status == "timeout"
        assert flood.stdout_dropped > 0
        whole = await _whole(sandbox, flood)
        assert len(whole) <= min(SMALL.whole, SMALL.disk // 4)
        assert whole.startswith(b"x" * 99 + b"\n")
    assert sum(file.size for file in await sandbox.list()) <= SMALL.disk // 4
    half = f"open('mine', 'wb').write(bytes({SMALL.disk // 2})), kept"
    assert await value(sandbox, half) == f"({SMALL.disk // 2}, 5)"


async def test_83_where_the_disk_is_full_the_answer_comes_all_the_same(sandbox: Sandbox) -> None:
    fill = (
        "import itertools\n"
        "try:\n"
        "    for n in itertools.count():\n"
        "        with open(f'full{n}', 'wb', 0) as f:\n"
        "            while f.tell() < 16 << 20: f.write(bytes(4096))\n"
        "except OSError: pass\n"
    )
    full = await run(sandbox, fill + MUCH)
    assert full.status == "ok"
    assert full.stdout.startswith("line\nline")
    assert full.stdout.endswith("line\n\n")
    assert full.stdout_dropped > 0
    left = full.stdout_left
    assert left is None or left.missing > 0
    await run(sandbox, "import glob, os\nfor name in glob.glob('full*'): os.unlink(name)")
    assert await _whole(sandbox, await run(sandbox, MUCH)) == b"line\n" * 200_000 + b"\n"


async def test_83_where_no_more_files_fit_the_answer_comes_all_the_same(sandbox: Sandbox) -> None:
    many = (
        "import os, shutil\nos.mkdir('many')\n"
        "try:\n    for n in range(10**6): open(f'many/{n}', 'w').close()\n"
        "except OSError: pass\n"
    )
    full = await run(sandbox, many + MUCH, 60)
    assert (full.status, full.stdout_left) == ("ok", None)
    assert full.stdout.endswith("line\n\n")
    await run(sandbox, "shutil.rmtree('many')")
    assert (await run(sandbox, MUCH)).stdout_left is not None


async def test_84_nothing_is_written_through_what_stands_at_the_name(sandbox: Sandbox) -> None:
    """Links, pipes and folders at each name that could be next, and for the folder itself."""
    victim = "open('victim', 'w').write('untouched'); "
    traps = (
        "import os; os.makedirs('printed', exist_ok=True)\n"
        "for n in range(1, 500):\n"
        "    for name in (f'printed/{n}.txt', f'printed/{n}-stderr.txt'):\n"
        "        try:\n"
        "            if n % 3 == 0: os.symlink('/mnt/data/victim', name)\n"
        "            elif n % 3 == 1: os.mkfifo(name)\n"
        "            else: os.mkdir(name)\n"
        "        except FileExistsError: pass\n"
    )
    for trap in (traps, "os.rename('printed', 'old'); os.symlink('/mnt/data', 'printed')\n"):
        caught = await run(sandbox, victim + trap + MUCH)
        assert caught.status == "ok", caught
        assert caught.stdout_left is None or await _whole(sandbox, caught)
        assert await sandbox.get("victim") == b"untouched"
    await run(sandbox, "os.unlink('printed')")


@pytest.mark.parametrize(
    "do",
    [
        "os.unlink(p)",
        "os.unlink(p); os.symlink('/etc/passwd', p)",
        "os.truncate(p, 0)",
        "os.rename(p, p + '.mine')",
        "os.link(p, p + str(time.monotonic_ns()))",
        "os.chmod(p, 0)",
    ],
)
async def test_85_what_is_done_to_the_file_while_it_is_written_hurts_nobody_else(
    sandbox: Sandbox, do: str
) -> None:
    code = (
        "import glob, os, threading, time\nstop = False\n"
        "def meddle():\n"
        "    while not stop:\n"
        "        for p in glob.glob('/mnt/data/printed/*.txt'):\n"
        "            try:\n"
        f"                {do}\n"
        "            except OSError: pass\n"
        "thread = threading.Thread(target=meddle); thread.start()\n"
        "for _ in range(3000): print('x' * 99)\n"
        "stop = True; thread.join()"
    )
    meddled = await run(sandbox, code)
    assert meddled.status == "ok", meddled
    assert meddled.stdout.startswith("x" * 99)
    if meddled.stdout_left is not None:
        try:
            found = await sandbox.get(meddled.stdout_left.path)
        except SandboxError:
            found = b""
        assert set(found) <= set(b"x\n")
    await run(sandbox, "import shutil; shutil.rmtree('printed', ignore_errors=True)")
    assert await _whole(sandbox, await run(sandbox, MUCH)) == b"line\n" * 200_000 + b"\n"


async def test_86_what_a_thread_prints_between_cells_is_in_no_file(sandbox: Sandbox) -> None:
    code = (
        "import threading, time\nstop = threading.Event()\n"
        "def talk():\n    while not stop.is_set(): print('t' * 999)\n"
        "thread = threading.Thread(target=talk); thread.start();"
    )
    assert (await run(sandbox, code)).status == "ok"
    ended = await run(sandbox, "stop.set(); thread.join()")
    assert ended.status == "ok"
    size = sum(file.size for file in await sandbox.list() if file.path.startswith("printed/"))
    assert size <= SMALL.disk // 4
    assert await _whole(sandbox, await run(sandbox, MUCH)) == b"line\n" * 200_000 + b"\n"
