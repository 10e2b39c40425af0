"""What the documents say is so: keys, defaults, examples, commands, links."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import pytest
from lap_runtimes.a2a import A2AConfig
from lap_runtimes.acp import ACPConfig
from lap_runtimes.config import HTTPRuntimeConfig
from lap_runtimes.cursor_config import CursorConfig
from lap_runtimes.elastic import ElasticConfig
from lap_runtimes.http_agent_config import AnswerShape, HTTPAgentConfig
from lap_runtimes.kinds import load
from lap_runtimes.mcp_config import MCPConfig
from lap_runtimes.n8n_config import N8nConfig
from lap_runtimes.openai_responses import OpenAIResponsesConfig
from lap_runtimes.opencode import OpencodeConfig
from lap_runtimes.process import ProcessConfig
from lap_runtimes.snowflake import SnowflakeConfig
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.main import get_command

from lap_mcp.commands.main import app
from lap_mcp.config import tables
from lap_mcp.config.load import load_config
from lap_mcp.config.places import Surroundings
from lap_mcp.config.secrets import SecretResolver
from lap_mcp.scrub import Scrubber
from tests.capabilities import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROW = re.compile(r"^\| `(?P<key>\w+)` \| (?P<default>.+?) \| .*\|$", re.MULTILINE)
FENCE = re.compile(r"```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")

SECTIONS: dict[str, tuple[str, type[BaseModel], set[str]]] = {
    "runtime": ("## `[runtimes.NAME]`", tables.RuntimeTable, {"settings"}),
    "every-kind": ("Every kind that has a `url` also has:", HTTPRuntimeConfig, set()),
    "a2a": ('### `kind = "a2a"`', A2AConfig, set(HTTPRuntimeConfig.model_fields)),
    "responses": (
        '### `kind = "openai_responses"`',
        OpenAIResponsesConfig,
        set(HTTPRuntimeConfig.model_fields),
    ),
    "http": ('### `kind = "http"`', HTTPAgentConfig, set(HTTPRuntimeConfig.model_fields)),
    **{
        kind: (f'### `kind = "{kind}"`', load(kind).Config, set(HTTPRuntimeConfig.model_fields))
        for kind in (
            "bedrock_agentcore",
            "claude_managed_agents",
            "databricks",
            "gemini",
            "langgraph",
            "litellm",
            "litellm_agent_platform",
            "openai_agents",
        )
    },
    "cursor": ('### `kind = "cursor"`', CursorConfig, set(HTTPRuntimeConfig.model_fields)),
    "elastic": ('### `kind = "elastic"`', ElasticConfig, set(HTTPRuntimeConfig.model_fields)),
    "n8n": ('### `kind = "n8n"`', N8nConfig, set(HTTPRuntimeConfig.model_fields)),
    "snowflake": ('### `kind = "snowflake"`', SnowflakeConfig, set(HTTPRuntimeConfig.model_fields)),
    "acp": ('### `kind = "acp"`', ACPConfig, set()),
    "mcp": (
        '### `kind = "mcp"`',
        MCPConfig,
        {*HTTPRuntimeConfig.model_fields, *ProcessConfig.model_fields},
    ),
    "opencode": (
        '### `kind = "opencode"`',
        OpencodeConfig,
        set(HTTPRuntimeConfig.model_fields),
    ),
    "answer": ("Keys of `answer`;", AnswerShape, set()),
    "agent": ("## `[agents.NAME]`", tables.AgentTable, set()),
    "model": ("## `[models.NAME]`", tables.ModelTable, set()),
    **{name: (f"## `[{name}]`", table, set()) for name, table in tables.PLAIN_TABLES.items()},
}
"""Where the keys of a model stand in docs/configuration.md, and which stand elsewhere."""


def rows_after(heading: str) -> dict[str, str]:
    """The first table of keys after a heading: key to default, as it is written."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert text.count(f"\n{heading}") == 1, heading
    rest = text.split(f"\n{heading}", 1)[1]
    table = rest[rest.index("| key |") :].split("\n\n", 1)[0]
    return {row["key"]: row["default"].strip("`") for row in ROW.finditer(table)}


def meant(field: FieldInfo, written: str) -> Any:
    """The value that a default in the document stands for."""
    if written == "required":
        return PydanticUndefined
    if written == "unset":
        return None
    value = tomllib.loads(f"value = {written}")["value"]
    typed = Annotated[field.annotation, *field.metadata, field.title]
    return TypeAdapter(typed).validate_python(value)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_documented_with_its_default(section: str) -> None:
    heading, model, elsewhere = SECTIONS[section]
    rows = rows_after(heading)
    fields = {k: f for k, f in model.model_fields.items() if k not in elsewhere}
    assert rows.keys() == fields.keys()
    defaults = {k: f.get_default(call_default_factory=True) for k, f in fields.items()}
    assert {k: meant(fields[k], written) for k, written in rows.items()} == defaults


def examples(language: str) -> list[Any]:
    return [
        pytest.param(block["text"], id=f"{document.name}-{number}")
        for document in DOCUMENTS
        for number, block in enumerate(FENCE.finditer(document.read_text(encoding="utf-8")))
        if block["language"] == language
    ]


@pytest.mark.parametrize("text", examples("toml"))
def test_every_example_of_a_configuration_is_read_without_a_fault(
    text: str, tmp_path: Path
) -> None:
    if "[mcp_servers" in text:
        assert tomllib.loads(text)
        return
    file = tmp_path / "lap.toml"
    file.write_text(text)
    file.chmod(0o600)
    secrets = dict.fromkeys(re.findall(r"env:(\w+)", text), "a-secret-of-some-length")
    here = Surroundings(environ=secrets, home=tmp_path, folder=tmp_path)
    resolver = SecretResolver(secrets, tmp_path, Scrubber())
    config = load_config(here, resolver, option=str(file))
    assert config.faults == ()
    assert config.warnings == ()


def commands() -> list[str]:
    """Every `lap-mcp …` of the documents, down to its sub-command."""
    found = set()
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        found |= set(re.findall(r"(?<![\w./-])lap-mcp ((?:[a-z][a-z-]+)(?: [a-z][a-z-]+)?)", text))
    return sorted(found)


@pytest.mark.parametrize("command", commands())
def test_every_command_in_the_documents_exists(command: str) -> None:
    """A second word is a sub-command, or an argument of the first."""
    name, _, rest = command.partition(" ")
    top = get_command(app).commands
    assert name in top, f"there is no `lap-mcp {name}`"
    if rest and (below := getattr(top[name], "commands", {})):
        assert rest in below, f"there is no `lap-mcp {command}`"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    links = LINK.findall(document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_script_that_is_named_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/])((?:scripts|examples|\.ci)/[\w.-]*\w)", text))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
