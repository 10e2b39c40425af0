"""Each example of a runtime's configuration is read without a fault."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lap_runtimes.kinds import load

from lap_mcp.config.load import load_config
from lap_mcp.config.places import Surroundings
from lap_mcp.config.secrets import SecretResolver
from lap_mcp.scrub import Scrubber
from tests.capabilities import ROOT

EXAMPLES = sorted((ROOT / "examples" / "runtimes").glob("*.toml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_read_without_a_fault_and_makes_its_runtime(
    example: Path, tmp_path: Path
) -> None:
    text = example.read_text(encoding="utf-8")
    file = tmp_path / "lap.toml"
    file.write_text(text)
    file.chmod(0o600)
    secrets = dict.fromkeys(re.findall(r"env:(\w+)", text), "a-secret-of-some-length")
    here = Surroundings(environ=secrets, home=tmp_path, folder=tmp_path)
    resolver = SecretResolver(secrets, tmp_path, Scrubber())
    config = load_config(here, resolver, option=str(file))
    assert config.faults == ()
    assert config.warnings == ()
    context = {
        "resolve_secret": lambda reference: secrets[reference.removeprefix("env:")],
        "read_variable": lambda name: f"value of {name}",
    }
    for table in config.runtimes.values():
        assert table.kind == example.stem
        adapter = load(table.kind)
        adapter(adapter.Config.model_validate(table.settings, context=context))
