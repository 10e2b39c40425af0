"""`max_turns` and `turns_per_minute` of a runtime; a runtime that asks to wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import anyio
import pytest
from lap_runtimes.base import Done, Event, Prompt, Turn
from lap_runtimes.errors import Rejected
from lap_runtimes.script import Step
from lap_runtimes.testing import EVERYTHING, Fail, Gate, ScriptedRuntime
from lap_runtimes.testing import say as scripted_say

from lap_mcp.control.driving import Job
from lap_mcp.control.pacing import Goes, Waits, paced
from lap_mcp.control.services import NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.model import LOCAL, Agent, Delta, Pace
from lap_mcp.model import Turn as StoredTurn

from .conftest import ME, Agents, House

pytestmark = pytest.mark.anyio

WAIT = 30.0


def gated(**capabilities: object) -> ScriptedRuntime:
    """Each turn waits at a gate that is named as its prompt."""

    def script(turn: Turn) -> list[Step]:
        assert isinstance(turn.input, Prompt)
        said = scripted_say(turn.input.text, outcome=False)
        return [*said[:1], Gate(turn.input.text), *said[1:], Done(outcome="completed")]

    return ScriptedRuntime(script, capabilities=replace(EVERYTHING, **capabilities))


def prompts(runtime: ScriptedRuntime) -> list[str]:
    return [turn.input.text for turn in runtime.starts if isinstance(turn.input, Prompt)]


async def send(sessions: Sessions, text: str, session: str | None = None) -> tuple[str, str]:
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text=text), session_id=session)
    return accepted.session.id, accepted.turn.id


async def ended(sessions: Sessions, ids: tuple[str, str]) -> StoredTurn:
    return await sessions.wait(LOCAL, *ids, timeout=WAIT)


async def waiting_words(sessions: Sessions, session_id: str) -> str:
    """What a turn says while it waits."""
    with anyio.fail_after(WAIT):
        async with sessions.follow(LOCAL, session_id) as items:
            async for item in items:
                if isinstance(item, Delta) and item.kind == "progress":
                    return item.text
    raise AssertionError("it said nothing")


async def test_a_turn_beyond_max_turns_waits_in_words_and_then_runs(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = gated()
    agents.add(runtime, pace=Pace(max_turns=1))
    first = await send(sessions, "first")
    with anyio.fail_after(WAIT):
        await runtime.reached("first")
    second = await send(sessions, "second")

    said = await waiting_words(sessions, second[0])
    asked_meanwhile = prompts(runtime)
    runtime.release("first")
    runtime.release("second")
    outcomes = [(await ended(sessions, ids)).outcome for ids in (first, second)]

    assert "1 run, the limit is 1 at once (runtimes.lab.max_turns)" in said
    assert asked_meanwhile == ["first"]
    assert outcomes == ["completed", "completed"]
    assert prompts(runtime) == ["first", "second"]


async def test_a_session_with_many_prompts_does_not_keep_another_one_out(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = gated()
    agents.add(runtime, pace=Pace(max_turns=1))
    greedy = await send(sessions, "a1")
    with anyio.fail_after(WAIT):
        await runtime.reached("a1")
    for text in ("a2", "a3"):
        last = await send(sessions, text, greedy[0])
    other = await send(sessions, "b1")
    await waiting_words(sessions, other[0])

    for text in ("a1", "a2", "a3", "b1"):
        runtime.release(text)
    await ended(sessions, last)

    assert prompts(runtime) == ["a1", "b1", "a2", "a3"]


async def test_agents_of_one_runtime_share_its_limit(sessions: Sessions, agents: Agents) -> None:
    runtime = gated()
    agents.add(runtime, pace=Pace(max_turns=1))
    agents.add(runtime, name="other", pace=Pace(max_turns=1))
    await send(sessions, "first")
    with anyio.fail_after(WAIT):
        await runtime.reached("first")
    accepted = await sessions.prompt(ME, "other", NewPrompt(text="second"))

    await waiting_words(sessions, accepted.session.id)

    assert prompts(runtime) == ["first"]
    runtime.release("first")
    runtime.release("second")
    assert (await ended(sessions, (accepted.session.id, accepted.turn.id))).outcome == "completed"


async def test_a_turn_that_waits_can_be_cancelled_and_the_runtime_hears_nothing_of_it(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = gated()
    agents.add(runtime, pace=Pace(max_turns=1))
    first = await send(sessions, "first")
    with anyio.fail_after(WAIT):
        await runtime.reached("first")
    second, third = await send(sessions, "second"), await send(sessions, "third")
    await waiting_words(sessions, second[0])

    await sessions.cancel(LOCAL, second[0])
    runtime.release("first")
    runtime.release("third")

    assert (await ended(sessions, second)).outcome == "cancelled"
    assert (await ended(sessions, first)).outcome == "completed"
    assert (await ended(sessions, third)).outcome == "completed"
    assert prompts(runtime) == ["first", "third"]
    assert runtime.cancels == []


async def test_a_turn_whose_deadline_passes_in_the_line_says_that_nothing_was_sent(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = gated()
    agents.add(runtime, pace=Pace(max_turns=1))
    agents.add(runtime, name="hasty", pace=Pace(max_turns=1), deadline=5.0)
    await send(sessions, "first")
    with anyio.fail_after(WAIT):
        await runtime.reached("first")

    accepted = await sessions.prompt(ME, "hasty", NewPrompt(text="second"))
    turn = await ended(sessions, (accepted.session.id, accepted.turn.id))

    assert turn.outcome == "expired"
    assert "nothing was sent" in (turn.error or "")
    assert prompts(runtime) == ["first"]
    assert runtime.cancels == []


async def test_a_turn_that_the_rate_would_take_past_its_deadline_is_refused_with_retry_after(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = gated()
    agents.add(runtime, pace=Pace(turns_per_minute=1), deadline=20.0)
    runtime.release("first")
    first = await send(sessions, "first")
    assert (await ended(sessions, first)).outcome == "completed"

    turn = await ended(sessions, await send(sessions, "second"))

    assert turn.outcome == "failed"
    assert "runtimes.lab.turns_per_minute" in (turn.error or "")
    assert "It asks to wait" in (turn.error or "")
    assert prompts(runtime) == ["first"]


async def test_a_turn_that_waits_when_the_server_stops_is_started_by_the_next_one(
    house: House, agents: Agents
) -> None:
    """Also of a runtime for which a repeated start would be a second one: nothing was sent."""
    runtime = gated(idempotent_start=False, attach="none", on_disconnect="aborts")
    agents.add(runtime, pace=Pace(max_turns=1))
    async with house.server(agents) as sessions:
        first = await send(sessions, "first")
        with anyio.fail_after(WAIT):
            await runtime.reached("first")
        second = await send(sessions, "second")
        await waiting_words(sessions, second[0])
    asked_by_the_first = prompts(runtime)
    runtime.release("second")

    async with house.server(agents) as sessions:
        turn = await ended(sessions, second)
        cut_off = await ended(sessions, first)

    assert asked_by_the_first == ["first"]
    assert turn.outcome == "completed"
    assert cut_off.outcome == "failed"
    assert prompts(runtime) == ["first", "second"]


# The line by itself ------------------------------------------------------------------------------


class Hall:
    """A `Drive` whose turns end when they are told to."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.done: dict[str, anyio.Event] = {}

    @asynccontextmanager
    async def drive(self, job: Job) -> AsyncIterator[AsyncIterator[Event]]:
        self.inside.append(job.turn.id)
        gate = self.done.setdefault(job.turn.id, anyio.Event())

        async def events() -> AsyncIterator[Event]:
            await gate.wait()
            yield Done(outcome="completed")

        yield events()


def job(name: str, pace: Pace, *, attach: bool = False) -> Job:
    agent = Agent(name="helper", runtime="lab", ref="", pace=pace)
    turn = Turn(id=name, session_id=f"ses_{name}", agent="", input=Prompt(text=""))
    return Job(agent=agent, runtime=ScriptedRuntime([]), turn=turn, attach=attach)


async def test_a_turn_that_goes_on_anyway_counts_and_is_not_kept_waiting() -> None:
    hall, pace = Hall(), Pace(max_turns=1)
    drive = paced(hall.drive)
    for name in ("one", "two"):
        hall.done.setdefault(name, anyio.Event()).set()
    async with AsyncExitStack() as open_:
        running = await open_.enter_async_context(drive(job("one", pace)))
        assert isinstance(await anext(running), Done)
        again = await open_.enter_async_context(drive(job("two", pace, attach=True)))
        assert isinstance(await anext(again), Done)
        third = await open_.enter_async_context(drive(job("three", pace)))
        waits = await anext(third)

    assert hall.inside == ["one", "two"]
    assert isinstance(waits, Waits)
    assert "2 run, the limit is 1" in waits.text


async def test_a_turn_beyond_the_rate_begins_once_the_minute_is_over() -> None:
    """With a minute of 0.3 s."""
    hall, pace = Hall(), Pace(turns_per_minute=2)
    drive = paced(hall.drive, minute=0.3)
    begun: list[float] = []
    kinds: list[type[Event]] = []
    for name in "abc":
        hall.done[name] = anyio.Event()
        hall.done[name].set()
        with anyio.fail_after(WAIT):
            async with drive(job(name, pace)) as events:
                async for event in events:
                    kinds.append(type(event))
        begun.append(anyio.current_time())

    assert kinds[:2] == [Done, Done]
    assert kinds[-2:] == [Goes, Done]
    assert Waits in kinds
    assert begun[2] - begun[0] > 0.2
    assert hall.inside == ["a", "b", "c"]


async def test_a_limit_that_is_taken_away_lets_those_go_that_wait() -> None:
    hall, pace = Hall(), Pace(max_turns=1)
    drive = paced(hall.drive)
    for name in ("one", "two", "three"):
        hall.done.setdefault(name, anyio.Event()).set()
    async with AsyncExitStack() as open_:
        await anext(await open_.enter_async_context(drive(job("one", pace))))
        second = await open_.enter_async_context(drive(job("two", pace)))
        assert isinstance(await anext(second), Waits)
        third = await open_.enter_async_context(drive(job("three", Pace())))
        with anyio.fail_after(WAIT):
            assert isinstance(await anext(second), Goes)
            assert isinstance(await anext(second), Done)
            kinds = [type(event) async for event in third]

    assert kinds[-1] is Done
    assert hall.inside == ["one", "two", "three"]


# A runtime that asks to wait ---------------------------------------------------------------------


def busy(retry_after: float | None, times: int) -> list[Step]:
    def refusal() -> Fail:
        return Fail(Rejected("slow down", kind="rate_limited", status=429, retry_after=retry_after))

    return [*(refusal() for _ in range(times)), *scripted_say("done")]


def noting(script: list[Step]) -> tuple[ScriptedRuntime, list[float]]:
    at: list[float] = []

    class Noting(ScriptedRuntime):
        def start(self, turn: Turn):
            at.append(anyio.current_time())
            return super().start(turn)

    return Noting([script] * 20), at


async def test_a_start_that_is_refused_for_its_pace_is_made_again_when_the_runtime_said(
    sessions: Sessions, agents: Agents
) -> None:
    runtime, at = noting(busy(0.6, times=1))
    agents.add(runtime)

    turn = await ended(sessions, await send(sessions, "go"))

    assert turn.outcome == "completed"
    assert len(at) == 2
    assert at[1] - at[0] >= 0.6


async def test_a_start_that_is_refused_again_and_again_ends_after_three_more(
    sessions: Sessions, agents: Agents
) -> None:
    runtime, at = noting(busy(0.01, times=20))
    agents.add(runtime)

    turn = await ended(sessions, await send(sessions, "go"))

    assert turn.outcome == "failed"
    assert "slow down" in (turn.error or "")
    assert "429" in (turn.error or "")
    assert len(at) == 4


@pytest.mark.parametrize("retry_after", [15.0, 3600.0])
async def test_a_pause_past_the_deadline_or_our_patience_ends_the_turn_and_names_it(
    sessions: Sessions, agents: Agents, retry_after: float
) -> None:
    runtime, at = noting(busy(retry_after, times=1))
    agents.add(runtime, deadline=10.0 if retry_after < 60 else 7200.0)

    turn = await ended(sessions, await send(sessions, "go"))

    assert turn.outcome == "failed"
    assert f"It asks to wait {retry_after:g} s." in (turn.error or "")
    assert len(at) == 1
