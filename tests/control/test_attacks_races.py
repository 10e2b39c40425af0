"""Two things at once: what one of them decided is not undone by the other, and nothing is stuck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import anyio
import pytest
from lap_runtimes.base import Asked, Done, Question, Ref, Started
from lap_runtimes.testing import EVERYTHING, Gate, ScriptedRuntime, ask, say
from sqlalchemy import Connection

from lap_mcp.control import cancelling, directing
from lap_mcp.control.engine import SessionLimits
from lap_mcp.control.jobs import opening
from lap_mcp.control.polling import eventually
from lap_mcp.control.services import NewAnswer, NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.errors import LeaseLost
from lap_mcp.model import LOCAL
from lap_mcp.store import driving, leases, turns

from .conftest import DEADLINE, ME, Agents, House
from .engine_view import engine_of, runners_of

pytestmark = pytest.mark.anyio

APPROVE = Question(id="q1", kind="approval", text="Delete it?", tool="rm")
RESUME = replace(EVERYTHING, answer="resume")


def echo() -> ScriptedRuntime:
    """Each turn waits at the gate that is named as its prompt."""
    return ScriptedRuntime(lambda turn: [Started(), Gate(turn.input.text), *say("ok")[1:]])


async def test_a_queued_prompt_that_was_dropped_is_not_begun(
    sessions: Sessions, agents: Agents
) -> None:
    """The queue is dropped, then the turn before it ends: both in the order of the store."""
    runtime = echo()
    agents.add(runtime)
    first = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
    queued = await sessions.prompt(ME, "helper", NewPrompt(text="b"), session_id=first.session.id)
    engine = engine_of(sessions)

    await engine.database.write(lambda c: turns.drop_queued(c, first.session.id, None, 1.0))
    runtime.release("a")
    runtime.release("b")
    await sessions.wait(LOCAL, first.session.id, first.turn.id, timeout=DEADLINE)
    dropped = await sessions.wait(LOCAL, first.session.id, queued.turn.id, timeout=DEADLINE)

    assert dropped.outcome == "cancelled"
    assert [turn.input.text for turn in runtime.starts] == ["a"]
    assert await eventually_free(sessions, first.session.id)


async def eventually_free(sessions: Sessions, session_id: str) -> bool:
    """Nobody holds the session's lease any more."""
    engine = engine_of(sessions)

    async def free() -> bool:
        now = engine.clock.now()

        def probe(connection: Connection) -> bool:
            lease = leases.take(connection, session_id, "own_probe", now)
            if lease is not None:
                leases.free(connection, lease)
            return lease is not None

        return await engine.database.write(probe)

    return await eventually(free, DEADLINE)


async def test_a_turn_ends_and_the_next_begins_in_one_transaction(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = echo()
    agents.add(runtime)
    first = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
    sid = first.session.id
    queued = await sessions.prompt(ME, "helper", NewPrompt(text="b"), session_id=sid)
    with anyio.fail_after(DEADLINE):
        await runtime.reached("a")
    seen: list[Sequence[str]] = []
    engine = engine_of(sessions)

    with anyio.fail_after(DEADLINE):
        async with sessions.follow(LOCAL, sid) as items:
            runtime.release("a")
            async for _ in items:
                found = await engine.database.read(lambda c: turns.of_session(c, sid))
                seen.append([turn.outcome for turn in found])
                if found[0].ended:
                    break
    runtime.release("b")

    assert ["completed", "queued"] not in [list(outcomes) for outcomes in seen]
    done = await sessions.wait(LOCAL, sid, queued.turn.id, timeout=DEADLINE)
    assert done.outcome == "completed"


async def test_a_cancel_that_comes_as_the_turn_ends_says_nothing_of_leases(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = echo()
    agents.add(runtime)
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
    runner = runners_of(sessions).find(accepted.session.id)
    assert runner is not None
    runtime.release("a")
    await sessions.wait(LOCAL, accepted.session.id, accepted.turn.id, timeout=DEADLINE)
    runner.ended = anyio.Event()
    runners_of(sessions)._runners[accepted.session.id] = runner

    with pytest.raises(LeaseLost):
        await directing.cancel(runner)
    runner.ending = ""
    session = await sessions.cancel(LOCAL, accepted.session.id)

    del runners_of(sessions)._runners[accepted.session.id]
    assert session.status == "idle"


async def test_a_cancel_for_a_turn_that_ended_does_not_hit_the_next_one(
    house: House, agents: Agents
) -> None:
    runtime = echo()
    agents.add(runtime)
    async with house.server(agents) as sessions:
        first = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
        sid = first.session.id
        runtime.release("a")
        await sessions.wait(LOCAL, sid, first.turn.id, timeout=DEADLINE)
        second = await sessions.prompt(ME, "helper", NewPrompt(text="b"), session_id=sid)
        with anyio.fail_after(DEADLINE):
            await runtime.reached("b")

        await runners_of(sessions).tell(sid, "cancel", {"turn": first.turn.id})
        await runners_of(sessions).consume()
        runtime.release("b")

        done = await sessions.wait(LOCAL, sid, second.turn.id, timeout=DEADLINE)
        assert done.outcome == "completed"


async def test_cancelling_what_ended_meanwhile_takes_no_lease(
    sessions: Sessions, agents: Agents
) -> None:
    agents.add(ScriptedRuntime([say("ok")]))
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
    await sessions.wait(LOCAL, accepted.session.id, accepted.turn.id, timeout=DEADLINE)

    assert await runners_of(sessions).seize(accepted.session.id) is None
    assert await eventually_free(sessions, accepted.session.id)


async def test_a_waiting_turn_of_an_agent_that_is_gone_can_be_cancelled(
    sessions: Sessions, agents: Agents
) -> None:
    agents.add(ScriptedRuntime([ask(APPROVE, in_stream=False)], capabilities=RESUME))
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
    sid = accepted.session.id
    await sessions.wait(LOCAL, sid, accepted.turn.id, timeout=DEADLINE)
    agents.found.clear()

    session = await sessions.cancel(LOCAL, sid)

    assert session.status == "idle"
    turn = await sessions.turn(LOCAL, sid, accepted.turn.id)
    assert turn.outcome == "cancelled"
    assert "could not be told to stop" in (turn.error or "")


async def test_an_adapter_that_breaks_when_told_to_stop_does_not_keep_its_turn(
    sessions: Sessions, agents: Agents
) -> None:
    class Broken(ScriptedRuntime):
        async def cancel(self, ref: Ref) -> None:
            raise KeyError("run")

    runtime = Broken([[*say("one", outcome=False), Gate("never")]])
    agents.add(runtime)
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
    with anyio.fail_after(DEADLINE):
        await runtime.reached("never")

    await sessions.cancel(LOCAL, accepted.session.id)

    turn = await sessions.turn(LOCAL, accepted.session.id, accepted.turn.id)
    assert turn.outcome == "cancelled"
    assert "KeyError" in (turn.error or "")


async def test_a_question_left_open_by_a_server_that_stopped_is_answered_through_another(
    house: House, agents: Agents
) -> None:
    """`in_stream`: the answer goes to a stream that the second server takes up again."""
    runtime = ScriptedRuntime([ask(APPROVE, in_stream=True)])
    agents.add(runtime)
    async with house.server(agents) as first:
        accepted = await first.prompt(ME, "helper", NewPrompt(text="go"))
        sid = accepted.session.id
        turn = await first.wait(LOCAL, sid, accepted.turn.id, timeout=DEADLINE)
        assert turn.outcome == "requires_action"

    async with house.server(agents) as second:
        (question,) = await second.questions(LOCAL)
        await second.answer(LOCAL, question.id, NewAnswer(decision="allow"), by="person")
        done = await second.wait(LOCAL, sid, turn.id, timeout=DEADLINE)

        assert done.outcome == "completed"
        assert [answer.decision for answer in runtime.answers] == ["allow"]
        assert runtime.attaches
    assert runtime.readers == 0


async def test_a_stopped_servers_open_stream_is_taken_up_by_the_next_without_being_asked(
    house: House, agents: Agents
) -> None:
    runtime = ScriptedRuntime([ask(APPROVE, in_stream=True)])
    agents.add(runtime)
    async with house.server(agents) as first:
        accepted = await first.prompt(ME, "helper", NewPrompt(text="go"))
        sid = accepted.session.id
        await first.wait(LOCAL, sid, accepted.turn.id, timeout=DEADLINE)

    async with house.server(agents) as second:

        async def attached() -> bool:
            return bool(runtime.attaches) and runtime.readers == 1

        assert await eventually(attached, DEADLINE)
        assert len(await second.questions(LOCAL)) == 1
        await second.cancel(LOCAL, sid)


async def test_a_runtime_that_waits_for_an_answer_to_nothing_ends_its_turn_in_words(
    sessions: Sessions, agents: Agents
) -> None:
    """Also where it asks what was answered before, under the same id."""
    again = [Started(), Asked(question=APPROVE), Done(outcome="requires_action")]
    agents.add(ScriptedRuntime([ask(APPROVE, in_stream=False), again], capabilities=RESUME))
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
    sid = accepted.session.id
    await sessions.wait(LOCAL, sid, accepted.turn.id, timeout=DEADLINE)
    (question,) = await sessions.questions(LOCAL)

    await sessions.answer(LOCAL, question.id, NewAnswer(decision="allow"), by="person")

    async def ended() -> bool:
        return (await sessions.turn(LOCAL, sid, accepted.turn.id)).ended

    assert await eventually(ended, DEADLINE)
    turn = await sessions.turn(LOCAL, sid, accepted.turn.id)
    assert turn.outcome == "failed"
    assert "no question" in (turn.error or "")


async def test_a_question_whose_time_is_over_does_not_end_the_server_that_cannot_end_its_turn(
    house: House, agents: Agents
) -> None:
    """Another server drives it: that one ends it, and this one has no part in it."""
    runtime = ScriptedRuntime([ask(APPROVE, in_stream=True)])
    agents.add(runtime)
    limits = SessionLimits(cancel_wait=2.0, question_ttl=0.01)
    async with house.server(agents, limits) as first, house.server(agents, limits) as second:
        accepted = await first.prompt(ME, "helper", NewPrompt(text="go"))
        sid = accepted.session.id
        await first.wait(LOCAL, sid, accepted.turn.id, timeout=DEADLINE)

        await cancelling.expire(engine_of(second), runners_of(second), sid)
        assert (await second.turn(LOCAL, sid, accepted.turn.id)).outcome == "requires_action"
        await cancelling.expire(engine_of(first), runners_of(first), sid)

        turn = await second.turn(LOCAL, sid, accepted.turn.id)
        assert turn.outcome == "expired"
        assert "Nobody answered" in (turn.error or "")
        (question,) = await second.questions(LOCAL, status=None)
        assert question.status == "expired"


async def test_begin_next_gives_the_lease_back_where_nothing_waits(
    sessions: Sessions, agents: Agents
) -> None:
    agents.add(ScriptedRuntime([say("ok")]))
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
    sid = accepted.session.id
    await sessions.wait(LOCAL, sid, accepted.turn.id, timeout=DEADLINE)
    engine = engine_of(sessions)

    def query(connection: Connection) -> driving.Next:
        lease = leases.take(connection, sid, "own_x", engine.clock.now())
        assert lease is not None
        return driving.begin_next(connection, lease, opening, 1.0)

    following = await engine.database.write(query)

    assert following.turn_id is None
    assert await eventually_free(sessions, sid)


async def test_a_new_driver_keeps_its_followers_when_the_old_one_leaves_late(
    sessions: Sessions,
) -> None:
    """On PostgreSQL the next prompt may begin while the last turn's task is on its way out."""
    hub = engine_of(sessions).hub
    old, new = object(), object()
    with hub.join("ses_x") as (live, inbox):
        live.drive(old)
        live.drive(new)
        live.delta("trn_x", "message", "m", "text")
        live.leave(old)
        hub.release(live)

        assert live.driven
        assert [delta.text for delta in live.snapshot()] == ["text"]
        assert hub.find("ses_x") is live
        live.leave(new)
    assert len(hub) == 0
