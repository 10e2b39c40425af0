"""Each example of a runtime's configuration is read without a fault, and each kind with a page has
one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lap_runtimes.kinds import known, load

from lap_mcp.config.load import load_config
from lap_mcp.config.places import Surroundings
from lap_mcp.config.secrets import SecretResolver
from lap_mcp.scrub import Scrubber
from tests.capabilities import ROOT

EXAMPLES = sorted((ROOT / "examples" / "runtimes").glob("*.toml"))
PAGES = sorted((ROOT / "runtimes" / "kinds").glob("*.md"))


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
    context = {"resolve_secret": lambda reference: secrets[reference.removeprefix("env:")]}
    for table in config.runtimes.values():
        assert table.kind == example.stem
        adapter = load(table.kind)
        adapter(adapter.Config.model_validate(table.settings, context=context))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_is_that_of_a_kind_which_has_an_example(page: Path) -> None:
    assert page.stem in known()
    assert load(page.stem).kind == page.stem
    assert (ROOT / "examples" / "runtimes" / f"{page.stem}.toml").is_file()
    assert page.read_text(encoding="utf-8").startswith(f"# `{page.stem}`")
