"""Agents that call agents: what a turn's credential proves, for how long, and what it refuses."""

from __future__ import annotations

import pytest
from lap_runtimes.base import Question
from lap_runtimes.testing import Gate, ScriptedRuntime, ask, say

from lap_mcp.control.engine import SessionLimits
from lap_mcp.control.nested import PREFIX, Nested
from lap_mcp.control.opening import EngineOptions
from lap_mcp.control.services import NewAnswer, NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.errors import Invalid
from lap_mcp.model import LOCAL, Origin, Principal

from .conftest import DEADLINE, ME, Agents, House

pytestmark = pytest.mark.anyio
KEY = b"k" * 32
APPROVAL = Question(id="q1", kind="approval", text="May I?")


def options(depth: int = 3) -> EngineOptions:
    limits = SessionLimits(cancel_wait=2.0, depth=depth)
    return EngineOptions(limits=limits, nested=Nested(lambda: KEY))


def waiting(agents: Agents, *names: str) -> dict[str, ScriptedRuntime]:
    """Agents whose turns run until they are released."""
    found = {name: ScriptedRuntime([[Gate("go"), *say("done")]] * 3) for name in names}
    for name, runtime in found.items():
        agents.add(runtime, name)
    return found


async def credential(sessions: Sessions, runtime: ScriptedRuntime, agent: str, origin: Origin):
    """Start a turn: (session id, turn id, the credential that its agent gets)."""
    accepted = await sessions.prompt(origin, agent, NewPrompt(text="go"))
    await runtime.reached("go")
    make = runtime.starts[-1].nested
    assert make is not None
    return accepted.session.id, accepted.turn.id, await make()


async def caller(token: str, sessions: Sessions, key: bytes = KEY) -> Principal:
    found = await Nested(lambda: key).principal(token, sessions)
    assert found is not None
    return found


async def test_the_chain_travels_and_circles_and_depth_are_refused_with_it_named(
    house: House, agents: Agents
) -> None:
    runtimes = waiting(agents, "first", "second", "third")
    async with house.server(agents, options=options(depth=2)) as sessions:
        _, _, token = await credential(sessions, runtimes["first"], "first", ME)
        first = await caller(token, sessions)
        assert (first.id, first.chain) == ("local", ("first",))
        with pytest.raises(Invalid, match="circle: first → first"):
            await sessions.prompt(Origin(principal=first), "first", NewPrompt(text="again"))
        _, _, token = await credential(
            sessions, runtimes["second"], "second", Origin(principal=first)
        )
        second = await caller(token, sessions)
        assert second.chain == ("first", "second")
        with pytest.raises(Invalid, match="2 deep.*first → second → third"):
            await sessions.prompt(Origin(principal=second), "third", NewPrompt(text="deeper"))
        assert not runtimes["third"].starts


async def test_another_process_recognises_it_while_the_turn_runs_and_nobody_after(
    house: House, agents: Agents
) -> None:
    runtimes = waiting(agents, "first")
    async with (
        house.server(agents, options=options()) as sessions,
        house.server(agents, options=options()) as elsewhere,
    ):
        session, turn, token = await credential(sessions, runtimes["first"], "first", ME)
        assert (await caller(token, elsewhere)).chain == ("first",)
        runtimes["first"].release("go")
        await sessions.wait(LOCAL, session, turn, timeout=DEADLINE)
        for each in (sessions, elsewhere):
            assert await Nested(lambda: KEY).principal(token, each) is None


async def test_what_was_not_made_here_is_nobodys(house: House, agents: Agents) -> None:
    runtimes = waiting(agents, "first")
    async with house.server(agents, options=options()) as sessions:
        _, _, token = await credential(sessions, runtimes["first"], "first", ME)
        nested = Nested(lambda: KEY)
        middle = len(token) // 2
        other = "A" if token[middle] != "A" else "B"
        wrong = [
            token[:middle] + other + token[middle + 1 :],
            token[:-4],
            token.removeprefix(PREFIX),
            PREFIX,
            PREFIX + "é",
            PREFIX + "a" * 10_000,
            PREFIX + "!!!",
        ]
        for each in wrong:
            assert await nested.principal(each, sessions) is None
        assert await Nested(lambda: b"x" * 32).principal(token, sessions) is None
        assert await nested.principal(token, sessions) is not None


async def test_an_agent_that_was_called_by_an_agent_answers_no_question(
    house: House, agents: Agents
) -> None:
    runtimes = waiting(agents, "first")
    agents.add(ScriptedRuntime([ask(APPROVAL, in_stream=True)]), "asking")
    async with house.server(agents, options=options()) as sessions:
        _, _, token = await credential(sessions, runtimes["first"], "first", ME)
        nested = await caller(token, sessions)
        asked = await sessions.prompt(ME, "asking", NewPrompt(text="x"))
        await sessions.wait(LOCAL, asked.session.id, asked.turn.id, timeout=DEADLINE)
        (question,) = await sessions.questions(LOCAL)
        with pytest.raises(Invalid, match="never answer"):
            await sessions.answer(nested, question.id, NewAnswer(decision="allow"), by="person")
        assert [q.status for q in await sessions.questions(LOCAL)] == ["open"]
