"""Cases 50 to 60: guessing, crowding, cutting off, and what is left for whoever comes next."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from lap_sandbox.base import Launcher, Sandbox
from lap_sandbox.errors import SandboxGone

from lap_mcp.control import polling
from lap_mcp.control.sandboxes import Sandboxes, SandboxLimits
from lap_mcp.control.services import SandboxRun
from lap_mcp.errors import LimitReached, NotFound
from lap_mcp.mcp_server.results import interpreter_result
from lap_mcp.model import LOCAL, Principal
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import open_database
from tests.capabilities import ROOT
from tests.control.sandbox_home import read
from tests.hostile.attacks import run, value
from tests.hostile.conftest import MakeLauncher
from tests.hostile.launchers import Confinement
from tests.sandbox.pool import SMALL
from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio

STRANGER = Principal(id="key:stranger", kind="key")


@asynccontextmanager
async def serving(
    launcher: Launcher, limits: SandboxLimits, home: Path
) -> AsyncIterator[Sandboxes]:
    """The sandboxes of a server, with a store and blobs of their own."""
    database = await open_database(home / "lap.db")
    try:
        made = Sandboxes(launcher, database, BlobStore(home / "blobs"), limits)
        async with made.running(read) as sandboxes:
            yield sandboxes
    finally:
        await database.aclose()


async def test_50_an_id_that_is_foreign_and_one_that_is_not_get_the_same_answer(
    make_launcher: MakeLauncher, tmp_path: Path
) -> None:
    launcher = await make_launcher()
    async with serving(launcher, SandboxLimits(sandbox=SMALL), tmp_path) as sandboxes:
        mine = (await sandboxes.run(LOCAL, "x = 1")).sandbox_id
        words = []
        for id in (mine, f"sbx_{'0' * 32}"):
            with pytest.raises(NotFound) as refused:
                await sandboxes.run(STRANGER, "x", sandbox_id=id)
            words.append(str(refused.value).replace(id, "ID"))
        assert words[0] == words[1]
        assert (await sandboxes.run(LOCAL, "x", sandbox_id=mine)).execution.value == "1"


async def test_51_who_wants_very_many_sandboxes_gets_his_share_and_others_get_theirs(
    make_launcher: MakeLauncher, tmp_path: Path
) -> None:
    launcher = await make_launcher()
    limits = SandboxLimits(sandbox=SMALL, per_principal=2, open=3)
    async with serving(launcher, limits, tmp_path) as sandboxes:
        refused = 0

        async def hold() -> None:
            nonlocal refused
            try:
                await sandboxes.run(STRANGER, "import time; time.sleep(20)", timeout=30)
            except LimitReached:
                refused += 1

        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(hold)

            async def both_busy() -> bool:
                return sum(view.busy for view in await sandboxes.list(STRANGER)) == 2

            assert await polling.eventually(both_busy, 60)
            for _ in range(20):
                await hold()
            assert refused == 20
            assert (await sandboxes.run(LOCAL, "1")).execution.value == "1"
            group.cancel_scope.cancel()


async def test_52_two_cells_at_once_run_one_after_the_other(sandbox: Sandbox) -> None:
    await run(sandbox, "import time\nlog = []")
    code = "log.append('in'); time.sleep(0.05); log.append('out')"
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(run, sandbox, code)
    assert await value(sandbox, "log == ['in', 'out'] * 5") == "True"


async def test_53_a_caller_who_goes_away_leaves_a_sandbox_that_can_be_used(
    sandbox: Sandbox,
) -> None:
    await run(sandbox, "x = 'kept'")
    for code in ("while True: pass", "import time; time.sleep(60)"):
        with anyio.move_on_after(0.3):
            await run(sandbox, code, 60)
        assert await value(sandbox, "x") == "'kept'"


async def test_54_a_server_that_is_killed_leaves_no_container(
    confinement: Confinement, make_launcher: MakeLauncher, instance: str
) -> None:
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/sandbox"}
    command = [*confinement.holder, instance, *confinement.holder_home]
    process = await anyio.open_process(command, env=environ, stderr=None)
    assert process.stdout is not None
    with anyio.fail_after(120):
        await process.stdout.receive()
    assert len(confinement.running(instance)) >= 2
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await process.aclose()
    await eventually_async(lambda: not confinement.running(instance), within=60)
    launcher = await make_launcher()
    await launcher.reap()
    await eventually_async(lambda: not confinement.kept(instance))


async def test_55_an_engine_that_hangs_is_an_answer_in_words(
    confinement: Confinement, make_launcher: MakeLauncher, instance: str
) -> None:
    """Frozen, a sandbox is silent the way it is when the engine itself hangs."""
    launcher = await make_launcher()
    box = await launcher.open(SMALL)
    confinement.freeze(box)
    with anyio.fail_after(60), pytest.raises(SandboxGone, match="stopped answering"):
        await box.execute("1", timeout=600)
    await box.close()
    await eventually_async(lambda: not confinement.kept(instance))


async def test_56_what_steers_a_terminal_or_a_model_is_taken_out_of_what_a_model_reads(
    sandbox: Sandbox,
) -> None:
    code = (
        "print('\\x1b]0;owned\\x07\\x1b[2Jred\\x1b[31m \\u202eevil\\u202c \\x9b5m'\n"
        "      '\\x1b]52;c;cm0gLXJm\\x07\\U000e0041tag')\n"
        "raise ValueError('\\x1b[1mbold\\u2066')"
    )
    execution = await run(sandbox, code)
    assert "\x1b]52" in execution.stdout  # as it was printed, for who wants it raw
    shown = interpreter_result(
        SandboxRun(sandbox_id="sbx_1", execution=execution, fresh=False), scoped=True
    )
    text = str(shown.content[0].text)  # type: ignore[union-attr]
    assert "red" in text
    assert "bold" in text
    for hidden in ("\x1b", "\x9b", "\u202e", "\u2066", "\U000e0041", "owned", "cm0gLXJm"):
        assert hidden not in text


async def test_57_a_monkeypatched_interpreter_harms_only_itself(sandbox: Sandbox) -> None:
    code = (
        "import sys, builtins, json, struct, os\n"
        "json.dumps = lambda *a, **k: 1/0\nstruct.pack = None\nsys.settrace(lambda *a: 1/0)\n"
        "for name in list(sys.modules):\n"
        "    if 'lap' in name: sys.modules.pop(name).__dict__.clear()\n"
        "builtins.len = lambda x: 5"
    )
    await run(sandbox, code, 3)
    await sandbox.reset()
    assert await value(sandbox, "len([1, 2])") == "2"


async def test_59_a_reset_leaves_no_state_behind(sandbox: Sandbox) -> None:
    await run(sandbox, "import builtins, threading\nx = 1; builtins.y = 2")
    await sandbox.reset()
    assert await value(sandbox, "import builtins; hasattr(builtins, 'y'), 'x' in dir()") == (
        "(False, False)"
    )


async def test_59_a_new_sandbox_has_nothing_of_the_one_before(
    sandbox: Sandbox, make_launcher: MakeLauncher
) -> None:
    await run(sandbox, "x = 1\nfor folder in ('/mnt/data', '/tmp', '/dev/shm'):\n"
                       "    open(folder + '/left', 'w').write('here')")  # fmt: skip
    other = await (await make_launcher()).open(SMALL)
    left = (
        "import os\n'x' in globals(), [f for f in ('/mnt/data', '/tmp', '/dev/shm') "
        "if 'left' in os.listdir(f)], os.path.exists('/mnt/data/left')"
    )
    assert await value(other, left) == "(False, [], False)"
    await other.close()


async def test_60_two_sandboxes_look_alike_from_inside(
    sandbox: Sandbox, neighbour: Sandbox
) -> None:
    code = (
        "import os, socket, getpass\n"
        "socket.gethostname(), os.getcwd(), os.path.exists('/etc/machine-id') and "
        "open('/etc/machine-id').read(), sorted(os.environ), os.listdir('/mnt/data')"
    )
    assert await value(sandbox, code) == await value(neighbour, code)
