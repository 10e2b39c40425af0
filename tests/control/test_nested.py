"""Agents that call agents: what a turn's credential proves, for how long, and what it refuses."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest
from lap_runtimes.base import Done, Message, MessageDelta, Question, Started, Turn
from lap_runtimes.testing import Gate, ScriptedRuntime, ask, say

from lap_mcp.control.engine import SessionLimits
from lap_mcp.control.nested import PREFIX, Nested
from lap_mcp.control.opening import EngineOptions
from lap_mcp.control.services import NewAnswer, NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.errors import Invalid
from lap_mcp.model import LOCAL, Delta, Origin, Principal, StoredEvent
from lap_mcp.scrub import Scrubber

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


class Parrot(ScriptedRuntime):
    """An agent that says its key: in pieces, in its answer, and in the words it fails with."""

    def __init__(self) -> None:
        super().__init__([[Gate("go")]])
        self.key = ""

    def start(self, turn: Turn):
        return self._speaking(turn)

    @asynccontextmanager
    async def _speaking(self, turn: Turn):
        assert turn.nested is not None
        self.key = await turn.nested()

        async def events():
            yield Started(ref={"turn": turn.id})
            await self._event(self._released, "go").wait()
            said = f"My key is {self.key}, or so."
            for start in range(0, len(said), 7):
                yield MessageDelta(message_id="m", text=said[start : start + 7])
            await self._event(self._released, "end").wait()
            yield Message(message_id="m", text=said)
            yield Done(outcome="failed", error=f"refused {self.key}")

        yield events()


async def test_the_key_of_a_turn_is_kept_out_of_what_is_shown_and_stored(
    house: House, agents: Agents
) -> None:
    parrot, shown = Parrot(), list[str]()
    agents.add(parrot, "parrot")
    async with house.server(agents, options=options()) as sessions:
        accepted = await sessions.prompt(ME, "parrot", NewPrompt(text="go"))
        sid = accepted.session.id
        with anyio.fail_after(30):
            async with sessions.follow(LOCAL, sid) as items:
                parrot.release("go")
                async for item in items:
                    if isinstance(item, Delta):
                        shown.append(item.text)
                    if "or so." in "".join(shown):
                        parrot.release("end")
                    if isinstance(item, StoredEvent) and item.type == "session.status_idle":
                        break
        turn = await sessions.turn(LOCAL, sid, accepted.turn.id)
        stored = str(await sessions.events(LOCAL, sid))
    told = "".join(shown)
    assert parrot.key.startswith(PREFIX)
    for text in (told, stored, str(turn)):
        assert "[secret]" in text
        assert PREFIX not in text
    assert "My key is [secret], or so." in told
    assert "refused [secret]" in (turn.error or "")


def test_a_key_of_a_kind_is_scrubbed_however_it_is_cut() -> None:
    scrubber = Scrubber()
    scrubber.add_kind(PREFIX)
    key = f"{PREFIX}abc-DEF_123"
    for cut in range(1, len(key)):
        assert scrubber.unsettled(f"see {key[:cut]}") == cut
    assert scrubber.unsettled(f"see {key}.") == 0
    assert scrubber.text(f"see {key}. And {key}") == "see [secret]. And [secret]"
    assert scrubber.data({key: [key]}) == {"[secret]": ["[secret]"]}
    assert scrubber.text("a lap-nest is no key") == "a lap-nest is no key"
