"""Calling agents and running code, through a real client over HTTP, in both protocol eras."""

from __future__ import annotations

import base64
from typing import Any

import anyio
import mcp.types as t
import pytest
from lap_sandbox.base import Execution, Left, Output
from mcp.shared.exceptions import MCPError

from lap_mcp.mcp_server.options import longest_wait
from tests.mcp.scripted import Failed, Stage, World
from tests.mcp.scripted_sandboxes import PNG, ScriptedBox
from tests.mcp.serving import BOB_KEY, MODES, Mode, last_line, served, session_of, text, until

pytestmark = pytest.mark.anyio
both_eras = pytest.mark.parametrize("mode", MODES)


@both_eras
async def test_an_agent_answers_and_its_session_is_continued(mode: Mode) -> None:
    async with served() as s, s.client(mode) as client:
        first = await client.call_tool("echo", {"prompt": "one"})
        assert text(first).startswith("You said: one")
        assert "completed" in last_line(first)
        assert first.structured_content is None
        again = await client.call_tool("echo", {"prompt": "two", "session": session_of(first)})
        assert session_of(again) == session_of(first)
        assert len(s.world.sessions.rooms) == 1
        origin, agent, prompt = s.world.sessions.prompts[0]
        assert (origin.principal.id, agent, prompt.text) == ("key:alice", "echo", "one")


@both_eras
async def test_a_long_turn_is_held_with_progress_and_then_handed_over(mode: Mode) -> None:
    heard: list[tuple[float, str]] = []

    async def progress(step: float, total: float | None, message: str | None) -> None:
        heard.append((step, message or ""))

    async with served() as s, s.client(mode) as client:
        result = await client.call_tool(
            "slow", {"prompt": "60", "wait_s": 1.2}, progress_callback=progress
        )
        assert "running" in last_line(result)
        assert "Thinking." in text(result)
        assert f'get_session with session "{session_of(result)}"' in text(result)
        steps = [step for step, _ in heard]
        assert len(steps) >= 3
        assert steps == sorted(set(steps))
        assert any("Thinking" in message for _, message in heard)
        assert any("slow is working" in message for _, message in heard)
        assert s.world.sessions.running == 1


async def test_wait_zero_starts_the_turn_and_returns_at_once() -> None:
    async with served() as s, s.client() as client:
        with anyio.fail_after(10):
            result = await client.call_tool("slow", {"prompt": "60", "wait_s": 0})
        assert "Started." in text(result)
        assert "running" in last_line(result)


async def test_get_session_waits_for_the_turn_and_pages_its_answer() -> None:
    async with served() as s, s.client() as client:
        started = await client.call_tool("long", {"prompt": "go"})
        assert len(text(started).encode()) <= 8 * 1024
        session = session_of(started)
        whole, offset = "", 0
        while offset is not None:
            page = await client.call_tool("get_session", {"session": session, "offset": offset})
            assert len(text(page).encode()) <= 8 * 1024
            found = page.structured_content
            whole += found["text"]
            assert found["text"].strip() in text(page)
            offset = found["next_offset"]
        assert whole == "\n".join(f"line {i} of a long answer, é" for i in range(2000))
        slow = await client.call_tool("slow", {"prompt": "0.4", "wait_s": 0})
        done = await client.call_tool("get_session", {"session": session_of(slow), "wait_s": 30})
        assert done.structured_content["turn"]["outcome"] == "completed"
        assert "Slowly done." in text(done)


async def test_cancel_session_ends_the_turn() -> None:
    async with served() as s, s.client() as client:
        started = await client.call_tool("slow", {"prompt": "60", "wait_s": 0})
        ended = await client.call_tool("cancel_session", {"session": session_of(started)})
        assert ended.structured_content["turn"]["outcome"] == "cancelled"
        assert s.world.sessions.running == 0


async def test_list_sessions_pages_and_filters() -> None:
    async with served() as s, s.client() as client:
        for number in range(5):
            await client.call_tool("echo", {"prompt": str(number)})
        await client.call_tool("maker", {"prompt": "x"})
        seen: list[str] = []
        before = None
        while True:
            arguments = {"agent": "echo", "limit": 2, **({"before": before} if before else {})}
            page = (await client.call_tool("list_sessions", arguments)).structured_content
            seen += [entry["id"] for entry in page["sessions"]]
            before = page["next_before"]
            if before is None:
                break
        assert len(seen) == len(set(seen)) == 5


async def test_files_of_an_agent_are_links_and_only_real_images_are_shown() -> None:
    async with served() as s, s.client() as client:
        result = await client.call_tool("maker", {"prompt": "x"})
        kinds = [block.type for block in result.content]
        assert kinds == ["text", "image", "resource_link", "resource_link"]
        for block in result.content:
            if isinstance(block, t.ResourceLink):
                assert block.uri in text(result)
        link = next(b for b in result.content if isinstance(b, t.ResourceLink))
        read = await client.read_resource(link.uri)
        assert base64.b64decode(read.contents[0].blob).startswith(b"\x89PNG")


async def test_a_failed_turn_is_an_error_with_what_was_said_before() -> None:
    async with served() as s, s.client() as client:
        result = await client.call_tool("failing", {"prompt": "x"})
        assert result.is_error
        assert "the backend is on fire" in text(result)
        assert "I tried." in text(result)
        assert "failed" in last_line(result)


async def test_structured_output_is_sent_as_json_and_as_the_same_text() -> None:
    async with served() as s, s.client() as client:
        result = await client.call_tool("typed", {"prompt": "add", "input": {"a": 41}})
        assert result.structured_content == {"sum": 41}
        assert text(result).startswith('{"sum": 41}')


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("echo", {}, "`prompt` is missing"),
        ("echo", {"promt": "x", "prompt": "y"}, "Did you mean `prompt`?"),
        ("echo", {"prompt": 5}, "`prompt` must be a string, not 5"),
        ("echo", {"prompt": "x", "wait_s": 999}, "`wait_s` must be at most 240"),
        ("echo", {"prompt": "x", "files": [{"name": "a"}]}, "`files[0]`"),
        ("typed", {"prompt": "x", "input": {"a": "no"}}, "`input.a` must be an integer"),
        ("echo", {"prompt": "x", "input": {"a": 1}}, "no argument `input`"),
        ("get_session", {"session": "ses_none"}, "There is no session"),
        ("code_interpreter", {"code": "say x", "sandbox": "sbx_none"}, "There is no sandbox"),
        ("list_sessions", {"status": "busy"}, "write one of"),
    ],
)
async def test_wrong_arguments_are_explained_in_words(
    name: str, arguments: dict[str, object], words: str
) -> None:
    async with served() as s, s.client() as client:
        result = await client.call_tool(name, arguments)
        assert result.is_error
        assert words in text(result)
        assert s.world.sessions.prompts == []


async def test_null_for_an_optional_argument_is_the_same_as_leaving_it_out() -> None:
    async with served() as s, s.client() as client:
        arguments = {"prompt": "hi", "session": None, "files": None, "wait_s": None}
        assert text(await client.call_tool("echo", arguments)).startswith("You said: hi")


@both_eras
async def test_an_unknown_tool_names_the_nearest_ones(mode: Mode) -> None:
    async with served() as s, s.client(mode) as client:
        with pytest.raises(MCPError, match="code_interpreter") as raised:
            await client.call_tool("code_interpretr", {"code": "1"})
        assert raised.value.code == -32602


async def test_another_agents_session_is_refused() -> None:
    async with served() as s, s.client() as client:
        first = await client.call_tool("echo", {"prompt": "x"})
        second = await client.call_tool("maker", {"prompt": "x", "session": session_of(first)})
        assert second.is_error
        assert "belongs to agent `echo`" in text(second)


async def test_what_belongs_to_somebody_else_is_as_good_as_missing() -> None:
    async with served() as s, s.client() as alice, s.client(key=BOB_KEY) as bob:
        mine = session_of(await alice.call_tool("echo", {"prompt": "secret"}))
        for name in ("get_session", "cancel_session"):
            foreign = await bob.call_tool(name, {"session": mine})
            missing = await bob.call_tool(name, {"session": "ses_" + "0" * 32})
            assert foreign.is_error
            assert text(foreign).replace(mine, "X") == text(missing).replace("ses_" + "0" * 32, "X")
        with pytest.raises(MCPError, match="no session"):
            await bob.read_resource(f"lap://sessions/{mine}")
        assert (await bob.call_tool("list_sessions", {})).structured_content["sessions"] == []


async def test_code_keeps_its_state_on_one_handshake_connection_and_shares_it_with_none() -> None:
    async with served() as s:
        async with s.client("legacy") as client:
            assert "new" in last_line(
                await client.call_tool("code_interpreter", {"code": "set a 7"})
            )
            again = await client.call_tool("code_interpreter", {"code": "get a"})
            assert "=> 7" in text(again)
            assert "new" not in last_line(again)
            async with s.client("legacy") as other:
                result = await other.call_tool("code_interpreter", {"code": "get a"})
                assert "=>" not in text(result)
        await until(lambda: not s.world.sandboxes.boxes)
        assert len(s.world.sandboxes.released) == 2


async def test_a_value_of_many_lines_keeps_its_columns() -> None:
    async with served() as s, s.client("legacy") as client:
        await client.call_tool("code_interpreter", {"code": "set t    a\n0  1"})
        shown = text(await client.call_tool("code_interpreter", {"code": "get t"}))
        assert "=>\n   a\n0  1\n" in shown


async def test_a_stateless_call_gets_its_own_sandbox_and_can_go_on_in_it() -> None:
    async with served() as s, s.client() as client:
        first = await client.call_tool("code_interpreter", {"code": "set a 7"})
        assert "give this id as `sandbox`" in last_line(first)
        box = next(word for word in last_line(first).split() if word.startswith("sbx_"))
        other = await client.call_tool("code_interpreter", {"code": "get a"})
        assert "=>" not in text(other)
        same = await client.call_tool("code_interpreter", {"code": "get a", "sandbox": box})
        assert "=> 7" in text(same)


async def test_code_that_raises_shows_its_traceback_and_a_plot_its_image() -> None:
    async with served() as s, s.client() as client:
        failed = await client.call_tool("code_interpreter", {"code": "raise no luck"})
        assert failed.is_error
        assert "ValueError: no luck" in text(failed)
        assert "error" in last_line(failed)
        plot = await client.call_tool("code_interpreter", {"code": "plot"})
        assert [block.type for block in plot.content] == ["text", "image"]
        written = await client.call_tool("code_interpreter", {"code": "write out.txt hello"})
        link = next(b for b in written.content if isinstance(b, t.ResourceLink))
        assert link.uri in text(written)
        assert (await client.read_resource(link.uri)).contents[0].text == "hello"


@both_eras
async def test_a_cancelled_execution_is_interrupted_and_an_agent_only_let_go(mode: Mode) -> None:
    async with served() as s, s.client(mode) as client:
        await _cut_off(client, "code_interpreter", {"code": "forever"}, s.world, _code_runs)
        await until(lambda: sum(b.interrupted for b in s.world.sandboxes.boxes.values()) == 1)
        await _cut_off(client, "slow", {"prompt": "60"}, s.world, lambda w: w.sessions.running == 1)
        await _cut_off(
            client, "slow_bound", {"prompt": "60"}, s.world, lambda w: w.sessions.running == 2
        )
        await until(lambda: s.world.sessions.running == 1)


def _code_runs(world: World) -> bool:
    return any(box.executions for box in world.sandboxes.boxes.values())


async def _cut_off(client, name, arguments, world, started) -> None:  # type: ignore[no-untyped-def]
    async with anyio.create_task_group() as group:
        group.start_soon(client.call_tool, name, arguments)
        await until(lambda: started(world))
        group.cancel_scope.cancel()


async def test_files_reach_the_agent_and_what_is_refused_says_why() -> None:
    async with served() as s, s.client() as client:
        given = {"name": "a.csv", "base64": base64.b64encode(b"a,b\n").decode()}
        await client.call_tool("echo", {"prompt": "x", "files": [given]})
        prompt = s.world.sessions.prompts[0][2]
        assert [(f.name, f.data) for f in prompt.files] == [("a.csv", b"a,b\n")]
        refused = {
            "/etc/passwd": "is a path",
            "~/.ssh/id_rsa": "is a path",
            "../x": "is a path",
            "https://example.com/x": "is an address",
            "file:///etc/passwd": "is an address",
            "lap://status": "is not the URI of a file",
        }
        for entry, words in refused.items():
            result = await client.call_tool("echo", {"prompt": "x", "files": [entry]})
            assert result.is_error
            assert words in text(result)
        for bad in ({"name": "../a", "base64": ""}, {"name": "a", "base64": "!!"}):
            result = await client.call_tool("code_interpreter", {"code": "x", "files": [bad]})
            assert result.is_error
        assert len(s.world.sessions.prompts) == 1


async def test_a_sandbox_that_is_down_is_said_in_words_and_agents_still_work() -> None:
    from lap_mcp.errors import Unavailable

    async with served() as s, s.client() as client:
        s.world.sandboxes.down = Unavailable("The engine is down.", remedy="Start it.")
        result = await client.call_tool("code_interpreter", {"code": "1"})
        assert result.is_error
        assert text(result) == "The engine is down. Start it."
        assert "completed" in last_line(await client.call_tool("echo", {"prompt": "x"}))


async def test_an_earlier_session_is_named_to_be_handed_over() -> None:
    async with served() as s, s.client() as client:
        first = session_of(await client.call_tool("maker", {"prompt": "x"}))
        await client.call_tool("echo", {"prompt": "go on", "from_session": first})
        _, agent, prompt = s.world.sessions.prompts[1]
        assert (agent, prompt.text, prompt.from_session) == ("echo", "go on", first)


async def test_what_an_agent_says_cannot_hide_or_steer() -> None:
    world = World()
    poison = "\x1b[2J\u202egood\u202c\u200b\U000e0041\x07"

    async def poisoned(stage: Stage) -> None:
        await stage.file(f"a{poison}.txt", "text/plain", b"x")
        await stage.message(f"said {poison}")
        raise Failed(f"because {poison}")

    async def asking(stage: Stage) -> None:
        await stage.ask(f"may I {poison}", tool=f"t{poison}", options=[f"o{poison}"])

    world.registry.add("poisoned", poisoned)
    world.registry.add("asking", asking)
    async with served(world) as s, s.client() as client:
        failed = await client.call_tool("poisoned", {"prompt": "x"})
        asked = await client.call_tool("asking", {"prompt": "x"})
        session = session_of(failed)
        shown = await client.call_tool("get_session", {"session": session})
        events = await client.read_resource(f"lap://sessions/{session}/events")
        dumps = [failed, asked, shown, await client.call_tool("list_sessions", {})]
        found = "".join(text(result) + str(result.structured_content) for result in dumps)
        found += events.contents[0].text
        assert "said good" in found
        assert "may I good" in found
        assert not set(found) & set("\x1b\u202e\u202c\u200b\U000e0041\x07")


async def test_only_so_many_plots_are_sent_and_the_others_are_counted() -> None:
    world = World()

    async def many(box: ScriptedBox, code: str, out: Any) -> Execution:
        outputs = [Output(mime="image/png", data=PNG)] * 9
        return Execution(id="e", status="ok", outputs=outputs, outputs_dropped=3)

    world.sandboxes.cell = many
    async with served(world) as s, s.client() as client:
        result = await client.call_tool("code_interpreter", {"code": "plots"})
        assert sum(block.type == "image" for block in result.content) == 6
        assert "(6 images attached.)" in text(result)
        assert "(6 more not shown" in text(result)


async def test_long_output_keeps_its_head_and_tail_within_the_limit() -> None:
    world = World()

    async def loud(box: ScriptedBox, code: str, out: Any) -> Execution:
        lines = "\n".join(f"line {i}" for i in range(30_000))
        return Execution(
            id="e", status="ok", stdout=lines, stderr=lines, value=lines, stdout_dropped=5_000_000
        )

    world.sandboxes.cell = loud
    async with served(world) as s, s.client() as client:
        result = await client.call_tool("code_interpreter", {"code": "loud"})
        assert len(text(result).encode()) <= 8 * 1024
        assert text(result).startswith("line 0\n")
        assert "line 29999" in text(result)
        assert "5.0 MB of output were dropped" in text(result)
        assert last_line(result).startswith("[sandbox sbx_")


async def test_where_all_of_a_long_output_is_is_said_beside_what_is_shown() -> None:
    world = World()
    lines = "\n".join(f"line {i}" for i in range(9_000))

    async def loud(box: ScriptedBox, code: str, out: Any) -> Execution:
        return Execution(
            id="e",
            status="ok",
            stdout=lines,
            stderr=lines,
            stdout_left=Left(path="printed/3.txt", missing=0),
            stderr_left=Left(path="printed/3-stderr.txt", missing=5_000_000),
        )

    async def quiet(box: ScriptedBox, code: str, out: Any) -> Execution:
        return Execution(
            id="e", status="ok", stdout="short", stdout_left=Left(path="printed/4.txt", missing=0)
        )

    async with served(world) as s, s.client() as client:
        world.sandboxes.cell = loud
        said = text(await client.call_tool("code_interpreter", {"code": "loud"}))
        assert "(All of the output is in /mnt/data/printed/3.txt)" in said
        where = "/mnt/data/printed/3-stderr.txt"
        assert f"(All of the standard error but the last 5.0 MB is in {where})" in said
        assert len(said.encode()) <= 8 * 1024
        world.sandboxes.cell = quiet
        said = text(await client.call_tool("code_interpreter", {"code": "quiet"}))
        assert "printed" not in said, "nothing is missing"


def test_only_clients_known_to_bear_it_are_held_for_long() -> None:
    assert longest_wait("claude-code") == 240
    assert longest_wait("codex-mcp-client") == 240
    for client in ("", "opencode", "mcp", "cursor"):
        assert longest_wait(client) == 50
