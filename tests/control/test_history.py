"""What a runtime that keeps no conversation is told of the turns before."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from lap_runtimes.base import Started
from lap_runtimes.testing import EVERYTHING, AwaitSteer, Gate, ScriptedRuntime, say

from lap_mcp.control import jobs
from lap_mcp.control.services import NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.model import LOCAL

from .conftest import DEADLINE, ME, Agents

pytestmark = pytest.mark.anyio

CALLER = replace(EVERYTHING, conversation="caller")


async def told(sessions: Sessions, *texts: str) -> str:
    """The session in which these were said, one turn each."""
    session: str | None = None
    for text in texts:
        accepted = await sessions.prompt(ME, "helper", NewPrompt(text=text), session_id=session)
        session = accepted.session.id
        await sessions.wait(LOCAL, session, accepted.turn.id, timeout=DEADLINE)
    assert session is not None
    return session


def history(runtime: ScriptedRuntime) -> list[tuple[str, str]]:
    """Of the newest start."""
    return [(message.role, message.text) for message in runtime.starts[-1].history or ()]


async def test_a_long_prompt_is_told_whole_later(sessions: Sessions, agents: Agents) -> None:
    runtime = ScriptedRuntime(lambda turn: say("ok"), capabilities=CALLER)
    agents.add(runtime)
    long = "".join(f"line {number}\n" for number in range(9000))

    await told(sessions, long, "and now?")

    assert len(long) > 64 * 1024
    assert history(runtime) == [("user", long), ("agent", "ok")]


async def test_of_a_long_conversation_the_newest_is_told_with_the_prompt_it_answers(
    sessions: Sessions, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_HISTORY", 3)
    runtime = ScriptedRuntime(lambda turn: say(turn.input.text.upper()), capabilities=CALLER)
    agents.add(runtime)

    await told(sessions, "a", "b", "c", "d")

    assert history(runtime) == [("user", "b"), ("agent", "B"), ("user", "c"), ("agent", "C")]


async def test_a_word_put_into_a_turn_is_told_as_it_was_said(
    sessions: Sessions, agents: Agents
) -> None:
    steered = [Started(), Gate("go"), AwaitSteer(), *say("ok")[1:]]
    runtime = ScriptedRuntime([steered, say("fine")], capabilities=CALLER)
    agents.add(runtime)
    first = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
    sid = first.session.id
    runtime.release("go")
    with anyio.fail_after(DEADLINE):
        await runtime.reached("go")
    await sessions.prompt(ME, "helper", NewPrompt(text="left", steer=True), session_id=sid)
    await sessions.wait(LOCAL, sid, first.turn.id, timeout=DEADLINE)

    second = await sessions.prompt(ME, "helper", NewPrompt(text="b"), session_id=sid)
    await sessions.wait(LOCAL, sid, second.turn.id, timeout=DEADLINE)

    assert sorted(history(runtime)) == [("agent", "ok"), ("user", "a"), ("user", "left")]
