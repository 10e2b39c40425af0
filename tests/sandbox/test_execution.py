"""What code sees and what its caller gets back, in a real container."""

from __future__ import annotations

import time

import anyio
import pytest
from lap_sandbox.base import Execution, Sandbox
from lap_sandbox.errors import LimitReached
from lap_sandbox.session import MAX_CODE

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

PNG = b"\x89PNG\r\n\x1a\n"


async def run(sandbox: Sandbox, code: str, timeout: float = 30) -> Execution:
    return await sandbox.execute(code, timeout=timeout)


async def value(sandbox: Sandbox, code: str) -> str | None:
    """The value of `code`, which must end well."""
    execution = await run(sandbox, code)
    assert execution.status == "ok", execution
    return execution.value


async def test_the_last_expression_is_the_value(sandbox: Sandbox) -> None:
    assert await value(sandbox, "1 + 1") == "2"
    assert await value(sandbox, "x = 5") is None
    assert await value(sandbox, "x; None") is None
    assert await value(sandbox, "x;") is None
    assert await value(sandbox, "x # ; not silenced") == "5"
    assert await value(sandbox, "'é' + '日本'") == "'é日本'"
    assert await value(sandbox, "") is None


async def test_the_value_is_kept_where_showing_it_or_a_figure_ends_the_interpreter(
    sandbox: Sandbox,
) -> None:
    rich = (
        "import os\nclass A:\n  __repr__ = lambda self: 'A!'\n"
        "  _repr_html_ = lambda self: os._exit(3)\nA()"
    )
    figure = (
        "import os\nimport matplotlib.pyplot as plt\n"
        "figure = plt.figure()\nfigure.savefig = lambda *_, **__: os._exit(3)\n5"
    )
    for code, said in ((rich, "A!"), (figure, "5")):
        execution = await run(sandbox, code)
        assert (execution.status, execution.value) == ("died", said)


async def test_state_is_kept_between_executions(sandbox: Sandbox) -> None:
    await run(sandbox, "import math\ndef area(r): return math.pi * r * r")
    assert await value(sandbox, "round(area(2), 3)") == "12.566"
    assert await value(sandbox, "_") == "12.566"


async def test_classes_of_cells_can_be_pickled(sandbox: Sandbox) -> None:
    await run(sandbox, "class Point:\n    x = 1")
    assert await value(sandbox, "import pickle; pickle.loads(pickle.dumps(Point())).x") == "1"


async def test_await_works_at_the_top_level_on_one_loop(sandbox: Sandbox) -> None:
    code = "import asyncio\nawait asyncio.sleep(0)\nloop = asyncio.get_running_loop()"
    assert (await run(sandbox, code)).status == "ok"
    assert await value(sandbox, "await asyncio.sleep(0, 'done')") == "'done'"
    assert await value(
        sandbox, "(await asyncio.sleep(0)) or loop is asyncio.get_running_loop()"
    ) == ("True")
    assert await value(sandbox, "asyncio.run(asyncio.sleep(0, 7))") == "7"


async def test_output_of_python_c_and_children_comes_live_and_whole(sandbox: Sandbox) -> None:
    live: list[tuple[str, str]] = []
    code = (
        "import os, subprocess, sys\n"
        "print('python', flush=True)\n"
        "subprocess.run(['echo', 'child'])\n"
        "os.write(1, b'descriptor\\n')\n"
        "import ctypes; ctypes.CDLL(None).puts(b'libc')\n"
        "print('trouble', file=sys.stderr)"
    )
    execution = await sandbox.execute(
        code, timeout=30, on_output=lambda stream, text: live.append((stream, text))
    )
    assert execution.stdout == "python\nchild\ndescriptor\nlibc\n"
    assert execution.stderr == "trouble\n"
    assert "".join(text for stream, text in live if stream == "stdout") == execution.stdout


async def test_output_arrives_before_the_execution_ends(sandbox: Sandbox) -> None:
    seen = anyio.Event()
    finished = []

    async def execute() -> None:
        code = "print('now')\nimport time\nwhile True: time.sleep(0.01)"
        finished.append(await sandbox.execute(code, timeout=60, on_output=lambda *_: seen.set()))

    async with anyio.create_task_group() as group:
        group.start_soon(execute)
        with anyio.fail_after(30):
            await seen.wait()
        assert not finished
        await sandbox.interrupt()
    assert finished[0].status == "interrupted"


async def test_an_exception_is_told_with_the_users_lines_only(sandbox: Sandbox) -> None:
    code = "def f(x):\n    return 1 / x\nprint('before')\nf(0)"
    execution = await run(sandbox, code)
    assert execution.status == "error"
    assert execution.stdout == "before\n"
    assert execution.error is not None
    assert (execution.error.name, execution.error.value) == (
        "ZeroDivisionError",
        "division by zero",
    )
    lines = execution.error.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "    return 1 / x" in lines
    assert "           ~~^~~" in lines
    assert not any("/opt/lap" in line for line in lines)


async def test_library_frames_are_left_out_of_tracebacks(sandbox: Sandbox) -> None:
    execution = await run(sandbox, "import pandas as pd\npd.DataFrame({'a': [1]})['b']")
    assert execution.error is not None
    assert execution.error.traceback.count("KeyError: 'b'") == 1
    assert "site-packages" not in execution.error.traceback


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("for", "invalid syntax"),
        ("!ls", "subprocess.run"),
        ("%pip install x", "There is no network"),
        ("input('name? ')", "nobody can type"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def f(): f()\nf()", "RecursionError"),
        ("raise ExceptionGroup('two', [ValueError('a'), TypeError('b')])", "TypeError: b"),
        ("class E(Exception):\n    def __str__(self): 1/0\nraise E", "E"),
    ],
)
async def test_what_goes_wrong_is_said_in_words(sandbox: Sandbox, code: str, words: str) -> None:
    execution = await run(sandbox, code)
    assert execution.status == "error"
    assert execution.error is not None
    assert words in execution.error.traceback
    assert await value(sandbox, "1") == "1"


async def test_leaving_with_success_is_no_error(sandbox: Sandbox) -> None:
    for code in ("import sys; sys.exit()", "exit()", "raise SystemExit(0)"):
        assert (await run(sandbox, code)).status == "ok"
    assert await value(sandbox, "2") == "2"


async def test_warnings_are_kept(sandbox: Sandbox) -> None:
    execution = await run(sandbox, "import warnings\nwarnings.warn('careful')")
    assert "UserWarning: careful" in execution.stderr


async def test_a_figure_is_a_png_once_whether_shown_returned_or_left_open(sandbox: Sandbox) -> None:
    draw = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot([1, 2]);\n"
    for end in ("", "plt.show()", "fig", "display(fig)", "plt.show(); plt.close('all')"):
        execution = await run(sandbox, draw + end)
        assert [o.mime for o in execution.outputs] == ["image/png"], end
        assert execution.outputs[0].data.startswith(PNG)
        assert execution.stderr == ""
    assert (await run(sandbox, "1")).outputs == ()


async def test_a_figure_is_shown_after_the_backend_was_chosen_again(sandbox: Sandbox) -> None:
    code = (
        "import matplotlib; matplotlib.use('Agg')\nimport matplotlib.pyplot as plt; plt.plot([1]);"
    )
    assert [o.mime for o in (await run(sandbox, code)).outputs] == ["image/png"]


async def test_figures_of_a_failing_cell_are_shown(sandbox: Sandbox) -> None:
    execution = await run(sandbox, "import matplotlib.pyplot as plt; plt.plot([1])\n1/0")
    assert execution.status == "error"
    assert len(execution.outputs) == 1


async def test_a_data_frame_has_its_text_and_its_table(sandbox: Sandbox) -> None:
    execution = await run(sandbox, "import pandas as pd; pd.DataFrame({'a': [1, 2]})")
    assert execution.value == "   a\n0  1\n1  2"
    assert [o.mime for o in execution.outputs] == ["text/html"]
    assert b"<table" in execution.outputs[0].data


async def test_every_rich_representation_of_jupyter_is_taken(sandbox: Sandbox) -> None:
    code = (
        "class R:\n"
        "    def __init__(self, **m):\n"
        "        for k, v in m.items(): setattr(self, f'_repr_{k}_', lambda v=v, **_: v)\n"
        "display(R(svg='<svg/>'), R(markdown='**a**'), R(latex='$x$'), R(json={'a': 1}),\n"
        "        R(mimebundle=({'text/html': '<b>', 'text/plain': 'b'}, {})))"
    )
    execution = await run(sandbox, code)
    assert [(o.mime, o.data) for o in execution.outputs] == [
        ("image/svg+xml", b"<svg/>"),
        ("text/markdown", b"**a**"),
        ("text/latex", b"$x$"),
        ("application/json", b'{"a": 1}'),
        ("text/html", b"<b>"),
    ]


async def test_display_of_a_plain_value_prints_it(sandbox: Sandbox) -> None:
    assert (await run(sandbox, "display(5, 'a')")).stdout == "5\n'a'\n"


async def test_new_and_changed_files_are_reported_once(sandbox: Sandbox) -> None:
    await sandbox.put("given.csv", b"a,b\n1,2\n")
    first = await run(sandbox, "open('out.txt', 'w').write('x')\nimport os; os.makedirs('d/e')")
    assert [f.path for f in first.files] == ["out.txt"]
    second = await run(
        sandbox, "open('d/e/deep', 'w').write('y'); open('out.txt', 'a').write('z');"
    )
    assert sorted(f.path for f in second.files) == ["d/e/deep", "out.txt"]
    assert (await run(sandbox, "open('given.csv').read()")).files == ()
    changed = await run(sandbox, "open('given.csv', 'a').write('3,4');")
    assert [f.path for f in changed.files] == ["given.csv"]
    assert await sandbox.get("given.csv") == b"a,b\n1,2\n3,4"


async def test_uploaded_modules_can_be_imported_and_ours_cannot(sandbox: Sandbox) -> None:
    await sandbox.put("mine.py", b"answer = 42")
    assert await value(sandbox, "import mine; mine.answer") == "42"
    assert await value(sandbox, "import sys; [p for p in sys.path if 'lap/lib' in p]") == "[]"


async def test_random_numbers_differ_between_interpreters(sandbox: Sandbox) -> None:
    code = "import random, numpy; (random.random(), numpy.random.rand())"
    first = await value(sandbox, code)
    await sandbox.reset()
    assert first != await value(sandbox, code)


async def test_a_timeout_keeps_state_where_the_interpreter_lets_go(sandbox: Sandbox) -> None:
    await run(sandbox, "x = 'kept'")
    for code in ("while True: pass", "import time; time.sleep(99)",
                 "import os; os.system('sleep 99')",
                 "import asyncio; await asyncio.sleep(99)",
                 "import re; re.match('(a+)+$', 'a' * 40 + 'b')"):  # fmt: skip
        execution = await run(sandbox, code, timeout=0.3)
        assert execution.status == "timeout", code
        assert "limit of 0.3 s" in execution.notice
        assert not execution.state_lost, code
        assert await value(sandbox, "x") == "'kept'"


async def test_what_does_not_let_go_is_killed_and_its_files_stay(sandbox: Sandbox) -> None:
    await run(sandbox, "x = 1; open('f', 'w').write('here');")
    execution = await run(sandbox, "print('begun')\nsum(range(10**12))", timeout=0.3)
    assert (execution.status, execution.state_lost, execution.files_lost) == (
        "timeout",
        True,
        False,
    )
    assert execution.stdout == "begun\n"
    assert "lost" in execution.notice
    assert await value(sandbox, "('x' in globals(), open('f').read())") == "(False, 'here')"


async def test_a_late_interrupt_hits_no_later_execution(sandbox: Sandbox) -> None:
    for _ in range(20):
        assert await value(sandbox, "1") == "1"
        await sandbox.interrupt()
    assert await value(sandbox, "sum(range(100000))") == "4999950000"


async def test_cancelling_keeps_the_state(sandbox: Sandbox) -> None:
    await run(sandbox, "x = 1")
    with anyio.move_on_after(0.2):
        await run(sandbox, "x = 2\nwhile True: pass", timeout=60)
    assert await value(sandbox, "x") == "2"


async def test_a_dead_interpreter_is_told_and_replaced(sandbox: Sandbox) -> None:
    await run(sandbox, "x = 1; open('f', 'w').write('here');")
    execution = await run(sandbox, "print('last words', flush=True)\nimport os; os._exit(3)")
    assert (execution.status, execution.state_lost) == ("died", True)
    assert "exit code 3" in execution.notice
    assert execution.stdout == "last words\n"
    assert await value(sandbox, "open('f').read()") == "'here'"


async def test_an_interpreter_that_dies_between_executions_is_told_at_the_next(
    sandbox: Sandbox,
) -> None:
    code = "x = 1\nimport threading, os\nthreading.Timer(0.05, os._exit, [1]).start()"
    await run(sandbox, code)
    deadline = time.monotonic() + 30
    while True:
        execution = await run(sandbox, "'x' in globals()")
        if execution.state_lost:
            break
        assert time.monotonic() < deadline
        await anyio.sleep(0.05)
    # Either it was between executions, or this one was hit: both are said.
    assert execution.notice


async def test_code_larger_than_a_frame_runs(sandbox: Sandbox) -> None:
    assert await value(sandbox, "x = '" + "é" * 400_000 + "'\nlen(x)") == "400000"


async def test_times_are_measured(sandbox: Sandbox) -> None:
    code = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    execution = await run(sandbox, code)
    assert execution.duration >= 0.3
    assert 0.25 <= execution.cpu <= execution.duration + 1


async def test_common_work_runs_under_the_restrictions(sandbox: Sandbox) -> None:
    for code in (
        "import numpy as np; np.linalg.inv(np.eye(50)).sum(); np.testing.assert_allclose(1, 1)",
        "import pandas as pd; pd.DataFrame({'a': range(999)}).rolling(9).mean().to_csv('a.csv')",
        "from concurrent.futures import ThreadPoolExecutor as T\nlist(T(8).map(abs, range(99)))",
        "from concurrent.futures import ProcessPoolExecutor as P\nimport math\n"
        "with P(2) as p: assert list(p.map(math.sqrt, [4.0])) == [2.0]",
        "import multiprocessing as m; m.Queue().put(1); m.Lock().acquire()",
        "import subprocess as s, sys; s.run([sys.executable, '-c', 'import numpy'], check=True)",
        "import sqlite3; sqlite3.connect('/tmp/a.db').execute('create table t (x)')",
        "import tempfile, mmap; f = tempfile.TemporaryFile(); f.write(b'x' * 9); f.flush(); "
        "mmap.mmap(f.fileno(), 9)",
        "import asyncio; p = await asyncio.create_subprocess_exec('true'); await p.wait()",
        "import socket; a, b = socket.socketpair(); a.send(b'x'); b.recv(1)",
        "import os, pty; os.close(pty.openpty()[0])",
        "import shutil, os; open('s', 'w').close(); shutil.copy('s', 't'); os.chmod('t', 0o600)",
        "import getpass, platform, locale; getpass.getuser(); locale.getlocale()",
        "import zoneinfo, datetime; datetime.datetime.now(zoneinfo.ZoneInfo('Europe/Paris'))",
    ):
        execution = await run(sandbox, code)
        assert execution.status == "ok", (code, execution.error)


async def test_more_code_than_one_execution_may_have_is_refused_and_the_state_is_kept(
    sandbox: Sandbox,
) -> None:
    await run(sandbox, "x = 5")

    with pytest.raises(LimitReached, match="4194304 is the limit"):
        await run(sandbox, "#" * (MAX_CODE + 1))

    assert await value(sandbox, "x" + " " * (MAX_CODE - 1)) == "5"
