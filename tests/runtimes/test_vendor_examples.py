"""Each example of a vendor's configuration is one, and leads to a page about its kind."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from lap_runtimes.kinds import load

from lap_mcp.config.tables import AgentTable, RuntimeTable
from tests.capabilities import ROOT

EXAMPLES = sorted((ROOT / "examples" / "runtimes").glob("*.toml"))
PAGES = [ROOT / "runtimes" / "kinds" / f"{k}.md" for k in ("cursor", "elastic", "n8n", "snowflake")]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_valid(path: Path) -> None:
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    secrets: list[str] = []

    def resolve(reference: str) -> str:
        secrets.append(reference)
        return "resolved"

    assert tables.keys() <= {"runtimes", "agents"}
    ours = RuntimeTable.model_fields.keys() - {"settings"}
    for table in tables["runtimes"].values():
        RuntimeTable.model_validate({key: table[key] for key in table if key in ours})
        settings = {key: value for key, value in table.items() if key not in ours}
        adapter = load(table["kind"])
        config = adapter.Config.model_validate(settings, context={"resolve_secret": resolve})
        assert adapter(config).kind == table["kind"]
    for agent in tables.get("agents", {}).values():
        assert AgentTable.model_validate(agent).runtime in tables["runtimes"]
    assert secrets
    assert all(reference.startswith("env:") for reference in secrets)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_is_about_a_kind_and_leads_to_its_example(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert load(path.stem).kind == path.stem
    assert f"../../examples/runtimes/{path.stem}.toml" in text
    assert path.stem in {example.stem for example in EXAMPLES}
