"""`ask_agents`, through a real client over HTTP: many answers from one call."""

from __future__ import annotations

import anyio
import pytest

from lap_mcp.control.services import Accepted, NewPrompt
from lap_mcp.errors import LimitReached
from lap_mcp.model import Origin
from tests.mcp.scripted import Failed, ScriptedSessions, Stage, World
from tests.mcp.serving import MODES, Mode, last_line, served, text, until

pytestmark = pytest.mark.anyio
both_eras = pytest.mark.parametrize("mode", MODES)


class Limited(ScriptedSessions):
    """Sessions of which only `most` may run at once, as the engine's limit has it."""

    most = 2
    seen = 0
    """How many ran at once at most."""

    async def prompt(
        self, origin: Origin, agent: str, prompt: NewPrompt, *, session_id: str | None = None
    ) -> Accepted:
        if self.running >= self.most:
            raise LimitReached(f"{self.running} of your turns run already, the limit.")
        accepted = await super().prompt(origin, agent, prompt, session_id=session_id)
        self.seen = max(self.seen, self.running)
        return accepted


def limited(agents: int) -> tuple[World, Limited]:
    world = World()
    world.sessions = sessions = Limited(world.registry, world.changes)
    for number in range(agents):
        world.registry.add(f"slow{number}", world.registry.scripts["slow"])
    return world, sessions


@both_eras
async def test_each_agent_answers_in_a_session_of_its_own_and_a_failure_stays_alone(
    mode: Mode,
) -> None:
    told: list[str] = []

    async def progress(step: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    asked = {"agents": ["echo", "failing", "nobody", "maker", "echo"], "prompt": "hi"}
    async with served() as s, s.client(mode) as client:
        result = await client.call_tool("ask_agents", asked, progress_callback=progress)
        answer = text(result)
        assert not result.is_error
        assert result.structured_content is None
        headings = [line for line in answer.splitlines() if line.startswith("## ")]
        assert headings == ["## echo", "## failing", "## nobody", "## maker"]
        assert "You said: hi" in answer
        assert "the backend is on fire" in answer
        assert "There is no agent `nobody`." in answer
        assert last_line(result) == "[4 agents · 2 answered · 0 running · 2 failed]"
        assert len({word for word in answer.split() if word.startswith("ses_")}) == 3
        assert len(s.world.sessions.rooms) == 3
        assert {origin.principal.id for origin, _, _ in s.world.sessions.prompts} == {"key:alice"}
        said = "\n".join(told)
        assert "[echo: completed] You said: hi" in said
        assert "[failing: failed]" in said
        assert "[nobody: not asked]" in said


async def test_only_if_all_fail_the_call_is_an_error() -> None:
    async with served() as s, s.client() as client:
        asked = {"agents": ["failing", "nobody"], "prompt": "hi"}
        assert (await client.call_tool("ask_agents", asked)).is_error


async def talkative(stage: Stage) -> None:
    for number in range(4):
        await stage.file(f"{number}-{'é' * 60}.txt", "text/plain", b"x")
    await stage.message("é" * 9000)
    if stage.prompt.text == "fail":
        raise Failed("it was too much " * 200)


async def test_answers_of_twenty_fit_the_text_and_more_are_refused() -> None:
    world = World()
    names = [f"long{number}" for number in range(20)]
    for name in names:
        world.registry.add(name, talkative)
    async with served(world) as s, s.client() as client:
        result = await client.call_tool("ask_agents", {"agents": names, "prompt": "hi"})
        assert len(text(result).encode()) <= 8 * 1024
        assert text(result).count("get_session has the rest") == 20
        assert last_line(result) == "[20 agents · 20 answered · 0 running · 0 failed]"
        failed = await client.call_tool("ask_agents", {"agents": names, "prompt": "fail"})
        assert len(text(failed).encode()) <= 8 * 1024
        assert text(failed).count("it was too much") >= 20
        refused = await client.call_tool("ask_agents", {"agents": [*names, "echo"], "prompt": "x"})
        assert refused.is_error
        assert "`agents` may have at most 20 entries" in text(refused)
        assert len(world.sessions.prompts) == 40


async def test_what_is_not_finished_goes_on_and_says_how_to_read_it() -> None:
    async with served() as s, s.client() as client:
        asked = {"agents": ["echo", "slow"], "prompt": "60", "wait_s": 0.5}
        result = await client.call_tool("ask_agents", asked)
        assert "You said: 60" in text(result)
        assert "get_session with its session and wait_s" in text(result)
        assert last_line(result) == "[2 agents · 1 answered · 1 running · 0 failed]"
        assert s.world.sessions.running == 1
        started = await client.call_tool("ask_agents", {**asked, "wait_s": 0})
        assert "running" in last_line(started)


async def test_a_question_is_shown_and_does_not_hold_the_others() -> None:
    async with served() as s, s.client() as client:
        asked = {"agents": ["curious", "echo"], "prompt": "hi", "wait_s": 20}
        with anyio.fail_after(15):
            result = await client.call_tool("ask_agents", asked)
        assert "Which colour?" in text(result)
        assert "answer_question" in text(result)
        assert "You said: hi" in text(result)


async def test_where_few_may_run_at_once_the_others_wait_for_them() -> None:
    world, sessions = limited(5)
    names = [f"slow{number}" for number in range(5)]
    async with served(world) as s, s.client() as client:
        asked = {"agents": names, "prompt": "0.1", "wait_s": 30}
        result = await client.call_tool("ask_agents", asked)
        assert last_line(result) == "[5 agents · 5 answered · 0 running · 0 failed]"
        assert sessions.seen == 2
        now = await client.call_tool("ask_agents", {"agents": names, "prompt": "60", "wait_s": 0})
        assert last_line(now) == "[5 agents · 0 answered · 2 running · 3 failed]"
        assert text(now).count("2 of your turns run already, the limit.") == 3


@both_eras
async def test_a_call_that_is_cut_off_ends_only_the_agents_that_want_it(mode: Mode) -> None:
    async with served() as s, s.client(mode) as client:
        asked = {"agents": ["slow", "slow_bound"], "prompt": "60"}
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "ask_agents", asked)
            await until(lambda: s.world.sessions.running == 2)
            group.cancel_scope.cancel()
        await until(lambda: s.world.sessions.running == 1)
        (room,) = [r for r in s.world.sessions.rooms.values() if r.session.status == "running"]
        assert room.session.agent == "slow"


async def test_it_is_a_tool_only_where_there_are_two_to_ask() -> None:
    world = World()
    for name in list(world.registry.found)[1:]:
        world.registry.remove(name)
    async with served(world) as s, s.client() as client:
        assert "ask_agents" not in {tool.name for tool in (await client.list_tools()).tools}
    world.registry.add("second", world.registry.scripts["echo"])
    async with served(world) as s, s.client() as client:
        assert "ask_agents" in {tool.name for tool in (await client.list_tools()).tools}
