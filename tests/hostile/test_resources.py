"""Cases 1 to 24: code that wants more of everything than it may have."""

from __future__ import annotations

import anyio
import pytest
from lap_sandbox.base import Sandbox
from lap_sandbox.errors import LimitReached

from tests.hostile.attacks import Attack, attempt, run, value
from tests.hostile.conftest import MakeLauncher
from tests.sandbox.pool import SMALL

pytestmark = pytest.mark.anyio

ATTACKS = [
    Attack(1, "endless-loop", "while True: pass", ("timeout",), "kept", 0.3),
    Attack(2, "endless-call", "sum(range(10**12))", ("timeout",), "Variables and imports are lost",
           0.3),
    Attack(3, "ignored-signals", "import signal; signal.signal(2, signal.SIG_IGN)\nwhile 1: pass",
           ("timeout",), "lost", 0.3),
    Attack(4, "catches-everything",
           "import time\nwhile 1:\n    try:\n        while 1: time.sleep(0.01)\n"
           "    except BaseException: pass", ("timeout",), "lost", 0.3),
    Attack(5, "fork-bomb", "import os\nwhile True: os.fork()", ("error", "timeout"), "", 3),
    Attack(7, "threads", "import threading, time\n"
           "for _ in range(100_000): threading.Thread(target=time.sleep, args=(1,)).start()",
           ("error",), "can't start new thread"),
    Attack(8, "memory", "x = bytearray(10 << 30)", ("out_of_memory", "error"), "memory"),
    Attack(9, "memory-of-children",
           "import subprocess, sys\n"
           "subprocess.run([sys.executable, '-c', 'x = b\"x\" * (700 << 20)']).returncode",
           ("ok", "out_of_memory"), "memory"),
    Attack(10, "disk", "f = open('big', 'wb')\nfor _ in range(9):\n    open(f'big{_}', 'wb')"
           ".write(bytes(16 << 20))", ("error",), "No space left"),
    Attack(11, "many-files", "for n in range(10**6): open(f'f{n}', 'w').close()", ("error",),
           "No space left"),
    Attack(12, "sparse-file", "open('s', 'wb').truncate(1 << 40)", ("error",), "File too large"),
    Attack(13, "shared-memory", "open('/dev/shm/x', 'wb').write(bytes(80 << 20))", ("error",)),
    Attack(14, "system-files", "open('/opt/lap/lib/x', 'w')", ("error",), "Read-only"),
    Attack(15, "flood", "for _ in range(100): print('x' * (10 << 20))", ("ok", "timeout"),
           "bytes left out"),
    Attack(16, "long-line", "print('x' * (100 << 20), end='')", ("ok",), "bytes left out"),
    Attack(17, "two-floods", "import sys\nfor n in range(200_000):\n"
           "    print('o' * 99); print('e' * 99, file=sys.stderr)", ("ok", "timeout"),
           "bytes left out"),
    Attack(19, "repr-raises", "class R:\n    def __repr__(self): raise ValueError\nR()", ("ok",),
           "repr() raised ValueError"),
    Attack(19, "repr-huge", "class R:\n    def __repr__(self): return 'x' * (64 << 20)\nR()",
           ("ok",), "characters in all"),
    Attack(19, "repr-endless", "class R:\n    def __repr__(self):\n        while 1: pass\nR()",
           ("timeout",), "", 0.3),
    Attack(20, "crash", "import ctypes; ctypes.string_at(0)", ("died",), "signal 11"),
    Attack(20, "deep-literal", "import ast; ast.literal_eval('(' * 10**6)", ("error",)),
    Attack(20, "endless-pattern", "import re; re.match('(a+)+$', 'a' * 40 + 'b')", ("timeout",),
           "kept", 0.3),
    Attack(20, "tower-of-powers", "9 ** 9 ** 9", ("timeout",), "", 0.3),
    Attack(20, "deep-recursion", "import sys; sys.setrecursionlimit(10**9)\n"
           "def f(n): return f(n + 1)\nf(0)", ("died", "error", "out_of_memory", "timeout"), "", 9),
    Attack(21, "descriptors", "import os\nx = [os.open('/dev/null', 0) for _ in range(10**6)]",
           ("error",), "Too many open files"),
    Attack(22, "kernel-objects",
           "import ctypes, os, select\nlibc = ctypes.CDLL(None)\nfrom collections import Counter\n"
           "makers = [select.epoll, lambda: os.memfd_create('m'), lambda: os.eventfd(0),\n"
           "          lambda: libc.inotify_init() + 1 or 1/0, lambda: libc.timerfd_create(1, 0) + 1"
           " or 1/0]\nkept = []\nfor make in makers:\n    try:\n"
           "        for _ in range(5000): kept.append(make())\n        print('endless')\n"
           "    except (OSError, ZeroDivisionError): pass\nprint(len(kept) < 1100)",
           ("ok",), "True"),
    Attack(23, "input", "input()", ("error",), "EOFError"),
    Attack(23, "pickle", "import pickle; pickle.loads(b'\\x80\\x04\\x95' + b'\\xff' * 8)",
           ("error",)),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id)
async def test_what_is_taken_is_bounded(attack: Attack, sandbox: Sandbox) -> None:
    await attempt(attack, sandbox)


async def test_01_the_state_outlives_an_endless_loop(sandbox: Sandbox) -> None:
    await run(sandbox, "x = 'kept'")
    assert (await run(sandbox, "while True: pass", 0.3)).status == "timeout"
    assert await value(sandbox, "x") == "'kept'"


async def test_05_08_a_neighbour_notices_neither_a_fork_bomb_nor_an_eater_of_memory(
    sandbox: Sandbox, neighbour: Sandbox
) -> None:
    for code in ("import os\nwhile True: os.fork()", "x = bytearray(10 << 30)"):
        async with anyio.create_task_group() as group:
            group.start_soon(run, sandbox, code, 2)
            for _ in range(20):
                assert await value(neighbour, "marker") == "'untouched'"


async def test_06_a_daemon_does_not_outlive_its_cell(sandbox: Sandbox) -> None:
    """A double fork with a session of its own."""
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        while True: time.sleep(0.01); open('alive', 'w').write(str(time.time()))\n"
        "    os._exit(0)\n"
        "os.wait();"
    )
    await run(sandbox, code)
    left = "import os; sum(p.isdigit() for p in os.listdir('/proc'))"
    for _ in range(500):  # it was killed; dying takes a moment
        if await value(sandbox, left) == "3":
            return
        await anyio.sleep(0.02)
    pytest.fail("it lives")


async def test_11_49_a_listing_of_very_many_files_ends(sandbox: Sandbox) -> None:
    """More than the quota allows, with names that would move a cursor."""
    await run(
        sandbox,
        "import os\nos.mkdir('many')\nopen('many/a\\x1b[2Jb\\nc', 'w').close()\n"
        "try:\n    for n in range(10**6): open(f'many/{n}', 'w').close()\nexcept OSError: pass",
    )
    found = await sandbox.list(limit=5000)
    assert 1000 < len(found) < 2000
    assert "many/a\\x1b[2Jb\\nc" in {file.path for file in found}
    with pytest.raises(LimitReached):
        await sandbox.put("one-more", b"x")
    await run(sandbox, "import shutil; shutil.rmtree('many')")


async def test_12_a_sparse_file_of_the_largest_size_is_not_fetched(sandbox: Sandbox) -> None:
    await run(sandbox, f"open('s', 'wb').truncate({SMALL.file_size})")
    await run(sandbox, f"open('t', 'wb').truncate({SMALL.file_size} + 1)")
    assert len(await sandbox.get("s")) == SMALL.file_size
    assert "t" not in {file.path for file in await sandbox.list() if file.size}


async def test_18_figures_are_bounded_in_number_and_size(sandbox: Sandbox) -> None:
    many = await run(sandbox, "import matplotlib.pyplot as plt\nfor _ in range(40): plt.figure()")
    assert (len(many.outputs), many.outputs_dropped) == (16, 24)
    huge = await run(sandbox, "plt.figure(figsize=(200, 200)); plt.plot([1]);", 60)
    assert huge.status == "ok"
    assert all(len(output.data) <= 5 << 20 for output in huge.outputs)


async def test_24_a_sandbox_that_nobody_uses_is_stopped_and_wakes_with_its_state(
    make_launcher: MakeLauncher,
) -> None:
    launcher = await make_launcher(idle_stop=0.3)
    box = await launcher.open(SMALL)
    await run(box, "import time, threading\nticks = []\ndef tick():\n    while True:\n"
                   "        ticks.append(time.monotonic()); time.sleep(0.005)\n"
                   "threading.Thread(target=tick, daemon=True).start()")  # fmt: skip
    gap = "max(b - a for a, b in zip(ticks, ticks[1:]))"
    for _ in range(20):  # asking wakes it, so that it has to be left alone in between
        await anyio.sleep(1)
        if float(await value(box, gap) or 0) > 0.5:
            break
    else:
        pytest.fail("it was never stopped")
    await box.close()
