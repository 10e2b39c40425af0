"""Several servers on one store that are not alike, and calls that share a session: nobody ends or
loses what belongs to another."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from lap_runtimes.base import Started
from lap_runtimes.testing import Gate, ScriptedRuntime, say

from lap_mcp.control.services import NewPrompt
from lap_mcp.errors import Unavailable
from lap_mcp.model import LOCAL, Agent

from .conftest import DEADLINE, ME, Agents, House
from .engine_view import engine_of, runners_of

pytestmark = pytest.mark.anyio


class WithoutSecret(Agents):
    """A server whose configuration names the agent and whose environment lacks its key."""

    def runtime_for(self, agent: Agent) -> ScriptedRuntime:
        raise Unavailable("Runtime lab cannot be used: LAB_KEY is not set.")


class At:
    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        return self._now


def without_agent(agents: Agents) -> Agents:
    return Agents()


def without_secret(agents: Agents) -> Agents:
    return WithoutSecret(dict(agents.found))


@pytest.mark.parametrize("lacking", [without_agent, without_secret])
async def test_a_server_that_lacks_the_agent_leaves_a_turn_to_one_that_has_it(
    house: House, agents: Agents, lacking: Callable[[Agents], Agents]
) -> None:
    runtime = ScriptedRuntime(lambda turn: [Started(), Gate(turn.input.text), *say("ok")[1:]])
    agents.add(runtime)
    async with house.server(agents) as first:
        accepted = await first.prompt(ME, "helper", NewPrompt(text="a"))
        sid = accepted.session.id
        queued = await first.prompt(ME, "helper", NewPrompt(text="b"), session_id=sid)
        with anyio.fail_after(DEADLINE):
            await runtime.reached("a")

    async with house.server(lacking(agents)) as other:
        assert await runners_of(other).adopt() == 0
        assert await runners_of(other).adopt() == 0
        assert len(runners_of(other)) == 0
        outcomes = [turn.outcome for turn in await other.turns(LOCAL, sid)]
        assert outcomes == ["running", "queued"]

    runtime.release("a")
    runtime.release("b")
    async with house.server(agents) as again:
        await runners_of(again).adopt()
        for turn in (accepted.turn, queued.turn):
            done = await again.wait(LOCAL, sid, turn.id, timeout=DEADLINE)
            assert done.outcome == "completed"


@pytest.mark.parametrize("lacking", [without_agent, without_secret])
async def test_a_turn_whose_agent_nobody_has_is_ended_in_words_after_its_time(
    house: House, agents: Agents, lacking: Callable[[Agents], Agents]
) -> None:
    runtime = ScriptedRuntime([[*say("one", outcome=False), Gate("never")]])
    agents.add(runtime)
    async with house.server(agents) as first:
        accepted = await first.prompt(ME, "helper", NewPrompt(text="a"))
        with anyio.fail_after(DEADLINE):
            await runtime.reached("never")
    sid = accepted.session.id

    async with house.server(lacking(agents)) as other:
        await runners_of(other).adopt()
        assert (await other.turn(LOCAL, sid, accepted.turn.id)).outcome == "running"
        later = engine_of(other).clock.now() + 25 * 3600
        object.__setattr__(engine_of(other), "clock", At(later))
        await runners_of(other).adopt()
        turn = await other.wait(LOCAL, sid, accepted.turn.id, timeout=DEADLINE)

    assert turn.outcome == "failed"
    assert "LAB_KEY" in (turn.error or "") or "There is no agent" in (turn.error or "")
