"""A caller that was cut off sends its prompt again: it finds its turn, whatever became of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lap_runtimes.base import Question, Started
from lap_runtimes.testing import EVERYTHING, Gate, ScriptedRuntime, ask, say

from lap_mcp.control.services import NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.model import LOCAL

from .conftest import DEADLINE, ME, Agents

pytestmark = pytest.mark.anyio

WHICH = Question(id="q1", kind="input", text="Which colour?")
APPROVE = Question(id="q1", kind="approval", text="Delete it?", tool="rm")


async def test_a_queued_prompt_that_is_sent_again_runs_once(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = ScriptedRuntime(lambda turn: [Started(), Gate("go"), *say("ok")[1:]])
    agents.add(runtime)
    first = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
    sid = first.session.id
    queued = await sessions.prompt(ME, "helper", NewPrompt(text="b"), session_id=sid)

    again = await sessions.prompt(ME, "helper", NewPrompt(text="b"), session_id=sid)

    assert again.joined
    assert again.turn.id == queued.turn.id
    assert again.turn.outcome == "queued"
    runtime.release("go")
    await sessions.wait(LOCAL, sid, queued.turn.id, timeout=DEADLINE)
    assert [turn.input.text for turn in runtime.starts] == ["a", "b"]


@pytest.mark.parametrize("question", [WHICH, APPROVE])
async def test_a_prompt_whose_turn_asks_is_no_answer_when_it_is_sent_again(
    sessions: Sessions, agents: Agents, question: Question
) -> None:
    runtime = ScriptedRuntime(
        [ask(question, in_stream=False), say("done")],
        capabilities=replace(EVERYTHING, answer="resume"),
    )
    agents.add(runtime)
    first = await sessions.prompt(ME, "helper", NewPrompt(text="paint it"))
    sid = first.session.id
    await sessions.wait(LOCAL, sid, first.turn.id, timeout=DEADLINE)

    again = await sessions.prompt(ME, "helper", NewPrompt(text="paint it"), session_id=sid)

    assert again.joined
    assert (again.turn.id, again.turn.outcome) == (first.turn.id, "requires_action")
    assert len(runtime.starts) == 1
    assert len(await sessions.questions(LOCAL, session_id=sid)) == 1


async def test_a_prompt_that_ended_runs_again(sessions: Sessions, agents: Agents) -> None:
    runtime = ScriptedRuntime([say("one"), say("two")])
    agents.add(runtime)
    first = await sessions.prompt(ME, "helper", NewPrompt(text="go on"))
    await sessions.wait(LOCAL, first.session.id, first.turn.id, timeout=DEADLINE)

    again = await sessions.prompt(
        ME, "helper", NewPrompt(text="go on"), session_id=first.session.id
    )

    assert not again.joined
    assert again.turn.id != first.turn.id
    await sessions.wait(LOCAL, first.session.id, again.turn.id, timeout=DEADLINE)
    assert len(runtime.starts) == 2
