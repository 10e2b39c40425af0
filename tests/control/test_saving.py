"""Saving on the user's machine: new files only, in one folder, under names that nothing acts on."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lap_mcp.control.output_names import PATTERNS, check_output_name
from lap_mcp.control.saving import FOLDER, OutputFolder
from lap_mcp.control.services import SessionsAPI
from lap_mcp.errors import Invalid, LapError, LimitReached, NotFound, Unavailable
from lap_mcp.model import LOCAL, Principal

pytestmark = pytest.mark.anyio

SANDBOX = "sbx_" + "1" * 32


class Files:
    """Contents by path; `between` is called after the first piece."""

    def __init__(self, **files: bytes) -> None:
        self.files = {name.replace("__", "."): data for name, data in files.items()}
        self.between: Callable[[], None] = lambda: None

    async def content(
        self, principal: Principal, sandbox_id: str, path: str
    ) -> AsyncIterator[bytes]:
        if path not in self.files or sandbox_id != SANDBOX:
            raise NotFound("There is no such file.")
        return self._pieces(self.files[path])

    async def _pieces(self, data: bytes) -> AsyncIterator[bytes]:
        yield data[:3]
        await anyio.to_thread.run_sync(self.between)
        yield data[3:]


def folder_of(files: Files, working: Path | None, configured: Path | None = None) -> OutputFolder:
    sessions = cast("SessionsAPI", None)  # not asked for in these tests
    return OutputFolder(files, sessions, working=working, configured=configured)


def uri(path: str) -> str:
    return f"lap://sandboxes/{SANDBOX}/files/{path}"


async def test_a_file_is_saved_whole_under_its_last_name_and_is_never_executable(
    tmp_path: Path,
) -> None:
    files = Files()
    files.files["plots/result 1.csv"] = b"1,2,3"
    (saved,) = await folder_of(files, tmp_path).save(LOCAL, [uri("plots/result%201.csv")])

    path = tmp_path / FOLDER / "result 1.csv"
    assert (saved.path, saved.size) == (str(path), 5)
    assert path.read_bytes() == b"1,2,3"
    assert not stat.S_IMODE(path.stat().st_mode) & 0o111
    assert [entry.name for entry in path.parent.iterdir()] == ["result 1.csv"]


async def test_nothing_is_overwritten_whatever_has_the_name(tmp_path: Path) -> None:
    target = tmp_path / FOLDER
    target.mkdir()
    (target / "a.csv").write_text("mine")
    (target / "a-2.csv").symlink_to(tmp_path / "elsewhere")
    (target / "a-3.csv").mkdir()

    (saved,) = await folder_of(Files(a__csv=b"theirs"), tmp_path).save(LOCAL, [uri("a.csv")])

    assert saved.path.endswith("a-4.csv")
    assert (target / "a.csv").read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()


async def test_two_that_save_the_same_name_at_once_get_two_files(tmp_path: Path) -> None:
    folder = folder_of(Files(a__csv=b"theirs"), tmp_path)
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(folder.save, LOCAL, [uri("a.csv")])

    found = list((tmp_path / FOLDER).iterdir())
    assert len(found) == 20
    assert {path.read_bytes() for path in found} == {b"theirs"}


async def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    project = tmp_path / "project"
    project.mkdir()
    (project / FOLDER).symlink_to(tmp_path / "home")

    with pytest.raises(Unavailable, match="a link or no folder"):
        await folder_of(Files(a__csv=b"x"), project).save(LOCAL, [uri("a.csv")])
    assert list((tmp_path / "home").iterdir()) == []


async def test_a_folder_that_is_exchanged_for_a_link_meanwhile_leads_nowhere(
    tmp_path: Path,
) -> None:
    files = Files(a__csv=b"precious")
    (tmp_path / "home").mkdir()

    def exchange() -> None:
        (tmp_path / FOLDER).rename(tmp_path / "moved")
        (tmp_path / FOLDER).symlink_to(tmp_path / "home")

    files.between = exchange
    await folder_of(files, tmp_path).save(LOCAL, [uri("a.csv")])

    assert (tmp_path / "moved" / "a.csv").read_bytes() == b"precious"
    assert list((tmp_path / "home").iterdir()) == []


async def test_what_fails_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    files = Files(a__csv=b"half a file")

    def fail() -> None:
        raise NotFound("The bytes of this file are no longer kept.")

    files.between = fail
    with pytest.raises(NotFound):
        await folder_of(files, tmp_path).save(LOCAL, [uri("a.csv")])

    assert list((tmp_path / FOLDER).iterdir()) == []


async def test_outside_of_a_project_nothing_is_saved_until_a_folder_is_configured(
    tmp_path: Path,
) -> None:
    files = Files(a__csv=b"x")
    with pytest.raises(Unavailable, match="outside a project folder"):
        await folder_of(files, None).save(LOCAL, [uri("a.csv")])

    (saved,) = await folder_of(files, None, tmp_path).save(LOCAL, [uri("a.csv")])
    assert saved.path == str(tmp_path / "a.csv")


async def test_a_folder_that_everybody_writes_to_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(Unavailable, match="everybody may write"):
        await folder_of(Files(a__csv=b"x"), None, shared).save(LOCAL, [uri("a.csv")])


@pytest.mark.parametrize(
    "address",
    [
        "/etc/passwd",
        "https://example.com/a.csv",
        "lap://agents/x",
        f"lap://sandboxes/{SANDBOX}/files/",
    ],
)
async def test_what_is_no_address_of_a_file_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(Invalid):
        await folder_of(Files(), tmp_path).save(LOCAL, [address])


async def test_where_one_name_is_refused_nothing_is_saved(tmp_path: Path) -> None:
    files = Files(a__csv=b"x")
    files.files["Makefile"] = b"all:\n\trm -rf ~"
    with pytest.raises(Invalid, match="build tools"):
        await folder_of(files, tmp_path).save(LOCAL, [uri("a.csv"), uri("Makefile")])
    assert not (tmp_path / FOLDER).exists()
    with pytest.raises(LimitReached):
        await folder_of(files, tmp_path).save(LOCAL, [uri("a.csv")] * 17)


@pytest.mark.parametrize(
    "name",
    [
        "CLAUDE.md", "claude.MD", "AGENTS.md", "GEMINI.md", "ＣＬＡＵＤＥ.md", "Claude.local.md",
        "my.instructions.md", "mcp.json", ".mcp.json", ".bashrc", ".git", "Makefile", "MAKEFILE",
        "run.sh", "run.SH", "setup.py", "conftest.py", "test_x.py", "x.test.ts", "package.json",
        "json.py", "random.PY", "sitecustomize.py", "x.pth", "report.xlsm", "x.desktop", "a.lnk",
        "-rf", "~", "a~", "a\nb.csv", "a\u202egpj.exe", "a\u200bb", "a/b", "a\\b", "a:b", "con",
        "NUL.txt", "com1.csv", " a.csv", "a.csv ", "a.csv.", "", ".", "..", "x" * 201, "$(id).csv",
        "a|b", "`id`", "Dockerfile.dev", "docker-compose.yml", "lap.toml", "x.code-workspace",
    ],
)  # fmt: skip
def test_a_name_that_something_acts_on_is_refused(name: str) -> None:
    with pytest.raises(Invalid):
        check_output_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "result.csv", "Bericht 2026 (neu).xlsx", "plot.png", "analysis.py", "notes.md", "a.html",
        "données.parquet", "数据.json", "model.ipynb", "x.tar.gz",
        "claude-report.md", "makefile.txt",
        "run.sh.txt", "settings-table.csv", "testing.csv",
    ],
)  # fmt: skip
def test_plain_results_are_saved(name: str) -> None:
    check_output_name(name)


@given(st.text(max_size=40))
def test_whatever_passes_is_one_visible_name_in_the_folder(name: str) -> None:
    try:
        check_output_name(name)
    except LapError:
        return
    assert "/" not in name
    assert "\0" not in name
    assert name not in ("", ".", "..")
    assert not name.startswith(".")
    assert os.fsencode(name) == name.encode()
    assert name.isprintable()


def test_every_pattern_is_written_as_it_is_compared() -> None:
    for patterns in PATTERNS.values():
        assert all(pattern == pattern.casefold() for pattern in patterns)
