"""The words of the control plane, on a terminal."""

from __future__ import annotations

import pytest
import typer

from lap_mcp.commands.console import fail
from lap_mcp.errors import NotFound


def test_a_remedy_names_commands_there(capsys: pytest.CaptureFixture[str]) -> None:
    error = NotFound("There is no session 'x'.", remedy="list_sessions shows yours.")
    with pytest.raises(typer.Exit) as ended:
        fail(error)
    assert ended.value.exit_code == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "`lap-mcp sessions list` shows yours." in said
