"""A sandbox id does not vanish: its files outlive the container, the server and its memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import anyio.to_thread
import pytest
import sqlalchemy as sa
from lap_sandbox.base import Execution, FileInfo
from lap_sandbox.testing import Scripted, ScriptedLauncher, ScriptedSandbox

from lap_mcp.control.keeping import MAX_FILES
from lap_mcp.control.sandboxes import Sandboxes, SandboxLimits
from lap_mcp.control.services import FileInput, SandboxRun
from lap_mcp.errors import Conflict, NotFound, Unavailable
from lap_mcp.model import LOCAL, Principal
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import open_database
from lap_mcp.store.tables import sandbox_files, sandboxes
from tests.capabilities import ROOT
from tests.control.sandbox_home import SandboxHome
from tests.processes import Processes

pytestmark = pytest.mark.anyio

OTHER = Principal(id="key:other", kind="key")
ONE = SandboxLimits(per_principal=1)


def script(code: str) -> Scripted:
    """`write NAME TEXT` makes a file, `die` ends the container, `oom` replaces it, anything else
    is echoed."""
    verb, _, rest = code.partition(" ")
    match verb:
        case "write":
            name, _, text = rest.partition(" ")
            return Scripted(writes={name: text.encode()})
        case "die":
            return Scripted(dies=True)
        case "oom":
            lost = Execution(
                id="",
                status="out_of_memory",
                state_lost=True,
                files_lost=True,
                notice="Variables and files are lost.",
            )
            return Scripted(execution=lost)
    return Scripted(execution=Execution(id="", status="ok", stdout=code))


@pytest.fixture
def launcher() -> ScriptedLauncher:
    return ScriptedLauncher(script)


@pytest.fixture
def home(where: Path | str, tmp_path: Path) -> SandboxHome:
    return SandboxHome(where, tmp_path / "blobs")


def newest(launcher: ScriptedLauncher) -> ScriptedSandbox:
    return launcher.sandboxes[-1]


def holds(launcher: ScriptedLauncher) -> dict[str, bytes]:
    """The files of the container that was opened last."""
    return {path: data for path, (data, _) in newest(launcher).files.items()}


async def count(home: SandboxHome, query: sa.Select[tuple[int]]) -> int:
    database = await open_database(home.where)
    try:
        return await database.read(lambda connection: connection.execute(query).scalar() or 0)
    finally:
        await database.aclose()


async def test_what_made_room_comes_back_with_its_files_and_says_that_variables_are_gone(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    async with home.server(launcher, ONE) as server:
        first = await server.run(LOCAL, "write a/b.txt hello")
        await server.run(LOCAL, "elsewhere")
        assert [sandbox.alive for sandbox in launcher.sandboxes] == [False, True]

        back = await server.run(LOCAL, "x", sandbox_id=first.sandbox_id)

    assert back.sandbox_id == first.sandbox_id
    assert (back.fresh, back.reopened) == (False, True)
    assert holds(launcher) == {"a/b.txt": b"hello"}
    assert "1 kept file is back" in back.notes[0]
    assert "variables and imports are gone" in back.notes[0]


async def test_a_connections_default_sandbox_keeps_its_id_and_files_when_its_container_goes(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    async with home.server(launcher) as server:
        first = await server.run(LOCAL, "write a.txt 1", scope="c")
        await newest(launcher).close()

        again = await server.run(LOCAL, "x", scope="c")

    assert again.sandbox_id == first.sandbox_id
    assert holds(launcher) == {"a.txt": b"1"}


async def test_another_server_on_the_same_home_opens_it_again_once_the_first_has_ended(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    async with home.server(launcher) as server:
        first = await server.run(LOCAL, "write a.txt 1", files=[FileInput(name="b", data=b"2")])
    later = ScriptedLauncher(script)
    async with home.server(later) as server:
        assert await server.file(LOCAL, first.sandbox_id, "a.txt") == b"1"
        listed = await server.files(LOCAL, first.sandbox_id)
        back = await server.run(LOCAL, "x", sandbox_id=first.sandbox_id)

    assert [info.path for info in listed] == ["a.txt", "b"]
    assert back.reopened
    assert holds(later) == {"a.txt": b"1", "b": b"2"}


async def test_a_sandbox_that_is_open_in_another_process_is_refused_and_the_process_named(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    other = ScriptedLauncher(script)
    async with home.server(launcher) as first, home.server(other) as second:
        run = await first.run(LOCAL, "write a.txt 1")

        with pytest.raises(Conflict, match=rf"process {os.getpid()}\b"):
            await second.run(LOCAL, "x", sandbox_id=run.sandbox_id)

        # What it kept can be read all the same.
        assert await second.file(LOCAL, run.sandbox_id, "a.txt") == b"1"
        assert [view.open for view in await second.list(LOCAL)] == [False]
    assert not any(sandbox.alive for sandbox in other.sandboxes)


async def test_who_lost_its_lease_writes_nothing_any_more(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    """As a process that was stopped past its lease, while another one went on."""
    async with home.server(launcher) as first, home.server(ScriptedLauncher(script)) as second:
        run = await first.run(LOCAL, "write a.txt old")
        database = await open_database(home.where)
        await database.write(lambda c: c.execute(sandboxes.update().values(lease_until=0)))
        await database.aclose()
        await second.run(LOCAL, "write a.txt new", sandbox_id=run.sandbox_id)

        with pytest.raises(Unavailable, match="another lap-mcp process"):
            await first.run(LOCAL, "write a.txt stale", sandbox_id=run.sandbox_id)

        assert not newest(launcher).alive
        assert await second.file(LOCAL, run.sandbox_id, "a.txt") == b"new"


async def test_a_killed_server_loses_no_file_that_an_answer_named(
    tmp_path: Path, started: Processes
) -> None:
    """A real process, killed right after it has printed the answer."""
    home = SandboxHome(tmp_path / "lap.db", tmp_path / "blobs")
    process = started.start(
        [sys.executable, "-m", "tests.control.sandbox_victim", tmp_path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    line = await anyio.to_thread.run_sync(process.stdout.readline)
    process.send_signal(signal.SIGKILL)
    await anyio.to_thread.run_sync(process.wait)
    process.stdout.close()

    later = ScriptedLauncher(script)
    async with home.server(later) as server:
        back = await server.run(LOCAL, "x", sandbox_id=line.decode().strip())

    assert back.reopened
    assert holds(later) == {"named.txt": b"precious"}


async def test_a_container_that_dies_under_the_code_is_said_and_the_id_works_on(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    async with home.server(launcher) as server:
        first = await server.run(LOCAL, "write a.txt 1")
        with pytest.raises(Unavailable, match=f"Call again with sandbox {first.sandbox_id}"):
            await server.run(LOCAL, "die", sandbox_id=first.sandbox_id)

        back = await server.run(LOCAL, "x", sandbox_id=first.sandbox_id)

    assert back.reopened
    assert holds(launcher) == {"a.txt": b"1"}


async def test_files_are_put_back_when_memory_ran_out(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    async with home.server(launcher) as server:
        first = await server.run(LOCAL, "write a.txt 1")
        newest(launcher).files.clear()  # as the container that takes its place
        run = await server.run(LOCAL, "oom", sandbox_id=first.sandbox_id)

    assert run.execution.status == "out_of_memory"
    assert not run.execution.files_lost
    assert "1 kept file is back" in run.execution.notice
    assert "files are lost" not in run.execution.notice
    assert holds(launcher) == {"a.txt": b"1"}


async def test_a_foreign_sandbox_is_missing_in_every_way_also_when_it_is_closed(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    async with home.server(launcher) as server:
        theirs = (await server.run(LOCAL, "write a.txt 1", scope="c")).sandbox_id
        for _ in range(2):
            nobodys = "sbx_" + "0" * 32
            asked: list[Callable[[str], object]] = [
                lambda sandbox_id: server.run(OTHER, "x", sandbox_id=sandbox_id),
                lambda sandbox_id: server.run(OTHER, "x", sandbox_id=sandbox_id, replay=True),
                lambda sandbox_id: server.files(OTHER, sandbox_id),
                lambda sandbox_id: server.file(OTHER, sandbox_id, "a.txt"),
                lambda sandbox_id: server.part(OTHER, sandbox_id, "a.txt", 0, 10),
            ]
            for ask in asked:
                words = set()
                for sandbox_id in (theirs, nobodys):
                    with pytest.raises(NotFound) as refused:
                        await ask(sandbox_id)  # type: ignore[misc]
                    words.add(str(refused.value).replace(sandbox_id, "X"))
                assert len(words) == 1
            assert await server.list(OTHER) == []
            await server.release("c")


async def test_a_file_over_the_quota_is_named_as_not_kept_and_why(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    limits = SandboxLimits(keep_each=10, keep=15)
    async with home.server(launcher, limits) as server:
        large = await server.run(LOCAL, "write a.txt 12345678901")
        first = await server.run(LOCAL, "write a.txt 1234567890")
        other = await server.run(LOCAL, "write b.txt 1234567890")
        fits = await server.run(LOCAL, "write b.txt 12345", sandbox_id=other.sandbox_id)

    assert "sandbox.keep_each" in large.not_kept["a.txt"]
    assert first.not_kept == {}
    assert "sandbox.keep)" in other.not_kept["b.txt"]
    assert fits.not_kept == {}
    assert await count(home, sa.select(sa.func.sum(sandbox_files.c.size))) == 15


async def test_a_file_that_is_written_again_needs_its_room_once(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    async with home.server(launcher, SandboxLimits(keep_each=10)) as server:
        run = await server.run(LOCAL, "write a.txt 12345678")
        for text in ("abcdefgh", "12345678", "ABCDEFGHIJ"):
            again = await server.run(LOCAL, f"write a.txt {text}", sandbox_id=run.sandbox_id)
            assert again.not_kept == {}
        assert await server.file(LOCAL, run.sandbox_id, "a.txt") == b"ABCDEFGHIJ"


async def test_a_name_that_cannot_be_written_is_not_kept_and_said(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    """The sandbox shows such a name escaped; nothing has that name."""
    odd = FileInfo(path="a\\nb\\u202e.txt", size=1, modified=1.0)
    plain = launcher.script

    def with_odd(code: str) -> Scripted:
        step = plain(code)
        return replace(step, execution=replace(step.execution, files=[odd]))

    class Reporting(ScriptedSandbox):
        async def execute(self, *args: object, **kwargs: object) -> Execution:
            done = await super().execute(*args, **kwargs)  # type: ignore[arg-type]
            return replace(done, files=[odd])

    launcher.script = with_odd
    async with home.server(launcher) as server:
        run = await server.run(LOCAL, "x")
        newest(launcher).__class__ = Reporting
        again = await server.run(LOCAL, "x", sandbox_id=run.sandbox_id)

    assert "cannot be written" in again.not_kept[odd.path]


async def test_what_no_execution_reported_is_kept_before_the_container_goes(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    """Also that a file was deleted: it does not come back from the dead."""
    async with home.server(launcher, ONE) as server:
        first = await server.run(LOCAL, "write gone.txt 1")
        sandbox = newest(launcher)
        sandbox.files["silent.txt"] = (b"written by a thread", time.time())
        del sandbox.files["gone.txt"]
        await server.run(LOCAL, "elsewhere")
        await server.run(LOCAL, "x", sandbox_id=first.sandbox_id)

    assert holds(launcher) == {"silent.txt": b"written by a thread"}


async def test_a_list_that_ended_early_makes_no_file_forgotten_that_is_there(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    """Where there is no time to see all, a file that is gone is no proof for the others."""

    class Hurried(ScriptedSandbox):
        async def list(self, *, limit: int = 1000) -> Sequence[FileInfo]:
            return [info for info in await super().list(limit=limit) if info.path < "m"]

    async with home.server(launcher, ONE) as server:
        first = await server.run(LOCAL, "write gone.txt 1")
        for name in ("a.txt", "unseen.txt"):
            await server.run(LOCAL, f"write {name} 2", sandbox_id=first.sandbox_id)
        sandbox = newest(launcher)
        del sandbox.files["gone.txt"]
        sandbox.__class__ = Hurried
        await server.run(LOCAL, "elsewhere")
        await server.run(LOCAL, "x", sandbox_id=first.sandbox_id)

    assert holds(launcher) == {"a.txt": b"2", "unseen.txt": b"2"}


async def test_of_very_many_files_the_first_thousands_are_kept_and_nothing_is_forgotten_by_it(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    async with home.server(launcher, ONE) as server:
        first = await server.run(LOCAL, "write zzz.txt named")
        many = {f"f{number:06}": (b"", 1.0) for number in range(100_000)}
        newest(launcher).files.update(many)
        await server.run(LOCAL, "elsewhere")
        await server.run(LOCAL, "x", sandbox_id=first.sandbox_id)

    found = holds(launcher)
    assert len(found) == MAX_FILES
    assert found["zzz.txt"] == b"named"


async def test_an_execution_that_changes_no_file_writes_nothing_before_its_answer(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    async with home.server(launcher) as server:
        run = await server.run(LOCAL, "write a.txt 1")
        database = await open_database(home.where)
        before = await database.token()
        for number in range(20):
            await server.run(LOCAL, f"{number}", sandbox_id=run.sandbox_id)
        after = await database.token()
        await database.aclose()
    if not isinstance(home.where, str):  # other tests share the snapshot of a PostgreSQL server
        assert before == after


async def test_where_nothing_can_be_kept_the_answer_is_given_and_says_so(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    async with home.server(launcher) as server:
        home.folder.write_text("a file where the folder is to be")
        made = await server.run(LOCAL, "write a.txt 1", files=[FileInput(name="b", data=b"2")])
        home.folder.unlink()
        again = await server.run(LOCAL, "write a.txt 2", sandbox_id=made.sandbox_id)

    assert made.execution.status == "ok"
    assert set(made.not_kept) == {"a.txt", "b"}
    assert "could not be kept" in made.not_kept["a.txt"]
    assert again.not_kept == {}


async def test_a_container_that_ends_while_its_files_are_looked_through_blocks_nothing(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    """Looking through and calling want the same two locks."""
    async with home.server(launcher) as server:
        first = await server.run(LOCAL, "write a.txt 1")
        newest(launcher).files["silent.txt"] = (b"2", time.time())
        server._open.all()[0].dirty = True
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server._open.tidy)
                tasks.start_soon(server._open.tidy)
                tasks.start_soon(swallowed, server, "die", first.sandbox_id)
        await server.run(LOCAL, "x", sandbox_id=first.sandbox_id)

    assert holds(launcher) == {"a.txt": b"1", "silent.txt": b"2"}


async def swallowed(server: Sandboxes, code: str, sandbox_id: str) -> None:
    with contextlib.suppress(Unavailable):
        await server.run(LOCAL, code, sandbox_id=sandbox_id)


async def test_bytes_that_nothing_names_any_more_go_and_those_put_again_stay(
    tmp_path: Path,
) -> None:
    """The race of a sweep with somebody who keeps the same bytes at that moment."""
    blobs = BlobStore(tmp_path / "blobs")
    unused, wanted = await blobs.put(b"unused"), await blobs.put(b"wanted")
    for sha256 in (unused, wanted):
        os.utime(tmp_path / "blobs" / sha256, (1, 1))

    await blobs.put(b"wanted")
    await blobs.discard([unused, wanted], time.time() - 60)

    assert [path.name for path in (tmp_path / "blobs").iterdir()] == [wanted]


async def test_a_sandbox_that_nobody_used_for_long_is_forgotten_with_its_bytes(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    async with home.server(launcher) as server:
        old = await server.run(LOCAL, "write a.txt old", scope="a")
        await server.release("a")
        still = await server.run(LOCAL, "write b.txt open")
        for blob in home.folder.iterdir():
            os.utime(blob, (1, 1))

        assert await server.forget(time.time() + 1) == 1

        with pytest.raises(NotFound):
            await server.file(LOCAL, old.sandbox_id, "a.txt")
        assert await server.file(LOCAL, still.sandbox_id, "b.txt") == b"open"
        assert len(list(home.folder.iterdir())) == 1


# Replay -----------------------------------------------------------------------------------------


async def lost(server: Sandboxes, *cells: str) -> str:
    """The id of a sandbox that ran `cells` and then gave up its container."""
    run: SandboxRun | None = None
    for cell in cells:
        run = await server.run(LOCAL, cell, sandbox_id=None if run is None else run.sandbox_id)
    assert run is not None
    await server.run(LOCAL, "elsewhere")
    return run.sandbox_id


async def test_a_replay_runs_the_recorded_cells_again_and_then_the_code(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    async with home.server(launcher, ONE) as server:
        sandbox_id = await lost(server, "one", "write a.txt 1", "two")
        run = await server.run(LOCAL, "three", sandbox_id=sandbox_id, replay=True)
        assert newest(launcher).executed == ["one", "write a.txt 1", "two", "three"]
        again = await server.run(LOCAL, "four", sandbox_id=sandbox_id, replay=True)

    assert "Replayed 3 recorded cells with the same results" in run.notes[-1]
    assert run.execution.stdout == "three"
    assert newest(launcher).executed[-1] == "four"
    assert "nothing was replayed" in again.notes[-1]


async def test_a_replay_stops_at_the_first_cell_that_shows_something_else(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    async with home.server(launcher, ONE) as server:
        sandbox_id = await lost(server, "one", "random", "three")

        def changed(code: str) -> Scripted:
            told = "0.77" if code == "random" else code
            return Scripted(execution=Execution(id="", status="ok", stdout=told))

        launcher.script = changed
        run = await server.run(LOCAL, "four", sandbox_id=sandbox_id, replay=True)
        assert newest(launcher).executed == ["one", "random"]
        on = await server.run(LOCAL, "four", sandbox_id=sandbox_id)

    assert run.execution.status == "error"
    assert run.execution.stdout == "0.77"
    assert "stopped at cell 2 of 3" in run.notes[-1]
    assert "was not run" in run.notes[-1]
    assert on.execution.stdout == "four"


async def test_what_failed_for_want_of_variables_is_not_replayed(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    """The usual order: the model goes on, gets a NameError, and then asks for the replay."""
    async with home.server(launcher, ONE) as server:
        sandbox_id = await lost(server, "one", "two")
        failing = Scripted(execution=Execution(id="", status="error", stdout="NameError"))
        launcher.script = lambda code: failing if code == "use" else script(code)
        await server.run(LOCAL, "use", sandbox_id=sandbox_id)
        newest(launcher).script = launcher.script = script

        run = await server.run(LOCAL, "use", sandbox_id=sandbox_id, replay=True)

    assert run.execution.status == "ok"
    assert newest(launcher).executed == ["one", "two", "use"]


@pytest.mark.parametrize("first", [True, False], ids=["at once", "after another call"])
async def test_a_replay_begins_with_the_given_files_and_ends_with_all_as_they_were_kept(
    home: SandboxHome, launcher: ScriptedLauncher, first: bool
) -> None:
    """Cells that make a folder or a file would fail among what they made the first time."""
    there: list[list[str]] = []

    def looking(code: str) -> Scripted:
        there.append(sorted(newest(launcher).files))
        return script(code)

    async with home.server(launcher, ONE) as server:
        run = await server.run(LOCAL, "write a.txt 1", files=[FileInput(name="in", data=b"0")])
        await server.run(LOCAL, "write a.txt 2", sandbox_id=run.sandbox_id)
        await server.run(LOCAL, "write b.txt 3", sandbox_id=run.sandbox_id)
        await server.run(LOCAL, "elsewhere")
        if not first:
            await server.run(LOCAL, "look", sandbox_id=run.sandbox_id)
        launcher.script = looking
        await server.run(LOCAL, "x", sandbox_id=run.sandbox_id, replay=True)

    assert there[:3] == [["in"], ["a.txt", "in"], ["a.txt", "in"]]
    assert there[-1] == ["a.txt", "b.txt", "in"]
    assert holds(launcher) == {"in": b"0", "a.txt": b"2", "b.txt": b"3"}


async def test_a_replay_that_is_cut_off_forgets_no_file(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    async with home.server(launcher, ONE) as server:
        sandbox_id = await lost(server, "write a.txt 1", "wait")
        launcher.script = lambda code: Scripted(endless=code == "wait")
        with anyio.move_on_after(0.3):
            await server.run(LOCAL, "x", sandbox_id=sandbox_id, replay=True)
        newest(launcher).script = launcher.script = script
        assert holds(launcher) == {}
        await server.run(LOCAL, "elsewhere")
        back = await server.run(LOCAL, "x", sandbox_id=sandbox_id)

    assert back.not_kept == {}
    assert holds(launcher) == {"a.txt": b"1"}


async def test_a_replay_works_in_the_next_server_too(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    async with home.server(launcher) as server:
        first = await server.run(LOCAL, "one")
        await server.run(LOCAL, "at 0x7f00deadbeef", sandbox_id=first.sandbox_id)
    later = ScriptedLauncher(script)
    async with home.server(later) as server:
        run = await server.run(LOCAL, "two", sandbox_id=first.sandbox_id, replay=True)

    assert "Replayed 2 recorded cells" in run.notes[-1]
    assert newest(later).executed == ["one", "at 0x7f00deadbeef", "two"]


async def test_a_replay_is_refused_where_cells_are_missing(
    home: SandboxHome, launcher: ScriptedLauncher
) -> None:
    async with home.server(launcher, ONE) as server:
        sandbox_id = await lost(server, "one", "# " + "x" * 200_000, "three")
        run = await server.run(LOCAL, "four", sandbox_id=sandbox_id, replay=True)

    assert "of its 3 cells 2 are recorded" in run.notes[-1]
    assert newest(launcher).executed == []
