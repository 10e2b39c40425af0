"""Prompts, resources, completion, and hearing of changes, in both protocol eras."""

from __future__ import annotations

import json
from typing import Any

import anyio
import mcp.types as t
import pytest
from mcp.shared.exceptions import MCPError

from lap_mcp.control.changes import Change
from tests.mcp.scripted import Stage, World
from tests.mcp.serving import BOB_KEY, MODES, Mode, served, session_of, text, until

pytestmark = pytest.mark.anyio
both_eras = pytest.mark.parametrize("mode", MODES)


def decoded(result: t.ReadResourceResult) -> Any:
    (contents,) = result.contents
    assert isinstance(contents, t.TextResourceContents)
    return json.loads(contents.text)


@both_eras
async def test_each_agent_is_a_prompt_that_asks_for_its_tool(mode: Mode) -> None:
    async with served() as s, s.client(mode) as client:
        listed = {prompt.name: prompt for prompt in (await client.list_prompts()).prompts}
        assert set(listed) == set(s.world.registry.found)
        assert [a.name for a in listed["echo"].arguments or []] == ["prompt", "session"]
        got = await client.get_prompt("echo", {"prompt": "say hi", "session": "ses_1"})
        words = got.messages[0].content.text
        assert "the tool `echo`" in words
        assert "ses_1" in words
        assert words.endswith("say hi")
        with pytest.raises(MCPError, match="`prompt` is missing"):
            await client.get_prompt("echo", {})
        with pytest.raises(MCPError, match="no prompt `nobody`"):
            await client.get_prompt("nobody", {})


@both_eras
async def test_every_kind_of_resource_can_be_read(mode: Mode) -> None:
    async with served() as s, s.client(mode) as client:
        session = session_of(await client.call_tool("maker", {"prompt": "x"}))
        code = await client.call_tool("code_interpreter", {"code": "write a/b.csv 1,2"})
        assert decoded(await client.read_resource("lap://status"))["version"] == "test"
        agents = decoded(await client.read_resource("lap://agents"))["agents"]
        assert [agent["name"] for agent in agents] == sorted(s.world.registry.found)
        agent = decoded(await client.read_resource("lap://agents/typed"))
        assert agent["input_schema"]["required"] == ["a"]
        assert decoded(await client.read_resource("lap://runtimes"))["runtimes"]
        shown = decoded(await client.read_resource(f"lap://sessions/{session}"))
        assert [turn["outcome"] for turn in shown["turn_list"]] == ["completed"]
        assert len(shown["files"]) == 2
        events = decoded(await client.read_resource(f"lap://sessions/{session}/events"))
        assert [event["seq"] for event in events["events"]] == list(range(1, 6))
        later = decoded(await client.read_resource(f"lap://sessions/{session}/events?after=3"))
        assert [event["seq"] for event in later["events"]] == [4, 5]
        link = next(b for b in code.content if isinstance(b, t.ResourceLink))
        file = (await client.read_resource(link.uri)).contents[0]
        assert (file.mime_type, file.text) == ("text/csv", "1,2")


@both_eras
@pytest.mark.parametrize(
    "uri",
    [
        "lap://agents/nobody",
        "lap://sessions/ses_" + "0" * 32,
        "lap://sessions/../status",
        "lap://sandboxes/sbx_" + "0" * 32 + "/files/x",
        "lap://nothing",
        "file:///etc/passwd",
    ],
)
async def test_a_resource_that_is_not_there_is_a_protocol_error(mode: Mode, uri: str) -> None:
    async with served() as s, s.client(mode) as client:
        with pytest.raises(MCPError) as raised:
            await client.read_resource(uri)
        assert raised.value.code == (-32602 if mode == "auto" else -32002)
        assert raised.value.data["uri"] == uri


async def test_lists_come_in_pages_that_together_are_everything() -> None:
    world = World()

    async def script(stage: Stage) -> None:
        await stage.message("x")

    for number in range(160):
        world.registry.add(f"agent{number:03}", script, pinned=True)
    async with served(world, max_agent_tools=300) as s, s.client() as client:
        for _ in range(120):
            await client.call_tool("echo", {"prompt": "x", "wait_s": 0})
        tools = await _all(client.list_tools, "tools")
        assert tools == sorted(tools)
        assert {"agent000", "agent159", "echo", "lap_status"} <= set(tools)
        prompts = await _all(client.list_prompts, "prompts")
        assert len(prompts) == len(set(prompts)) == len(s.world.registry.found)
        resources = await _all(client.list_resources, "resources", "uri")
        sessions = [uri for uri in resources if uri.startswith("lap://sessions/")]
        assert len(sessions) == len(set(sessions)) == 120
        with pytest.raises(MCPError, match="cursor"):
            await client.list_resources(cursor="nonsense")


async def _all(fetch: Any, field: str, key: str = "name") -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = await fetch(cursor=cursor)
        found += [str(getattr(item, key)) for item in getattr(page, field)]
        cursor = page.next_cursor
        if cursor is None:
            return found


@both_eras
async def test_completion_offers_what_exists(mode: Mode) -> None:
    async with served() as s, s.client(mode) as client:
        session = session_of(await client.call_tool("maker", {"prompt": "x"}))

        async def offers(ref: Any, name: str, value: str, **known: str) -> list[str]:
            argument = {"name": name, "value": value}
            found = await client.complete(ref, argument, context_arguments=known or None)
            return list(found.completion.values)

        def template(uri: str) -> t.ResourceTemplateReference:
            return t.ResourceTemplateReference(uri=uri)

        assert await offers(template("lap://agents/{name}"), "name", "ec") == ["echo"]
        assert await offers(template("lap://sessions/{id}"), "id", "ses_") == [session]
        files = template("lap://sessions/{id}/files/{name}")
        assert await offers(files, "name", "p", id=session) == ["plot.png"]
        assert await offers(t.PromptReference(name="maker"), "session", "") == [session]
        assert await offers(t.PromptReference(name="echo"), "session", "") == []
        with pytest.raises(MCPError, match="no resource template"):
            await offers(template("lap://{x}"), "x", "")


async def test_a_modern_client_hears_of_tools_and_of_the_session_it_watches() -> None:
    async with served() as s, s.client() as client:
        assert "later" not in [tool.name for tool in (await client.list_tools()).tools]
        session = session_of(await client.call_tool("slow", {"prompt": "0.5", "wait_s": 0}))
        uri = f"lap://sessions/{session}"
        async with client.listen(tools_list_changed=True, resource_subscriptions=[uri]) as events:
            s.world.registry.add("later", s.world.registry.scripts["echo"])
            heard = set()
            with anyio.fail_after(10):
                async for event in events:
                    heard.add(type(event).__name__)
                    if heard == {"ToolsListChanged", "ResourceUpdated"}:
                        break
        assert "later" in [tool.name for tool in (await client.list_tools()).tools]
        assert "You said" in text(await client.call_tool("later", {"prompt": "x"}))


async def test_a_handshake_client_hears_of_lists_and_of_the_session_it_watches() -> None:
    heard: list[str] = []

    async def on_message(message: Any) -> None:
        heard.append(type(message).__name__)

    async with served() as s, s.client("legacy", message_handler=on_message) as client:
        capabilities = client.server_capabilities
        assert capabilities.tools.list_changed
        assert capabilities.prompts.list_changed
        assert capabilities.resources.list_changed
        assert capabilities.resources.subscribe
        await client.list_tools()
        s.world.registry.add("later", s.world.registry.scripts["echo"])
        for kind in ("Tool", "Prompt", "Resource"):
            await until(lambda kind=kind: f"{kind}ListChangedNotification" in heard)
        started = await client.call_tool("slow", {"prompt": "0.3", "wait_s": 0})
        uri = f"lap://sessions/{session_of(started)}"
        await _subscribe(client, uri)
        await until(lambda: "ResourceUpdatedNotification" in heard)
        await client.session.send_request(
            t.UnsubscribeRequest(params=t.UnsubscribeRequestParams(uri=uri)), t.EmptyResult
        )
        await client.call_tool("get_session", {"session": session_of(started), "wait_s": 5})
        assert "later" in [tool.name for tool in (await client.list_tools()).tools]
    await until(lambda: s.face.notifier.connections == 0)


async def _subscribe(client: Any, uri: str) -> None:
    """What the SDK's own method does, which warns that newer clients do otherwise."""
    request = t.SubscribeRequest(params=t.SubscribeRequestParams(uri=uri))
    await client.session.send_request(request, t.EmptyResult)


@both_eras
async def test_nobody_watches_what_belongs_to_somebody_else(mode: Mode) -> None:
    async with served() as s, s.client(mode) as alice, s.client(mode, key=BOB_KEY) as bob:
        session = session_of(await alice.call_tool("echo", {"prompt": "x"}))
        uri = f"lap://sessions/{session}"
        if mode == "legacy":
            with pytest.raises(MCPError, match="no such resource"):
                await _subscribe(bob, uri)
            return
        async with bob.listen(resource_subscriptions=[uri, "lap://status"]) as events:
            s.world.changes.publish(Change("resource", uri))
            s.world.changes.publish(Change("resource", "lap://status"))
            with anyio.fail_after(10):
                first = await anext(aiter(events))
            assert str(first.uri) == "lap://status"


async def test_many_equal_changes_become_few_notifications() -> None:
    heard: list[str] = []

    async def on_message(message: Any) -> None:
        heard.append(type(message).__name__)

    async with served() as s, s.client("legacy", message_handler=on_message) as client:
        await client.list_tools()
        for _ in range(200):
            s.world.changes.publish(Change("tools"))
        await until(lambda: "ToolListChangedNotification" in heard)
        s.world.changes.publish(Change("resources"))
        s.world.registry.remove("echo")
        await until(lambda: heard.count("ToolListChangedNotification") >= 2)
        assert heard.count("ToolListChangedNotification") <= 6
        with pytest.raises(MCPError, match="no tool `echo`"):
            await client.call_tool("echo", {"prompt": "x"})
