"""A runtime is told to stop with the running turn's own ref, or words say that it was not told."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from lap_runtimes.base import Ref
from lap_runtimes.errors import Rejected
from lap_runtimes.script import Script
from lap_runtimes.testing import EVERYTHING, Gate, ScriptedRuntime, say

from lap_mcp.control.engine import SessionLimits
from lap_mcp.control.polling import until
from lap_mcp.control.services import NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.model import LOCAL, Turn
from lap_mcp.store.leases import free

from .conftest import DEADLINE, ME, Agents, House
from .engine_view import engine_of, runners_of

pytestmark = pytest.mark.anyio

LATE: Script = [Gate("late"), *say("two", message_id="m2", outcome=False), Gate("never")]
"""A start that works before the runtime says how it is found again."""


class Lenient(ScriptedRuntime):
    """What has ended is told to stop without an error, as at most vendors."""

    async def cancel(self, ref: Ref) -> None:
        try:
            await super().cancel(ref)
        except Rejected as exc:
            if exc.kind != "not_found":
                raise


async def second_turn(sessions: Sessions, agents: Agents, runtime: ScriptedRuntime) -> Turn:
    """A session whose first turn has ended, and whose second has no ref yet."""
    agents.add(runtime)
    first = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
    await sessions.wait(LOCAL, first.session.id, first.turn.id, timeout=DEADLINE)
    second = await sessions.prompt(ME, "helper", NewPrompt(text="b"), session_id=first.session.id)
    with anyio.fail_after(DEADLINE):
        await runtime.reached("late")
    return second.turn


async def after_cancel(sessions: Sessions, turn: Turn) -> Turn:
    await sessions.cancel(LOCAL, turn.session_id)
    return await sessions.turn(LOCAL, turn.session_id, turn.id)


async def test_a_second_turn_without_a_ref_is_not_cancelled_with_the_first_ones(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = Lenient([say("one"), LATE])
    turn = await second_turn(sessions, agents, runtime)

    ended = await after_cancel(sessions, turn)

    assert runtime.cancels == []
    assert ended.outcome == "cancelled"
    assert "it may still be working" in (ended.error or "")


async def test_a_ref_that_comes_while_a_cancel_waits_is_the_one_that_is_told(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = Lenient([say("one"), LATE])
    turn = await second_turn(sessions, agents, runtime)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sessions.cancel, LOCAL, turn.session_id)
        runner = runners_of(sessions).find(turn.session_id)
        assert runner is not None
        assert await until(lambda: runner.ending == "cancelled", DEADLINE)
        runtime.release("late")

    ended = await sessions.turn(LOCAL, turn.session_id, turn.id)
    assert [ref["turn"] for ref in runtime.cancels] == [turn.id]
    assert (ended.outcome, ended.error) == ("cancelled", None)


async def test_a_first_turn_that_could_not_be_told_to_stop_says_so(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = ScriptedRuntime([LATE])
    agents.add(runtime)
    first = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
    with anyio.fail_after(DEADLINE):
        await runtime.reached("late")

    ended = await after_cancel(sessions, first.turn)

    assert (ended.outcome, runtime.cancels) == ("cancelled", [])
    assert ended.error == (
        "The runtime gave no id yet and could not be told to stop; it may still be working."
    )


async def test_a_turn_that_ends_with_its_stream_needs_no_such_words(
    sessions: Sessions, agents: Agents
) -> None:
    capabilities = replace(EVERYTHING, attach="none", on_disconnect="aborts")
    runtime = ScriptedRuntime([LATE], capabilities=capabilities)
    agents.add(runtime)
    first = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
    with anyio.fail_after(DEADLINE):
        await runtime.reached("late")

    ended = await after_cancel(sessions, first.turn)

    assert (ended.outcome, ended.error) == ("cancelled", None)
    assert runtime.disconnects == [first.turn.id]


async def test_a_deadline_that_passes_before_the_ref_comes_says_that_nobody_was_told(
    house: House, agents: Agents
) -> None:
    runtime = Lenient([say("one"), LATE])
    async with house.server(agents, SessionLimits(cancel_wait=2.0)) as sessions:
        turn = await second_turn(sessions, agents, runtime)
        runner = runners_of(sessions).find(turn.session_id)
        assert runner is not None
        # Its deadline, now.
        runner._turn_scope.cancel()
        ended = await sessions.wait(LOCAL, turn.session_id, turn.id, timeout=DEADLINE)

    assert (ended.outcome, runtime.cancels) == ("expired", [])
    assert "gave no id yet" in (ended.error or "")


async def test_a_turn_whose_process_died_before_its_ref_is_not_ended_with_an_older_one(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = Lenient([say("one"), LATE])
    turn = await second_turn(sessions, agents, runtime)
    runner = runners_of(sessions).find(turn.session_id)
    assert runner is not None
    runner.lose()
    assert await until(lambda: runners_of(sessions).find(turn.session_id) is None, DEADLINE)
    lease = runner.leased.lease
    await engine_of(sessions).database.write(lambda connection: free(connection, lease))

    ended = await after_cancel(sessions, turn)

    assert (ended.outcome, runtime.cancels) == ("cancelled", [])
    assert "gave no id yet" in (ended.error or "")


async def test_a_message_in_between_does_not_reach_the_turn_before(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = ScriptedRuntime([say("one"), LATE])
    turn = await second_turn(sessions, agents, runtime)

    async with anyio.create_task_group() as tasks:

        async def steer() -> None:
            prompt = NewPrompt(text="left", steer=True)
            await sessions.prompt(ME, "helper", prompt, session_id=turn.session_id)

        tasks.start_soon(steer)
        await anyio.wait_all_tasks_blocked()
        runtime.release("late")

    assert [steer.text for steer in runtime.run(turn.id).steers] == ["left"]
