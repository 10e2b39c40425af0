"""How a turn ends: its end is stored before its stream is closed, and what came at once is stored
at once, without anything being lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from lap_runtimes.base import (
    Done,
    Event,
    Message,
    MessageDelta,
    Question,
    Started,
    ToolUse,
    Turn,
    together,
)
from lap_runtimes.errors import Unavailable
from lap_runtimes.script import Step
from lap_runtimes.testing import Drop, Fail, Gate, Hang, ScriptedRuntime, ask, say

from lap_mcp.control.polling import until
from lap_mcp.control.services import Accepted, NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.model import LOCAL

from .conftest import DEADLINE, ME, Agents
from .engine_view import engine_of, runners_of

pytestmark = pytest.mark.anyio


class Lingering(ScriptedRuntime):
    """A runtime whose first stream stays open for as long as a test wants, once it was read."""

    def __init__(self, script: Callable[[Turn], Sequence[Step]]) -> None:
        super().__init__(script)
        self.closing = anyio.Event()
        self.may_close = anyio.Event()

    @asynccontextmanager
    async def start(self, turn: Turn) -> AsyncIterator[AsyncIterator[Event]]:
        try:
            async with super().start(turn) as events:
                yield events
        finally:
            if len(self.starts) == 1:
                self.closing.set()
                await self.may_close.wait()


def echo(turn: Turn) -> Sequence[Step]:
    return list(say(turn.input.text))  # type: ignore[union-attr]


async def prompted(
    sessions: Sessions, text: str = "one", session_id: str | None = None
) -> Accepted:
    return await sessions.prompt(ME, "helper", NewPrompt(text=text), session_id=session_id)


async def outcome(sessions: Sessions, accepted: Accepted) -> str:
    turn = accepted.turn
    found = await sessions.wait(LOCAL, turn.session_id, turn.id, timeout=DEADLINE)
    return found.outcome


async def lingering(sessions: Sessions, agents: Agents) -> tuple[Lingering, Accepted]:
    """A turn that has ended, and whose stream is still open."""
    runtime = Lingering(echo)
    agents.add(runtime)
    first = await prompted(sessions)
    assert await outcome(sessions, first) == "completed"
    with anyio.fail_after(DEADLINE):
        await runtime.closing.wait()
    return runtime, first


async def test_an_answer_does_not_wait_for_its_stream_to_close(
    sessions: Sessions, agents: Agents
) -> None:
    runtime, first = await lingering(sessions, agents)

    turn = first.turn
    assert (await sessions.content(LOCAL, turn.session_id, turn.id)).text == "one"
    assert (await sessions.get(LOCAL, turn.session_id)).status == "idle"
    runtime.may_close.set()


async def test_a_session_has_one_stream_at_a_time(sessions: Sessions, agents: Agents) -> None:
    """What a person sends on seeing the answer waits for the stream of the turn before."""
    runtime, first = await lingering(sessions, agents)

    second = await prompted(sessions, "two", first.session.id)
    assert second.turn.outcome == "running"
    await anyio.wait_all_tasks_blocked()
    assert len(runtime.starts) == 1
    runtime.may_close.set()

    assert await outcome(sessions, second) == "completed"
    assert len(runtime.starts) == 2


async def test_a_turn_that_waits_for_the_stream_before_it_can_be_cancelled(
    sessions: Sessions, agents: Agents
) -> None:
    runtime, first = await lingering(sessions, agents)
    second = await prompted(sessions, "two", first.session.id)

    await sessions.cancel(LOCAL, first.session.id)

    assert await outcome(sessions, second) == "cancelled"
    assert len(runtime.starts) == 1
    assert await outcome(sessions, first) == "completed"


async def test_a_cancel_after_the_end_means_the_turn_that_was_queued(
    sessions: Sessions, agents: Agents
) -> None:
    """It runs in the store, while the stream of the turn before it is still open."""
    runtime = Lingering(lambda turn: [Gate("go"), *echo(turn)])
    agents.add(runtime)
    first = await prompted(sessions)
    second = await prompted(sessions, "two", first.session.id)
    assert second.turn.outcome == "queued"
    runtime.release("go")
    assert await outcome(sessions, first) == "completed"
    with anyio.fail_after(DEADLINE):
        await runtime.closing.wait()

    await sessions.cancel(LOCAL, first.session.id)

    assert await outcome(sessions, second) == "cancelled"
    assert len(runtime.starts) == 1
    events = await sessions.events(LOCAL, first.session.id)
    assert [e.turn_id for e in events if e.type == "user.interrupt"] == [second.turn.id]


async def test_a_server_that_stops_does_not_wait_for_a_stream_that_stays_open(
    sessions: Sessions, agents: Agents
) -> None:
    _, first = await lingering(sessions, agents)
    runners = runners_of(sessions)

    with anyio.fail_after(DEADLINE):
        await runners.leave()

    assert len(runners) == 0
    turn = await sessions.turn(LOCAL, first.session.id, first.turn.id)
    assert turn.outcome == "completed"


# What came at once ---------------------------------------------------------------------------


class Writes:
    """Counts the transactions of an engine's store."""

    def __init__(self, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
        database = engine_of(sessions).database
        write = database.write
        self.count = 0

        async def counted(*args: Any, **options: Any) -> Any:
            self.count += 1
            return await write(*args, **options)

        monkeypatch.setattr(database, "write", counted)


WHICH = Question(id="q", kind="input", text="Which?")
MESSAGES: Sequence[Event] = (
    Message(message_id="a", text="one"),
    ToolUse(tool_use_id="t", name="look"),
    Message(message_id="b", text="two", ref={"run": "7"}),
)


async def stored(sessions: Sessions, accepted: Accepted) -> list[str]:
    events = await sessions.events(LOCAL, accepted.session.id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    return [
        event.payload.get("text") or event.payload["name"]
        for event in events
        if event.type.startswith("agent.")
    ]


async def test_what_comes_at_once_is_one_transaction(
    sessions: Sessions, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes(sessions, monkeypatch)
    counts = []
    for events in ([*MESSAGES, Done(outcome="completed")], None):
        script = together([*MESSAGES, Done(outcome="completed")]) if events is None else events
        agents.add(ScriptedRuntime([[Started(), *script]]))
        before = writes.count
        accepted = await prompted(sessions)
        assert await outcome(sessions, accepted) == "completed"
        counts.append(writes.count - before)
        assert await stored(sessions, accepted) == ["one", "look", "two"]
        assert (await sessions.get(LOCAL, accepted.session.id)).ref["run"] == "7"

    assert counts[0] - counts[1] == len(MESSAGES)


@pytest.mark.parametrize(
    "then",
    [
        pytest.param([Fail(Unavailable("it broke"))], id="fails"),
        pytest.param([Drop(), Done(outcome="completed")], id="breaks off"),
        pytest.param([MessageDelta(message_id="c", text="x"), Done(outcome="failed")], id="delta"),
        pytest.param(ask(WHICH, in_stream=True), id="asks"),
        pytest.param([], id="ends without an end"),
    ],
)
async def test_what_was_to_be_stored_with_the_next_event_is_stored_whatever_comes(
    sessions: Sessions, agents: Agents, then: Sequence[Step]
) -> None:
    kept = [*together([*MESSAGES, Done(outcome="completed")])][:-1]
    agents.add(ScriptedRuntime(lambda turn: [Started(), *kept, *then]))

    accepted = await prompted(sessions)

    assert await outcome(sessions, accepted) in ("failed", "completed", "requires_action")
    assert (await stored(sessions, accepted))[:3] == ["one", "look", "two"]


async def test_a_cancel_finds_what_was_to_be_stored_with_the_next_event(
    sessions: Sessions, agents: Agents
) -> None:
    """A runtime that says that more comes at once, and hangs."""
    kept = [*together([*MESSAGES, Done(outcome="completed")])][:-1]
    agents.add(ScriptedRuntime([[Started(), *kept, Hang()]]))
    accepted = await prompted(sessions)
    runner = runners_of(sessions).find(accepted.session.id)
    assert runner is not None
    assert await until(lambda: runner.intake.ref.get("run") == "7", DEADLINE)

    await sessions.cancel(LOCAL, accepted.session.id)

    assert await outcome(sessions, accepted) == "cancelled"
    assert await stored(sessions, accepted) == ["one", "look", "two"]


async def test_the_keeper_tidies_up_while_turns_run(
    sessions: Sessions, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one write in thousands would wait for the disk, and the log of SQLite would grow."""
    tidied = anyio.Event()

    async def tidy() -> None:
        tidied.set()

    monkeypatch.setattr(engine_of(sessions).database, "tidy", tidy)
    agents.add(ScriptedRuntime([[Started(), Hang()]]))
    accepted = await prompted(sessions)

    with anyio.fail_after(DEADLINE):
        await tidied.wait()
    await sessions.cancel(LOCAL, accepted.session.id)
