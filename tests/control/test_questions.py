"""Questions: asked, answered in both modes, refused, expired, answered from elsewhere."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from lap_runtimes.base import Answers, Done, Question
from lap_runtimes.testing import EVERYTHING, Gate, ScriptedRuntime, ask, say

from lap_mcp.control.engine import SessionLimits
from lap_mcp.control.polling import eventually
from lap_mcp.control.services import NewAnswer, NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.errors import Conflict, Invalid
from lap_mcp.model import LOCAL, Turn

from .conftest import DEADLINE, ME, Agents, House

pytestmark = pytest.mark.anyio

RESUME = replace(EVERYTHING, answer="resume")
APPROVE = Question(id="q1", kind="approval", text="Delete it?", tool="rm")
INPUT = Question(id="q2", kind="input", text="Which one?")


async def asked(sessions: Sessions) -> Turn:
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
    return await sessions.wait(LOCAL, accepted.session.id, accepted.turn.id, timeout=DEADLINE)


async def test_an_approval_is_passed_on_while_the_stream_goes_on(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = ScriptedRuntime([ask(APPROVE, in_stream=True)])
    agents.add(runtime)
    turn = await asked(sessions)
    (question,) = await sessions.questions(LOCAL)

    assert turn.outcome == "requires_action"
    assert (await sessions.get(LOCAL, turn.session_id)).status == "requires_action"
    await sessions.answer(LOCAL, question.id, NewAnswer(decision="allow"), by="person")
    done = await sessions.wait(LOCAL, turn.session_id, turn.id, timeout=DEADLINE)

    assert done.outcome == "completed"
    assert runtime.answers[0].decision == "allow"
    types = [event.type for event in await sessions.events(LOCAL, turn.session_id)]
    assert types == [
        "user.message",
        "session.status_running",
        "session.status_idle",
        "user.tool_confirmation",
        "session.status_running",
        "agent.message",
        "session.status_idle",
    ]


async def test_an_answer_by_resuming_is_the_same_turn_with_a_new_start(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = ScriptedRuntime([ask(APPROVE, in_stream=False), say("done")], capabilities=RESUME)
    agents.add(runtime)
    turn = await asked(sessions)
    (question,) = await sessions.questions(LOCAL, session_id=turn.session_id)

    await sessions.answer(LOCAL, question.id, NewAnswer(decision="deny", text="no"), by="person")
    done = await sessions.wait(LOCAL, turn.session_id, turn.id, timeout=DEADLINE)

    assert done.outcome == "completed"
    given = runtime.starts[1].input
    assert isinstance(given, Answers)
    assert (given.answers[0].question_id, given.answers[0].decision) == ("q1", "deny")
    assert runtime.starts[0].id == turn.id
    assert runtime.starts[1].id != turn.id
    assert await sessions.questions(LOCAL) == []


async def test_a_prompt_answers_an_open_input_question(sessions: Sessions, agents: Agents) -> None:
    runtime = ScriptedRuntime([ask(INPUT, in_stream=False), say("blue then")], capabilities=RESUME)
    agents.add(runtime)
    turn = await asked(sessions)

    accepted = await sessions.prompt(
        ME, "helper", NewPrompt(text="the blue one"), session_id=turn.session_id
    )
    done = await sessions.wait(LOCAL, turn.session_id, accepted.turn.id, timeout=DEADLINE)

    assert accepted.turn.id == turn.id
    assert done.outcome == "completed"
    given = runtime.starts[1].input
    assert isinstance(given, Answers)
    assert given.answers[0].text == "the blue one"


async def test_a_prompt_is_refused_in_words_while_an_approval_is_open(
    sessions: Sessions, agents: Agents
) -> None:
    agents.add(ScriptedRuntime([ask(APPROVE, in_stream=False)], capabilities=RESUME))
    turn = await asked(sessions)

    with pytest.raises(Conflict, match="approval"):
        await sessions.prompt(ME, "helper", NewPrompt(text="x"), session_id=turn.session_id)


async def test_the_turn_goes_on_when_the_last_of_two_questions_is_answered(
    sessions: Sessions, agents: Agents
) -> None:
    both = [*ask(APPROVE, in_stream=False)[:-1], *ask(INPUT, in_stream=False)[1:]]
    runtime = ScriptedRuntime([both, say("ok")], capabilities=RESUME)
    agents.add(runtime)
    turn = await asked(sessions)
    first, second = await sessions.questions(LOCAL)

    await sessions.answer(LOCAL, first.id, NewAnswer(decision="allow"), by="person")
    assert len(runtime.starts) == 1
    await sessions.answer(LOCAL, second.id, NewAnswer(text="blue"), by="person")
    done = await sessions.wait(LOCAL, turn.session_id, turn.id, timeout=DEADLINE)

    assert done.outcome == "completed"
    given = runtime.starts[1].input
    assert isinstance(given, Answers)
    assert {answer.question_id for answer in given.answers} == {"q1", "q2"}


async def test_what_is_no_answer_is_refused_and_the_question_stays_open(
    sessions: Sessions, agents: Agents
) -> None:
    choice = replace(INPUT, options=("red", "blue"))
    agents.add(ScriptedRuntime([ask(choice, in_stream=False)], capabilities=RESUME))
    await asked(sessions)
    (question,) = await sessions.questions(LOCAL)

    with pytest.raises(Invalid, match="red, blue"):
        await sessions.answer(LOCAL, question.id, NewAnswer(option="green"), by="model")
    with pytest.raises(Invalid, match="not for a decision"):
        await sessions.answer(LOCAL, question.id, NewAnswer(decision="allow"), by="model")
    assert len(await sessions.questions(LOCAL)) == 1


async def test_a_question_is_answered_once(sessions: Sessions, agents: Agents) -> None:
    runtime = ScriptedRuntime([ask(APPROVE, in_stream=True)])
    agents.add(runtime)
    await asked(sessions)
    (question,) = await sessions.questions(LOCAL)
    await sessions.answer(LOCAL, question.id, NewAnswer(decision="allow"), by="person")

    with pytest.raises(Conflict):
        await sessions.answer(LOCAL, question.id, NewAnswer(decision="deny"), by="person")


async def test_cancelling_a_waiting_turn_closes_its_questions(
    sessions: Sessions, agents: Agents
) -> None:
    agents.add(ScriptedRuntime([ask(APPROVE, in_stream=False)], capabilities=RESUME))
    turn = await asked(sessions)

    session = await sessions.cancel(LOCAL, turn.session_id)

    assert session.status == "idle"
    assert (await sessions.turn(LOCAL, turn.session_id, turn.id)).outcome == "cancelled"
    assert await sessions.questions(LOCAL) == []


async def test_an_unanswered_question_expires_and_ends_its_turn(
    house: House, agents: Agents
) -> None:
    agents.add(ScriptedRuntime([ask(APPROVE, in_stream=False)], capabilities=RESUME))
    limits = SessionLimits(question_ttl=0.05, cancel_wait=1.0)
    async with house.server(agents, limits) as sessions:
        turn = await asked(sessions)

        async def ended() -> bool:
            return (await sessions.turn(LOCAL, turn.session_id, turn.id)).ended

        assert await eventually(ended, DEADLINE)
        assert (await sessions.turn(LOCAL, turn.session_id, turn.id)).outcome == "expired"
        (question,) = await sessions.questions(LOCAL, status=None)
        assert question.status == "expired"


async def test_another_server_answers_a_question_of_an_open_stream(
    house: House, agents: Agents
) -> None:
    runtime = ScriptedRuntime([ask(APPROVE, in_stream=True)])
    agents.add(runtime)
    async with house.server(agents) as first, house.server(agents) as second:
        turn = await asked(first)
        (question,) = await second.questions(LOCAL)

        await second.answer(LOCAL, question.id, NewAnswer(decision="allow"), by="person")
        done = await second.wait(LOCAL, turn.session_id, turn.id, timeout=DEADLINE)

    assert done.outcome == "completed"
    assert [answer.decision for answer in runtime.answers] == ["allow"]


async def test_another_server_cancels_a_running_turn(house: House, agents: Agents) -> None:
    runtime = ScriptedRuntime([[*say("one", outcome=False), Gate("never")]])
    agents.add(runtime)
    async with house.server(agents) as first, house.server(agents) as second:
        accepted = await first.prompt(ME, "helper", NewPrompt(text="go"))
        with anyio.fail_after(DEADLINE):
            await runtime.reached("never")

        session = await second.cancel(LOCAL, accepted.session.id)

        turn = await first.turn(LOCAL, accepted.session.id, accepted.turn.id)
    assert session.status == "idle"
    assert turn.outcome == "cancelled"
    assert len(runtime.cancels) == 1


async def test_a_runtime_that_does_not_take_an_answer_leaves_the_question_open(
    sessions: Sessions, agents: Agents
) -> None:
    from lap_runtimes.errors import Unavailable as Unreachable

    from lap_mcp.errors import Unavailable

    class Refusing(ScriptedRuntime):
        async def answer(self, ref: object, answer: object) -> None:
            raise Unreachable("connection reset")

    agents.add(
        Refusing([[*ask(APPROVE, in_stream=True)[:2], Gate("x"), Done(outcome="completed")]])
    )
    await asked(sessions)
    (question,) = await sessions.questions(LOCAL)

    with pytest.raises(Unavailable, match="connection reset"):
        await sessions.answer(LOCAL, question.id, NewAnswer(decision="allow"), by="person")

    assert [q.status for q in await sessions.questions(LOCAL)] == ["open"]
