"""Programs that runtimes start: what they get of our environment, and who may have them started."""

from __future__ import annotations

from pathlib import Path

import pytest
from lap_runtimes.kinds import load

from lap_mcp.config.load import load_config
from lap_mcp.config.places import Surroundings
from lap_mcp.config.secrets import SecretResolver
from lap_mcp.control.connections import Connections
from lap_mcp.errors import Unavailable
from lap_mcp.scrub import Scrubber
from tests.canary import canary

PROGRAM = """
[runtimes.coder]
kind = "acp"
command = ["coder", "--acp"]
inherit = ["PATH", "NOT_SET"]
env = { CODER_KEY = "env:CODER_KEY", MODE = "quiet" }
[runtimes.tools]
kind = "mcp"
command = ["tools"]
[runtimes.far]
kind = "mcp"
url = "https://mcp.example.com/mcp"
"""
ENVIRON = {"PATH": "/usr/bin", "CODER_KEY": canary("acp"), "OTHER": "not for it"}


def connections(
    folder: Path, scrubber: Scrubber, text: str = PROGRAM, **options: bool
) -> Connections:
    file = folder / "lap.toml"
    file.write_text(text)
    file.chmod(0o600)
    resolver = SecretResolver(ENVIRON, folder, scrubber)
    here = Surroundings(environ=ENVIRON, home=folder, folder=folder)
    made = Connections(load, resolver, **options)
    made.configure(load_config(here, resolver, option=str(file)))
    for connection in made.all():
        made.make(connection)
    return made


def test_a_shared_server_refuses_them_in_words_and_keeps_the_others(tmp_path: Path) -> None:
    made = connections(tmp_path, Scrubber(), shared=True)
    assert set(made.disabled()) == {"coder", "tools"}
    assert made.runtime("far").kind == "mcp"
    with pytest.raises(Unavailable, match="starts a program on this machine") as refusal:
        made.runtime("coder")
    assert "give its url" in str(refusal.value)
    (first, *_) = made.faults()
    assert "runtimes.coder" in first.where


def test_a_local_one_starts_them_with_what_the_file_lists_and_scrubs_its_secrets(
    tmp_path: Path,
) -> None:
    scrubber = Scrubber()
    made = connections(tmp_path, scrubber)
    assert made.faults() == []
    assert made.runtime("coder").kind == "acp"
    assert canary("acp") not in scrubber.text(f"it said {canary('acp')}")
    assert scrubber.text("in /usr/bin") == "in /usr/bin", "what is inherited is no secret"


def test_a_secret_that_is_to_be_inherited_is_refused_with_its_line(tmp_path: Path) -> None:
    text = PROGRAM.replace('"NOT_SET"', '"CODER_KEY"')
    (fault,) = connections(tmp_path, Scrubber(), text).faults()
    assert "CODER_KEY looks like a secret" in fault.message
    assert "lap.toml:5" in fault.where
