"""What `runtimes/README.md` says is what the code does."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from typing import Any

import pytest
from lap_runtimes.base import Capabilities
from lap_runtimes.kinds import EXTRAS, known, load

from lap_mcp.config import RuntimeTable
from tests.capabilities import ROOT

README = (ROOT / "runtimes" / "README.md").read_text(encoding="utf-8")
URL = {"url": "https://a.example"}
TOKEN = {"auth": {"bearer": "env:TOKEN"}}
REQUEST = {"request": {"body": "${prompt}"}}
EVERYTHING = {
    "request": {"body": "${prompt} ${session_id} ${turn_id}"},
    "answer": {"form": "sse", "delta": "t", "usage": {"input_tokens": "i"}, "ref": {"r": "r"}},
    "attach_request": {"method": "GET", "path": "${ref.r}"},
    "cancel_request": {"path": "${ref.r}"},
    "idempotent": True,
    "on_disconnect": "continues",
}
CONFIGURED = {
    "`acp`": {"command": ["program"]},
    "`mcp`": {},
    "`mcp`, `tasks = true`": {"tasks": True},
    "`opencode`": {},
    "`a2a`": {},
    "`bedrock_agentcore`": {"region": "eu-west-1"},
    "`bedrock_agentcore`, an OAuth token": {"region": "eu-west-1", **TOKEN},
    "`bedrock_agentcore`, `stream = false`": {"region": "eu-west-1", "stream": False},
    '`bedrock_agentcore`, `surface = "harness"`': {"region": "eu-west-1", "surface": "harness"},
    "`databricks`": {},
    '`databricks`, `surface = "app"`, `conversation = "context"`': {
        "surface": "app",
        "conversation": "context",
    },
    '`databricks`, `surface = "durable"`': {"surface": "durable"},
    "`langgraph`": {},
    "`litellm`": {},
    "`openai_responses`": {},
    "`openai_responses`, `background = true`": {"background": True},
    "`openai_responses`, `background = true`, `stream = false`": {
        "background": True,
        "stream": False,
    },
    '`openai_responses`, `state = "resend"`': {"state": "resend"},
    "`claude_managed_agents`": {"environment": "env_1"},
    "`gemini`": {},
    "`litellm_agent_platform`": {},
    '`litellm_agent_platform`, `runtime = "claude_managed_agents"`': {
        "runtime": "claude_managed_agents"
    },
    "`openai_agents`": {},
    '`openai_agents`, `environment = { type = "openai_hosted" }`': {
        "environment": {"type": "openai_hosted"}
    },
    '`http`, `answer.form = "json"`': {**REQUEST, "answer": {"text": "a"}},
    '`http`, `answer.form = "json"`, polled': {
        "request": {"body": "${prompt}"},
        "answer": {"text": "a", "done": "d", "ref": {"r": "r"}},
        "poll_request": {"method": "GET", "path": "${ref.r}"},
    },
    '`http`, `answer.form = "sse"`, everything configured': EVERYTHING,
    "`cursor`": {},
    "`cursor`, `usage = true`, `artifacts = false`": {"usage": True, "artifacts": False},
    "`elastic`": {},
    '`elastic`, `execution = "local"`': {"execution": "local"},
    '`elastic`, `execution = "task_manager"`': {"execution": "task_manager"},
    "`n8n`": {},
    "`n8n`, with a key of the management API": {"auth": {"bearer": "env:KEY"}},
    "`n8n`, with a key, `waits = true`": {"auth": {"bearer": "env:KEY"}, "waits": True},
    "`n8n`, `stream = false`, `remembers = false`": {"stream": False, "remembers": False},
    "`snowflake`": {"schemas": ["DB.SCH"]},
}


def table(first: str) -> tuple[list[str], list[list[str]]]:
    lines = README.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [cell.strip() for cell in lines[start].strip("|").split("|")], rows


def test_lists_every_installed_kind_and_its_extra() -> None:
    _, rows = table("kind")
    listed = {row[0].strip("`"): row[2].strip("`") for row in rows}
    ours = {name for name, point in known().items() if point.value.startswith("lap_runtimes.")}
    assert set(listed) == ours
    assert {kind: extra for kind, extra in listed.items() if extra} == EXTRAS


def configured(row: str) -> Any:
    """A runtime of this configuration, whose address leads nowhere."""
    adapter = load(re.findall(r"`(\w+)`", row)[0])
    context = {"resolve_secret": lambda reference: f"secret of {reference}"}
    address = URL if "url" in adapter.Config.model_fields else {}
    settings = {**address, **CONFIGURED[row]}
    return adapter(adapter.Config.model_validate(settings, context=context))


@pytest.mark.parametrize("row", table("configuration")[1], ids=lambda row: row[0])
def test_says_what_each_configuration_can_do(row: list[str]) -> None:
    head, _ = table("configuration")
    runtime = configured(row[0])
    words = {True: "yes", False: "no"}
    for name, said in zip(head[1:], row[1:], strict=True):
        found = getattr(runtime.capabilities, name)
        assert said == words.get(found, found), f"{row[0]}: {name}"


def test_has_a_column_for_every_capability_and_a_row_for_every_configuration() -> None:
    head, rows = table("configuration")
    all_of_them = {field.name for field in fields(Capabilities)}
    assert all_of_them - set(head) == {"process_bound"}, "said in words below the table"
    assert {row[0] for row in rows} == set(CONFIGURED)


def test_its_configuration_is_valid() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    context = {"resolve_secret": lambda reference: f"secret of {reference}"}
    tables = tomllib.loads(block)["runtimes"]
    assert len(tables) >= 4
    for settings in tables.values():
        adapter = load(settings.pop("kind"))
        adapter(adapter.Config.model_validate(settings, context=context))


@pytest.mark.parametrize("kind", sorted(row[0].strip("`") for row in table("kind")[1]))
def test_every_kind_has_a_page_and_an_example_that_is_valid(kind: str) -> None:
    page = (ROOT / "runtimes" / "kinds" / f"{kind}.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.strip()]
    assert lines[0] == f"# `{kind}`"
    assert 5 <= len(lines) - 1 <= 12
    example = (ROOT / "examples" / "runtimes" / f"{kind}.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(example)["runtimes"]
    context = {
        "resolve_secret": lambda reference: f"secret of {reference}",
        "read_variable": lambda name: f"value of {name}",
    }
    assert {settings["kind"] for settings in tables.values()} == {kind}
    for settings in tables.values():
        control = set(RuntimeTable.model_fields) - {"settings"}
        adapter = load(kind)
        own = {key: value for key, value in settings.items() if key not in control}
        adapter(adapter.Config.model_validate(own, context=context))
