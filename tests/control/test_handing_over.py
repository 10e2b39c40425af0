"""Hand-over: what the new agent is told, what both sessions say of it, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from lap_runtimes.base import File
from lap_runtimes.script import Step
from lap_runtimes.testing import Gate, ScriptedRuntime
from lap_runtimes.testing import say as scripted_say

from lap_mcp.control.handing_over import HEAD, TAIL
from lap_mcp.control.services import FileInput, NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.errors import Conflict, Invalid, LimitReached, NotFound
from lap_mcp.model import LOCAL, Origin, Principal, StoredEvent

from .conftest import DEADLINE, ME, Agents, House

pytestmark = pytest.mark.anyio
SOMEBODY = Origin(principal=Principal(id="key:somebody", kind="key"))


def say(text: str) -> list[Step]:
    return scripted_say(text, message_id="m1")


def town(agents: Agents, *first: Sequence[Step]) -> tuple[ScriptedRuntime, ScriptedRuntime]:
    one, two = ScriptedRuntime(list(first)), ScriptedRuntime([say("I go on")] * 4)
    agents.add(one, "first")
    agents.add(two, "second")
    return one, two


async def turn(
    sessions: Sessions, agent: str, prompt: NewPrompt, session: str | None = None
) -> str:
    """One turn, to its end; the session's id."""
    accepted = await sessions.prompt(ME, agent, prompt, session_id=session)
    await sessions.wait(LOCAL, accepted.session.id, accepted.turn.id, timeout=DEADLINE)
    return accepted.session.id


def told(runtime: ScriptedRuntime) -> str:
    """What the runtime was sent last."""
    return str(runtime.starts[-1].input.text)  # type: ignore[union-attr]


async def test_the_new_agent_gets_the_transcript_as_data_and_both_sessions_say_so(
    sessions: Sessions, agents: Agents
) -> None:
    _, two = town(agents, say("The cause is the clock."))
    source = await turn(sessions, "first", NewPrompt(text="Why does it fail?"))
    new = await turn(sessions, "second", NewPrompt(text="Mend it.", from_session=source))

    text = told(two)
    assert text.startswith("Mend it.\n")
    mark = text.rsplit(" ", 1)[1]
    assert text.endswith(f"\nend {mark}")
    inside = text.split(f"begin {mark}\n")[1].split(f"\nend {mark}")[0]
    assert inside == "[user]\nWhy does it fail?\n\n[agent]\nThe cause is the clock."
    assert "not instructions" in text.split(f"begin {mark}")[0]
    (opening, *_) = await sessions.events(LOCAL, new)
    assert opening.payload["from_session"] == {"session": source, "agent": "first"}
    events = await sessions.events(LOCAL, source)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].type == "session.handed_over"
    assert events[-1].payload == {"session": new, "agent": "second"}
    assert (await sessions.get(LOCAL, new)).title.startswith("Mend it.")


async def test_the_session_that_was_handed_over_can_be_continued_and_handed_over_again(
    sessions: Sessions, agents: Agents
) -> None:
    town(agents, say("one"), say("two"))
    source = await turn(sessions, "first", NewPrompt(text="a"))
    await turn(sessions, "second", NewPrompt(text="b", from_session=source))
    assert await turn(sessions, "first", NewPrompt(text="c"), source) == source
    await turn(sessions, "second", NewPrompt(text="d", from_session=source))
    events = await sessions.events(LOCAL, source)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.type for event in events].count("session.handed_over") == 2
    assert [turn.outcome for turn in await sessions.turns(LOCAL, source)] == ["completed"] * 2


async def test_foreign_and_missing_sessions_look_alike_and_nothing_begins(
    sessions: Sessions, agents: Agents
) -> None:
    _, two = town(agents, say("secret"))
    source = await turn(sessions, "first", NewPrompt(text="a"))
    missing = "ses_" + "0" * 32
    words = []
    for session in (source, missing):
        with pytest.raises(NotFound) as refused:
            await sessions.prompt(SOMEBODY, "second", NewPrompt(text="b", from_session=session))
        words.append(str(refused.value).replace(session, "X"))
    assert words[0] == words[1]
    assert not two.starts
    assert await sessions.list(SOMEBODY.principal) == []
    assert (await sessions.events(LOCAL, source))[-1].type != "session.handed_over"


async def test_a_session_that_is_being_worked_on_is_not_handed_over(
    sessions: Sessions, agents: Agents
) -> None:
    one, two = town(agents, [Gate("go"), *say("at last")])
    accepted = await sessions.prompt(ME, "first", NewPrompt(text="a"))
    source = accepted.session.id
    with pytest.raises(Conflict, match="running"):
        await sessions.prompt(ME, "second", NewPrompt(text="b", from_session=source))
    one.release("go")
    await sessions.wait(LOCAL, source, accepted.turn.id, timeout=DEADLINE)
    await turn(sessions, "second", NewPrompt(text="b", from_session=source))
    assert "at last" in told(two)


async def test_a_hand_over_begins_a_session_and_goes_into_none(
    sessions: Sessions, agents: Agents
) -> None:
    town(agents, say("x"))
    source = await turn(sessions, "first", NewPrompt(text="a"))
    other = await turn(sessions, "second", NewPrompt(text="b"))
    prompt = NewPrompt(text="c", from_session=source)
    with pytest.raises(Invalid, match="new session"):
        await sessions.prompt(ME, "second", prompt, session_id=other)


async def test_a_refused_hand_over_leaves_no_trace_in_its_source(
    house: House, agents: Agents
) -> None:
    from lap_mcp.control.engine import SessionLimits

    one, two = ScriptedRuntime([say("x")]), ScriptedRuntime([[Gate("go"), *say("y")]])
    agents.add(one, "first")
    agents.add(two, "second")
    limits = SessionLimits(running_turns=1, cancel_wait=2.0)
    async with house.server(agents, limits) as sessions:
        source = await turn(sessions, "first", NewPrompt(text="a"))
        await sessions.prompt(ME, "second", NewPrompt(text="hold"))
        with pytest.raises(LimitReached):
            await sessions.prompt(ME, "second", NewPrompt(text="b", from_session=source))
        assert (await sessions.events(LOCAL, source))[-1].type == "session.status_idle"
        two.release("go")


async def test_files_go_along_only_if_they_are_listed(sessions: Sessions, agents: Agents) -> None:
    made = File(file_id="f", name="notes.txt", media_type="text/plain", data=b"n")
    _, two = town(agents, [made, *say("made")])
    source = await turn(sessions, "first", NewPrompt(text="a"))
    await turn(sessions, "second", NewPrompt(text="b", from_session=source))
    assert two.starts[-1].input.files == []  # type: ignore[union-attr]
    listed = FileInput(uri=f"lap://sessions/{source}/files/notes.txt")
    await turn(sessions, "second", NewPrompt(text="b", from_session=source, files=[listed]))
    (given,) = two.starts[-1].input.files  # type: ignore[union-attr]
    assert (given.name, await given.read()) == ("notes.txt", b"n")


async def test_of_a_long_transcript_head_and_tail_are_kept(
    sessions: Sessions, agents: Agents
) -> None:
    said = [f"{number:02} {'word ' * 900}" for number in range(20)]
    _, two = town(agents, *(say(text) for text in said))
    source: str | None = None
    for number in range(20):
        source = await turn(sessions, "first", NewPrompt(text=f"ask {number:02}"), source)
    await turn(sessions, "second", NewPrompt(text="b", from_session=source or ""))
    text = told(two)
    assert len(text) < HEAD + TAIL + 1000
    assert "messages left out here" in text
    assert "ask 00" in text
    assert "19 word" in text
    assert "10 word" not in text


async def test_what_was_said_cannot_steer_by_unseen_characters(
    sessions: Sessions, agents: Agents
) -> None:
    _, two = town(agents, say("fine\u202e\u200b\U000e0041\x1b[2J"))
    source = await turn(sessions, "first", NewPrompt(text="a"))
    await turn(sessions, "second", NewPrompt(text="b", from_session=source))
    assert "[agent]\nfine\nend" in told(two)


async def test_a_follower_of_the_source_sees_it(sessions: Sessions, agents: Agents) -> None:
    town(agents, say("x"))
    source = await turn(sessions, "first", NewPrompt(text="a"))
    with anyio.fail_after(DEADLINE):
        async with sessions.follow(LOCAL, source) as items:
            await turn(sessions, "second", NewPrompt(text="b", from_session=source))
            async for item in items:
                if isinstance(item, StoredEvent) and item.type == "session.handed_over":
                    break
