"""A sandbox exported as a notebook: what ran, what it showed, and that it runs again."""

from __future__ import annotations

import base64
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import nbformat
import pytest
from lap_sandbox.base import Execution, ExecutionError, Output
from lap_sandbox.testing import Scripted, ScriptedLauncher

from lap_mcp.clock import SystemClock
from lap_mcp.control.notebooks import notebook
from lap_mcp.control.sandbox_entry import SandboxLimits
from lap_mcp.control.shelf import Shelf
from lap_mcp.errors import NotFound
from lap_mcp.model import LOCAL, Principal
from lap_mcp.store.cells import Cell
from lap_mcp.store.database import open_database
from tests.control.sandbox_home import SandboxHome

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n" + bytes(10_000)
SHOWN = {
    "x = 20\nprint('hé')": Execution(id="", status="ok", stdout="hé\n"),
    "x + 22": Execution(
        id="",
        status="ok",
        value="42",
        stderr="careful\n",
        outputs=[
            Output(mime="image/png", data=PNG),
            Output(mime="text/html", data=b"<b>42</b>"),
            Output(mime="application/json", data=b'{"a": 1}'),
        ],
    ),
    "1/0": Execution(
        id="",
        status="error",
        error=ExecutionError(name="ZeroDivisionError", value="no", traceback="Traceback\nno"),
    ),
}


async def test_a_notebook_is_valid_runnable_and_shows_what_was_shown(tmp_path: Path) -> None:
    home = SandboxHome(tmp_path / "lap.db", tmp_path / "blobs")
    launcher = ScriptedLauncher(lambda code: Scripted(execution=SHOWN[code]))
    sandbox_id: str | None = None
    async with home.server(launcher) as server:
        for code in SHOWN:
            run = await server.run(LOCAL, code, sandbox_id=sandbox_id)
            sandbox_id = run.sandbox_id
    database = await open_database(home.where)
    shelf = Shelf(database, home.blobs, SandboxLimits(), SystemClock())
    assert sandbox_id is not None
    text = await shelf.notebook(LOCAL, sandbox_id)
    with pytest.raises(NotFound):
        await shelf.notebook(Principal(id="key:other", kind="key"), sandbox_id)
    await database.aclose()

    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    first, second, third = notebook.cells
    assert [cell.source for cell in notebook.cells] == list(SHOWN)
    assert [o.text for o in first.outputs] == ["hé\n"]
    kinds = [o.output_type for o in second.outputs]
    assert kinds == ["stream", "display_data", "display_data", "display_data", "execute_result"]
    assert len(second.outputs[1].data["image/png"]) > 10_000
    assert second.outputs[2].data["text/html"] == "<b>42</b>"
    assert json.loads(text)["cells"][1]["outputs"][3]["data"]["application/json"] == {"a": 1}
    assert second.outputs[4].data["text/plain"] == "42"
    assert (third.outputs[0].ename, third.outputs[0].traceback) == (
        "ZeroDivisionError",
        ["Traceback", "no"],
    )
    names: dict[str, object] = {}
    with redirect_stdout(StringIO()) as out:
        exec(first.source, names)
    assert out.getvalue() == "hé\n"
    assert eval(second.source, names) == 42


@pytest.mark.parametrize(
    "shown", [b"[" * 5000 + b"]" * 5000, b"[" * 700 + b"]" * 700, b"NaN", b'"\\ud800"']
)
def test_no_output_keeps_a_notebook_from_being_written(shown: bytes) -> None:
    output = {"mime": "application/json", "base64": base64.b64encode(shown).decode()}
    result = {"outputs": [output]}
    cell = Cell(number=1, code="x", status="ok", repeats=True, digest="", result=result, at=0.0)
    text = notebook("sbx_1", [cell], {})

    def refused(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    assert text.encode()
    json.loads(text, parse_constant=refused)
    nbformat.validate(nbformat.reads(text, as_version=4))
