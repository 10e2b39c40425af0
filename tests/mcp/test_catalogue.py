"""The catalogue: every schema, its size, what is shown to whom, and when the store is opened."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import mcp.types as t
import pytest
from jsonschema import Draft202012Validator
from lap_runtimes.base import Capabilities

from lap_mcp.control.tool_names import BUILT_IN, RESERVED_NAMES, is_valid, slug
from lap_mcp.errors import ConfigError, StoreError
from lap_mcp.mcp_server import agent_tools
from lap_mcp.mcp_server.catalogue import Entry
from lap_mcp.mcp_server.code_tools import SAVE_FILES, CodeTools
from lap_mcp.mcp_server.face import INSTRUCTIONS
from lap_mcp.mcp_server.options import FaceOptions
from lap_mcp.model import Agent
from tests.mcp.scripted import Stage, World
from tests.mcp.serving import served, text, until

pytestmark = pytest.mark.anyio
SNAPSHOTS = Path(__file__).parent / "snapshots"
NOTHING = Capabilities(conversation="none")
EVERYTHING = Capabilities(cancel="remote", attach="cursor", files_in=True)


async def script(stage: Stage) -> None:
    await stage.message("ok")


def crowded(pinned: int = 2, others: int = 30) -> World:
    world = World()
    world.registry.found.clear()
    for number in range(pinned):
        world.registry.add(f"pinned{number}", script, pinned=True)
    for number in range(others):
        world.registry.add(f"other{number:02}", script, description=f"Does thing {number}.")
    return world


async def listed(world: World, **options: Any) -> dict[str, t.Tool]:
    async with served(world, **options) as s, s.client() as client:
        return {tool.name: tool for tool in (await client.list_tools()).tools}


def as_json(tool: t.Tool) -> str:
    dumped = tool.model_dump(by_alias=True, exclude_none=True, mode="json")
    return json.dumps(dumped, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


async def test_every_tool_is_as_its_snapshot_says() -> None:
    """LAP_TEST_SNAPSHOTS=write rewrites them; the difference is for the reviewer."""
    tools = await listed(crowded())
    agent = agent_tools.definition(
        Agent(name="an_agent", runtime="r", ref="x", description="Watches a pull request."), None
    )
    shown = {name: tool for name, tool in tools.items() if name in BUILT_IN} | {"an_agent": agent}
    assert "save_files" not in shown, "there is no user's machine to save on over HTTP"
    shown["save_files"] = SAVE_FILES
    assert set(shown) == {*BUILT_IN, "an_agent"}
    if os.environ.get("LAP_TEST_SNAPSHOTS") == "write":
        for name, tool in shown.items():
            await anyio.Path(SNAPSHOTS / f"{name}.json").write_text(as_json(tool))
    stored = {path.stem async for path in anyio.Path(SNAPSHOTS).glob("*.json")}
    assert stored == set(shown)
    for name, tool in shown.items():
        assert await anyio.Path(SNAPSHOTS / f"{name}.json").read_text() == as_json(tool)


async def test_the_catalogue_is_small() -> None:
    world = World()
    world.registry.found.clear()
    tools = await listed(world)
    size = sum(agent_tools.size(tool) for tool in tools.values())
    assert size <= 12 * 1024
    assert len(INSTRUCTIONS.split()) < 150
    assert all(name in INSTRUCTIONS for name in ("find_agents", "ask_agents", "from_session"))


@pytest.mark.parametrize("words", ["", "short", "long " * 400, "😀 émoji " * 100])
@pytest.mark.parametrize("properties", [None, 1, 40])
@pytest.mark.parametrize("able", [None, NOTHING, EVERYTHING], ids=["unknown", "little", "much"])
def test_an_agent_is_at_most_a_kilobyte(
    words: str, properties: int | None, able: Capabilities | None
) -> None:
    schema = None
    if properties is not None:
        fields = {f"field{i}": {"type": "string"} for i in range(properties)}
        schema = {"type": "object", "title": "Input", "properties": fields}
    agent = Agent(name="a" * 48, runtime="r", ref="x", description=words, input_schema=schema)
    tool = agent_tools.definition(agent, able)
    assert agent_tools.size(tool) <= 1024
    assert tool.description
    own = tool.input_schema["properties"].get("input")
    if properties == 1:
        assert own == {"type": "object", "properties": {"field0": {"type": "string"}}}
    elif properties == 40:
        assert own == {"type": "object", "description": f"Schema: lap://agents/{'a' * 48}"}


AGENT = Agent(name="helper", runtime="r", ref="x", description="Helps.")


def test_what_a_runtime_cannot_do_is_said_and_not_offered() -> None:
    tool = agent_tools.definition(AGENT, NOTHING)
    assert tool.description == (
        "Helps. Each call stands alone: sessions cannot be continued. It takes no files. "
        "It may work on when it is cancelled. If its connection breaks, its answer is lost."
    )
    assert set(tool.input_schema["properties"]) == {"prompt", "from_session", "wait_s"}


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        ({"conversation": "none"}, "Each call stands alone"),
        ({"files_in": False}, "It takes no files"),
        ({"cancel": "none"}, "It may work on"),
        ({"attach": "none"}, "its answer is lost"),
    ],
)
def test_each_thing_that_is_lacking_has_its_words(lacking: dict[str, Any], words: str) -> None:
    whole = str(agent_tools.definition(AGENT, EVERYTHING).description)
    tool = agent_tools.definition(AGENT, replace(EVERYTHING, **lacking))
    assert whole == "Helps."
    assert words in str(tool.description)


def test_where_nothing_is_known_of_a_runtime_all_is_offered() -> None:
    tool = agent_tools.definition(AGENT, None)
    assert tool.description == "Helps."
    assert {"session", "files"} <= set(tool.input_schema["properties"])


async def test_schemas_are_portable() -> None:
    """Closed objects, no root title, one type each: what the strictest client takes."""

    def check(schema: Any, path: str) -> None:
        if isinstance(schema, list):
            for item in schema:
                check(item, path)
        if not isinstance(schema, dict):
            return
        assert not isinstance(schema.get("type"), list), path
        if schema.get("type") == "object" and "properties" in schema:
            assert schema["additionalProperties"] is False, path
        for key, value in schema.items():
            check(value, f"{path}.{key}")

    for tool in (await listed(crowded())).values():
        Draft202012Validator.check_schema(tool.input_schema)
        assert "title" not in tool.input_schema
        assert tool.output_schema is None
        check(tool.input_schema, tool.name)
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is not None


async def test_above_the_limit_only_pinned_agents_stay_and_the_others_are_found() -> None:
    async with served(crowded()) as s, s.client() as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert {"pinned0", "pinned1", "find_agents", "call_agent"} <= tools
        assert not any(name.startswith("other") for name in tools)
        found = await client.call_tool("find_agents", {"query": "thing 17"})
        assert found.structured_content["agents"][0]["name"] == "other17"
        assert "other17" in text(found)
        assert found.structured_content["total"] == 32
        answer = await client.call_tool("call_agent", {"agent": "other17", "prompt": "x"})
        assert text(answer).startswith("ok")
        missing = await client.call_tool("call_agent", {"agent": "nobody", "prompt": "x"})
        assert missing.is_error
        prompt = await client.get_prompt("other17", {"prompt": "x"})
        assert "`call_agent` with agent" in prompt.messages[0].content.text


async def test_a_disabled_agent_is_neither_tool_nor_prompt_but_a_resource() -> None:
    world = crowded(pinned=1, others=1)
    world.registry.add("broken", script, enabled=False, problem="its secret is missing")
    async with served(world) as s, s.client() as client:
        assert "broken" not in [tool.name for tool in (await client.list_tools()).tools]
        assert "broken" not in [prompt.name for prompt in (await client.list_prompts()).prompts]
        read = await client.read_resource("lap://agents/broken")
        assert "its secret is missing" in read.contents[0].text


async def test_toolsets_and_read_only_choose_what_is_shown() -> None:
    assert set(await listed(crowded(1, 1), toolsets=("code",))) == {
        "code_interpreter",
        "lap_status",
    }
    read_only = await listed(crowded(), read_only=True)
    assert set(read_only) == {"find_agents", "get_session", "lap_status", "list_sessions"}
    with pytest.raises(ConfigError, match="no toolset `admins`"):
        FaceOptions(toolsets=("admins",))


async def test_discovery_touches_nothing_and_all_others_wait_for_one_opening() -> None:
    world = World()
    world.gate = anyio.Event()
    for mode in ("auto", "legacy"):
        async with served(world) as s, s.client(mode) as client:
            assert client.server_capabilities.tools is not None
            assert world.opened == 0
    async with served(world) as s, s.client() as client, s.client("legacy") as other:
        async with anyio.create_task_group() as group:
            group.start_soon(client.list_tools)
            group.start_soon(other.list_prompts)
            group.start_soon(client.call_tool, "lap_status", {})
            await until(lambda: world.opened == 1)
            world.gate.set()
        assert world.opened == 1


async def test_a_store_that_does_not_open_is_explained_and_tried_again() -> None:
    world = World()
    world.refusal = StoreError("The store is newer.", remedy="Update.")
    async with served(world) as s, s.client() as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert {"code_interpreter", "lap_status", "get_session"} <= names
        assert "echo" not in names
        status = await client.call_tool("lap_status", {})
        assert "server: The store is newer. Update." in text(status)
        assert (await client.list_prompts()).prompts == []
        assert "lap://status" in [r.uri for r in (await client.list_resources()).resources]
        read = await client.read_resource("lap://status")
        assert "The store is newer." in read.contents[0].text
        called = await client.call_tool("code_interpreter", {"code": "1"})
        assert called.is_error
        assert text(called) == "The store is newer. Update."
        world.refusal = None
        assert "echo" in {tool.name for tool in (await client.list_tools()).tools}
        assert "You said" in text(await client.call_tool("echo", {"prompt": "x"}))


async def test_status_says_problems_first_with_their_remedy() -> None:
    async with served() as s, s.client() as client:
        result = await client.call_tool("lap_status", {})
        assert text(result).startswith("Problems:\n- x: broken mend it")
        assert result.structured_content["version"] == "test"


def test_no_reserved_name_begins_another() -> None:
    for one in RESERVED_NAMES:
        assert not any(other != one and other.startswith(one) for other in RESERVED_NAMES)


@pytest.mark.parametrize(
    ("name", "taken", "expected"),
    [
        ("Code Review (v2)", (), "code_review_v2"),
        ("PullRequestBot", (), "pull_request_bot"),
        ("Códïgo", (), "codigo"),
        ("日本", (), "agent"),
        ("7zip", (), "agent_7zip"),
        ("echo", ("echo",), "echo_remote"),
        ("echo", ("echo", "echo_remote"), "echo_remote_2"),
        ("code_interpreter", (), "agent_code_interpreter"),
        ("get_session", (), "agent_get_session"),
        ("get", (), "agent_get"),
        ("lap_status_now", (), "agent_lap_status_now"),
    ],
)
def test_a_discovered_name_becomes_a_tool_name(name: str, taken: Any, expected: str) -> None:
    assert slug(name, taken, "remote") == expected


@pytest.mark.parametrize("name", ["x" * 300, "", "___", "a" * 48, "code_interpreter" * 9])
def test_a_tool_name_is_always_valid_and_free(name: str) -> None:
    taken: set[str] = set()
    for _ in range(30):
        found = slug(name, taken, "r" * 80)
        assert is_valid(found)
        assert found not in taken
        taken.add(found)


@pytest.mark.parametrize(("parameter", "asked"), [({}, False), ({"x-mcp-header": "Region"}, True)])
def test_a_schema_is_walked_for_headers_only_where_it_names_some(
    parameter: dict[str, str], asked: bool
) -> None:
    schema = {"type": "object", "properties": {"region": {"type": "string", **parameter}}}
    entry = Entry(t.Tool(name="t", input_schema=schema), CodeTools(FaceOptions()))

    assert entry.in_headers is asked
