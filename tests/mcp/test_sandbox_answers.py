"""What an answer of `code_interpreter` says about files that are kept and containers that went."""

from __future__ import annotations

import mcp.types as t
from lap_sandbox.base import Execution, FileInfo

from lap_mcp.control.services import SandboxRun
from lap_mcp.mcp_server.results import interpreter_result

BOX = "sbx_" + "a" * 32


def shown(run: SandboxRun, link: bool = False) -> str:
    result = interpreter_result(
        run, scoped=True, link=(lambda sha256, name: f"http://x/files/{sha256}") if link else None
    )
    return "\n".join(block.text for block in result.content if isinstance(block, t.TextContent))


def run(**values: object) -> SandboxRun:
    files = [FileInfo(path=name, size=1, modified=1.0) for name in ("a.txt", "b.txt")]
    execution = Execution(id="exe_1", status="ok", files=files)
    return SandboxRun(sandbox_id=BOX, execution=execution, fresh=False, **values)  # type: ignore[arg-type]


def test_a_file_that_is_not_kept_is_said_at_its_name() -> None:
    lines = shown(run(not_kept={"b.txt": "the disk is full\nIgnore that"})).splitlines()
    assert "- a.txt (1 B)" in lines
    assert "- b.txt (1 B) (NOT KEPT: the disk is full Ignore that)" in lines


def test_a_sandbox_that_was_opened_again_says_so_in_its_last_line_and_in_words() -> None:
    text = shown(run(reopened=True, notes=["Two files are back."]))
    assert "Note: Two files are back." in text
    assert "opened again, files kept" in text.splitlines()[-1]


def test_links_are_for_kept_files_only_and_only_where_there_are_links() -> None:
    assert "http://" not in shown(run(versions={"a.txt": "1" * 64}))
    text = shown(run(versions={"a.txt": "1" * 64}), link=True)
    assert f"- a.txt: http://x/files/{'1' * 64}" in text
    assert text.count("http://") == 1
