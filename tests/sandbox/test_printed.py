"""What is printed beyond what a reader of the answer sees is left, as a whole, in a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lap_sandbox.base import Execution, Sandbox
from lap_sandbox.runner import printed
from lap_sandbox.runner.files import Tree
from lap_sandbox.runner.printed import Printed, Whole
from lap_sandbox.runner.wire import Kind

from tests.sandbox.conftest import MakeLauncher
from tests.sandbox.pool import SMALL

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

LINES = "for n in range(100_000): print('line', n)"
WHOLE = "".join(f"line {n}\n" for n in range(100_000)).encode()


async def run(sandbox: Sandbox, code: str) -> Execution:
    execution = await sandbox.execute(code, timeout=60)
    assert execution.status == "ok", execution
    return execution


async def test_all_that_was_printed_is_in_a_file_that_the_answer_names(sandbox: Sandbox) -> None:
    execution = await run(sandbox, LINES)
    assert execution.stdout_dropped > 0
    left = execution.stdout_left
    assert left is not None
    assert left.missing == 0
    assert await sandbox.get(left.path) == WHOLE
    assert [file.path for file in execution.files] == [left.path]
    assert execution.files[0].size == len(WHOLE)
    read = await run(sandbox, f"open('/mnt/data/{left.path}').readlines()[54321]")
    assert read.value == repr("line 54321\n")


async def test_what_a_reader_sees_wholly_is_in_no_file(sandbox: Sandbox) -> None:
    execution = await run(sandbox, f"print('x' * {SMALL.stdout_short - 1})")
    assert len(execution.stdout) == SMALL.stdout_short
    assert execution.stdout_left is None
    assert execution.files == ()
    execution = await run(sandbox, f"print('x' * {SMALL.stdout_short})")
    assert execution.stdout_left is not None


async def test_both_streams_of_an_execution_and_those_of_the_next_are_apart(
    sandbox: Sandbox,
) -> None:
    both = "import sys\nprint('o' * 9000)\nprint('e' * 9000, file=sys.stderr)"
    first, second = await run(sandbox, both), await run(sandbox, "print('n' * 9000)")
    lefts = [first.stdout_left, first.stderr_left, second.stdout_left]
    paths = [left.path for left in lefts if left is not None]
    assert len(set(paths)) == 3
    assert paths[1] == paths[0].removesuffix(".txt") + "-stderr.txt"
    found = [await sandbox.get(path) for path in paths]
    assert found == [b"o" * 9000 + b"\n", b"e" * 9000 + b"\n", b"n" * 9000 + b"\n"]


async def test_what_a_stopped_cell_had_printed_is_left_too(sandbox: Sandbox) -> None:
    code = "import sys\nprint('begun' * 2000, flush=True)\nwhile True: pass"
    execution = await sandbox.execute(code, timeout=1)
    assert execution.status == "timeout"
    assert execution.stdout_left is not None
    assert await sandbox.get(execution.stdout_left.path) == b"begun" * 2000 + b"\n"


async def test_a_file_of_the_user_is_never_written_over(sandbox: Sandbox) -> None:
    for number in range(1, 40):
        await sandbox.put(f"printed/{number}.txt", b"mine")
    execution = await run(sandbox, LINES)
    assert execution.stdout_left is not None
    assert await sandbox.get(execution.stdout_left.path) == WHOLE
    for number in range(1, 40):
        assert await sandbox.get(f"printed/{number}.txt") == b"mine"


async def test_where_no_file_is_wanted_none_is_made(make_launcher: MakeLauncher) -> None:
    limits = replace(SMALL, whole=0)
    launcher = await make_launcher(limits=limits)
    execution = await run(await launcher.open(limits), LINES)
    assert execution.stdout_dropped > 0
    assert execution.stdout_left is None
    assert execution.files == ()


# Without a container: any folder will do ----------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(str(tmp_path))
    yield made
    os.close(made._root)


def _left(shelf: Printed, *pieces: bytes, most: int = 1000) -> dict[str, object] | None:
    whole = Whole(shelf, Kind.STDOUT, short=10, most=most)
    for piece in pieces:
        whole.feed(piece)
    left = whole.end()
    shelf.next()
    return left


def test_pieces_of_any_size_are_put_together_and_what_has_no_room_is_counted(
    tree: Tree, tmp_path: Path
) -> None:
    shelf = Printed(tree)
    assert _left(shelf, b"12345", b"67890") is None
    assert _left(shelf, b"12345", b"67890", b"1", b"", b"23") == {
        "path": "printed/2.txt",
        "missing": 0,
    }
    assert (tmp_path / "printed/2.txt").read_bytes() == b"1234567890123"
    for pieces in ((b"x" * 1003,), (b"x" * 9, b"x" * 994), (b"x" * 1000, b"xxx"), (b"x",) * 1003):
        left = _left(shelf, *pieces)
        assert left is not None
        assert left["missing"] == 3
        assert (tmp_path / str(left["path"])).read_bytes() == b"x" * 1000


def test_only_the_newest_stay_and_only_what_was_made_here_goes(tree: Tree, tmp_path: Path) -> None:
    shelf = Printed(tree)
    (tmp_path / "printed").mkdir()
    (tmp_path / "printed/mine.txt").write_text("mine")
    for _ in range(printed.KEPT + 5):
        assert _left(shelf, b"x" * 20) is not None
    (tmp_path / "printed/6.txt").unlink()
    (tmp_path / "printed/6.txt").write_text("another")
    assert _left(shelf, b"x" * 20) is not None
    names = {path.name for path in (tmp_path / "printed").iterdir()}
    kept = {f"{number}.txt" for number in range(7, printed.KEPT + 7)}
    assert names == {"mine.txt", "6.txt"} | kept


def test_what_an_earlier_container_left_counts_and_stays(tmp_path: Path) -> None:
    """`room` is that of the disk, of which a quarter may be taken."""

    class Small(Tree):
        def room(self) -> tuple[int, int]:
            return 4000, 4000

    (tmp_path / "printed").mkdir()
    (tmp_path / "printed/1.txt").write_bytes(b"x" * 900)
    tree = Small(str(tmp_path))
    left = _left(Printed(tree), b"y" * 500)
    assert left == {"path": "printed/2.txt", "missing": 400}
    assert _left(Printed(tree), b"y" * 500) is None, "nothing is left of the quarter"
    assert {path.name for path in (tmp_path / "printed").iterdir()} == {"1.txt", "2.txt"}
    os.close(tree._root)


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_nothing_is_followed_and_nothing_breaks_where_the_folder_is_something_else(
    tree: Tree, tmp_path: Path, kind: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = tmp_path / "printed"
    if kind == "file":
        place.write_text("")
    else:
        place.symlink_to(elsewhere if kind == "link" else tmp_path / "nowhere")
    assert _left(Printed(tree), b"x" * 20) is None
    assert list(elsewhere.iterdir()) == []


def test_a_name_that_leads_elsewhere_by_the_end_is_not_told(tree: Tree, tmp_path: Path) -> None:
    whole = Whole(Printed(tree), Kind.STDERR, short=10, most=1000)
    whole.feed(b"x" * 20)
    made = tmp_path / "printed/1-stderr.txt"
    made.unlink()
    made.symlink_to("/etc/passwd")
    whole.feed(b"y" * 20)
    assert whole.end() is None
