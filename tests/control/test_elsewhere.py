"""Several servers on one store that are not alike, and calls that share a session: nobody ends or
loses what belongs to another."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
from lap_runtimes.base import Prompt, Ref, Started
from lap_runtimes.errors import Rejected
from lap_runtimes.testing import Gate, ScriptedRuntime, say

from lap_mcp.control import interjecting
from lap_mcp.control.engine import SessionLimits
from lap_mcp.control.opening import EngineOptions
from lap_mcp.control.services import NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.errors import NotFound, Unavailable
from lap_mcp.model import LOCAL, Agent
from lap_mcp.store import commands

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


def gated() -> ScriptedRuntime:
    """Each turn waits at the gate that is named as its prompt."""
    return ScriptedRuntime(lambda turn: [Started(), Gate(turn.input.text), *say("ok")[1:]])


@pytest.mark.parametrize("lacking", [without_agent, without_secret])
async def test_a_server_that_lacks_the_agent_leaves_a_turn_to_one_that_has_it(
    house: House, agents: Agents, lacking: Callable[[Agents], Agents]
) -> None:
    runtime = gated()
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


async def three(sessions: Sessions, runtime: ScriptedRuntime) -> tuple[str, list[str]]:
    """A session in which `a` runs and `b` and `c` are queued."""
    first = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
    sid, ids = first.session.id, [first.turn.id]
    for text in ("b", "c"):
        queued = await sessions.prompt(ME, "helper", NewPrompt(text=text), session_id=sid)
        ids.append(queued.turn.id)
    with anyio.fail_after(DEADLINE):
        await runtime.reached("a")
    return sid, ids


async def outcomes(sessions: Sessions, sid: str) -> list[str]:
    return [turn.outcome for turn in await sessions.turns(LOCAL, sid)]


async def test_cancelling_a_queued_turn_leaves_the_others_alone(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = gated()
    agents.add(runtime)
    sid, ids = await three(sessions, runtime)

    await sessions.cancel(LOCAL, sid, turn_id=ids[1])

    assert await outcomes(sessions, sid) == ["running", "cancelled", "queued"]
    assert not runtime.cancels
    runtime.release("a")
    runtime.release("c")
    await sessions.wait(LOCAL, sid, ids[2], timeout=DEADLINE)
    assert await outcomes(sessions, sid) == ["completed", "cancelled", "completed"]


async def test_cancelling_the_running_turn_leaves_the_queue(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = gated()
    agents.add(runtime)
    sid, ids = await three(sessions, runtime)

    await sessions.cancel(LOCAL, sid, turn_id=ids[0])

    assert len(runtime.cancels) == 1
    runtime.release("b")
    runtime.release("c")
    await sessions.wait(LOCAL, sid, ids[2], timeout=DEADLINE)
    assert await outcomes(sessions, sid) == ["cancelled", "completed", "completed"]
    await sessions.cancel(LOCAL, sid, turn_id=ids[1])
    assert await outcomes(sessions, sid) == ["cancelled", "completed", "completed"]


async def test_a_turn_of_another_session_is_not_cancelled_through_ones_own(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = gated()
    agents.add(runtime)
    sid, ids = await three(sessions, runtime)
    runtime.release("own")
    own = await sessions.prompt(ME, "helper", NewPrompt(text="own"))

    with pytest.raises(NotFound):
        await sessions.cancel(LOCAL, own.session.id, turn_id=ids[1])

    assert await outcomes(sessions, sid) == ["running", "queued", "queued"]


async def test_another_server_cancels_one_turn_and_leaves_the_queue(
    house: House, agents: Agents
) -> None:
    runtime = gated()
    agents.add(runtime)
    async with house.server(agents) as first, house.server(agents) as second:
        sid, ids = await three(first, runtime)

        await second.cancel(LOCAL, sid, turn_id=ids[2])
        await second.cancel(LOCAL, sid, turn_id=ids[0])

        runtime.release("b")
        await first.wait(LOCAL, sid, ids[1], timeout=DEADLINE)
        assert await outcomes(second, sid) == ["cancelled", "completed", "cancelled"]


async def test_one_turn_that_nobody_drives_is_cancelled_and_the_queue_is_driven(
    house: House, agents: Agents
) -> None:
    runtime = gated()
    agents.add(runtime)
    async with house.server(agents) as first:
        sid, ids = await three(first, runtime)
    quiet = EngineOptions(limits=SessionLimits(cancel_wait=2.0), adopt=False)
    async with house.server(agents, options=quiet) as second:
        await second.cancel(LOCAL, sid, turn_id=ids[0])
        assert await outcomes(second, sid) == ["cancelled", "queued", "queued"]
        runtime.release("b")
        runtime.release("c")
        assert await runners_of(second).adopt() == 1
        await second.wait(LOCAL, sid, ids[2], timeout=DEADLINE)
        assert await outcomes(second, sid) == ["cancelled", "completed", "completed"]


async def test_a_turn_that_another_server_drives_is_steered_once_it_took_the_message(
    house: House, agents: Agents
) -> None:
    runtime = gated()
    agents.add(runtime)
    async with house.server(agents) as first, house.server(agents) as second:
        accepted = await first.prompt(ME, "helper", NewPrompt(text="a"))
        sid = accepted.session.id
        with anyio.fail_after(DEADLINE):
            await runtime.reached("a")

        steered = await second.prompt(
            ME, "helper", NewPrompt(text="left", steer=True), session_id=sid
        )

        assert steered.steered
        assert [prompt.text for prompt in runtime.steers] == ["left"]
        events = await second.events(LOCAL, sid)
        assert [e.payload["text"] for e in events if e.payload.get("steered")] == ["left"]
        runtime.release("a")
        await first.wait(LOCAL, sid, accepted.turn.id, timeout=DEADLINE)


class Deaf(ScriptedRuntime):
    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Rejected("too late for that", kind="conflict")


async def test_a_message_that_the_other_server_did_not_take_is_not_called_taken(
    house: House, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runtime refuses it, or nobody reads what was left for the driver."""
    monkeypatch.setattr(interjecting, "_ELSEWHERE", 0.5)
    runtime = Deaf(lambda turn: [Started(), Gate(turn.input.text), *say("ok")[1:]])
    agents.add(runtime)
    limits = SessionLimits(cancel_wait=0.5)
    async with house.server(agents) as first, house.server(agents, limits) as second:
        accepted = await first.prompt(ME, "helper", NewPrompt(text="a"))
        sid = accepted.session.id
        with anyio.fail_after(DEADLINE):
            await runtime.reached("a")
        left = NewPrompt(text="left", steer=True)

        with pytest.raises(Unavailable):
            await second.prompt(ME, "helper", left, session_id=sid)

        monkeypatch.setattr(runners_of(first), "consume", anyio.lowlevel.checkpoint)
        with pytest.raises(Unavailable, match="does not react|has not said"):
            await second.prompt(ME, "helper", left, session_id=sid)
        owner = engine_of(first).owner
        assert not await engine_of(first).database.read(lambda c: commands.waiting(c, owner))
        runtime.release("a")
        await first.wait(LOCAL, sid, accepted.turn.id, timeout=DEADLINE)
    assert not runtime.steers


async def test_a_turn_whose_server_ended_is_taken_up_to_be_steered(
    house: House, agents: Agents
) -> None:
    runtime = gated()
    agents.add(runtime)
    async with house.server(agents) as first:
        accepted = await first.prompt(ME, "helper", NewPrompt(text="a"))
        sid = accepted.session.id
        with anyio.fail_after(DEADLINE):
            await runtime.reached("a")
    quiet = EngineOptions(limits=SessionLimits(cancel_wait=2.0), adopt=False)
    async with house.server(agents, options=quiet) as second:
        await second.prompt(ME, "helper", NewPrompt(text="left", steer=True), session_id=sid)

        assert [prompt.text for prompt in runtime.steers] == ["left"]
        runtime.release("a")
        done = await second.wait(LOCAL, sid, accepted.turn.id, timeout=DEADLINE)
    assert done.outcome == "completed"
    assert runtime.attaches
