"""A caller that goes away in the middle of a request leaves nothing half done or behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest
from lap_runtimes.base import Answer, Question, Ref, Started
from lap_runtimes.testing import EVERYTHING, Gate, ScriptedRuntime, ask, say
from sqlalchemy import Connection

from lap_mcp.control.polling import eventually, until
from lap_mcp.control.services import NewAnswer, NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.errors import Conflict
from lap_mcp.model import LOCAL, Turn
from lap_mcp.store import leases

from .conftest import DEADLINE, ME, Agents, House
from .engine_view import engine_of, runners_of

pytestmark = pytest.mark.anyio

APPROVE = Question(id="q1", kind="approval", text="Delete it?", tool="rm")


class SlowStore:
    """The store, with a pause right after a chosen transaction has been committed."""

    def __init__(self, sessions: Sessions) -> None:
        self.engine = engine_of(sessions)
        self.inner = self.engine.database
        self.committed = anyio.Event()
        self.go_on = anyio.Event()
        self.countdown = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def write(self, query: Callable[[Connection], Any], *, quick: bool = False) -> Any:
        found = await self.inner.write(query, quick=quick)
        self.countdown -= 1
        if self.countdown == 0:
            self.committed.set()
            await self.go_on.wait()
        return found


def slow_after(sessions: Sessions, writes: int) -> SlowStore:
    store = SlowStore(sessions)
    store.countdown = writes
    object.__setattr__(store.engine, "database", store)
    return store


async def cut_off(store: SlowStore, call: Callable[[], Awaitable[object]]) -> None:
    """Cancel the call while its transaction is committed and it does not know."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        with anyio.fail_after(DEADLINE):
            await store.committed.wait()
        tasks.cancel_scope.cancel()
    store.go_on.set()


async def ended(sessions: Sessions, turn: Turn) -> Turn:
    return await sessions.wait(LOCAL, turn.session_id, turn.id, timeout=DEADLINE)


async def completed(sessions: Sessions, turn: Turn) -> bool:
    return (await ended(sessions, turn)).outcome == "completed"


async def stopped(sessions: Sessions) -> Turn:
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
    return await ended(sessions, accepted.turn)


async def test_a_prompt_whose_caller_goes_away_is_driven_all_the_same(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = ScriptedRuntime([say("done")])
    agents.add(runtime)
    store = slow_after(sessions, 1)

    await cut_off(store, lambda: sessions.prompt(ME, "helper", NewPrompt(text="go")))
    (session,) = await sessions.list(LOCAL)
    (turn,) = await sessions.turns(LOCAL, session.id)

    assert (await ended(sessions, turn)).outcome == "completed"
    assert len(runtime.starts) == 1


async def test_an_answer_whose_caller_goes_away_lets_the_turn_go_on(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = ScriptedRuntime(
        [ask(APPROVE, in_stream=False), say("done")],
        capabilities=replace(EVERYTHING, answer="resume"),
    )
    agents.add(runtime)
    turn = await stopped(sessions)
    (question,) = await sessions.questions(LOCAL)
    store = slow_after(sessions, 1)

    await cut_off(
        store,
        lambda: sessions.answer(LOCAL, question.id, NewAnswer(decision="allow"), by="person"),
    )

    assert await eventually(lambda: completed(sessions, turn), DEADLINE)
    assert len(runtime.starts) == 2


async def test_an_answer_that_a_runtime_has_taken_is_stored_though_its_caller_goes_away(
    sessions: Sessions, agents: Agents
) -> None:
    taken, go_on = anyio.Event(), anyio.Event()

    class Slow(ScriptedRuntime):
        async def answer(self, ref: Ref, answer: Answer) -> None:
            await super().answer(ref, answer)
            taken.set()
            await go_on.wait()

    agents.add(Slow([ask(APPROVE, in_stream=True)]))
    turn = await stopped(sessions)
    (question,) = await sessions.questions(LOCAL)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            lambda: sessions.answer(LOCAL, question.id, NewAnswer(decision="allow"), by="person")
        )
        with anyio.fail_after(DEADLINE):
            await taken.wait()
        tasks.cancel_scope.cancel()
    go_on.set()

    assert await eventually(lambda: completed(sessions, turn), DEADLINE)
    (question,) = await sessions.questions(LOCAL, status=None)
    assert (question.status, question.answered_by) == ("answered", "person")


async def test_a_cancel_whose_caller_goes_away_ends_the_turn(
    sessions: Sessions, agents: Agents
) -> None:
    asked, go_on = anyio.Event(), anyio.Event()

    class Slow(ScriptedRuntime):
        async def cancel(self, ref: Ref) -> None:
            asked.set()
            await go_on.wait()

    runtime = Slow([[*say("one", outcome=False), Gate("never")]])
    agents.add(runtime)
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
    with anyio.fail_after(DEADLINE):
        await runtime.reached("never")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: sessions.cancel(LOCAL, accepted.session.id))
        with anyio.fail_after(DEADLINE):
            await asked.wait()
        tasks.cancel_scope.cancel()
    go_on.set()

    assert (await ended(sessions, accepted.turn)).outcome == "cancelled"
    assert await until(lambda: not runtime.readers and not len(runners_of(sessions)), DEADLINE)
    assert len(engine_of(sessions).hub) == 0


async def test_two_answers_at_once_reach_the_runtime_once(
    sessions: Sessions, agents: Agents
) -> None:
    heard: list[str | None] = []
    both = anyio.Event()

    class Lenient(ScriptedRuntime):
        """Takes whatever it is told, as an HTTP endpoint does."""

        async def answer(self, ref: Ref, answer: Answer) -> None:
            heard.append(answer.decision)
            await both.wait()
            if len(heard) == 1:
                await super().answer(ref, answer)

    agents.add(Lenient([ask(APPROVE, in_stream=True)]))
    turn = await stopped(sessions)
    (question,) = await sessions.questions(LOCAL)
    refused: list[Exception] = []

    async def answer(decision: Any) -> None:
        try:
            await sessions.answer(LOCAL, question.id, NewAnswer(decision=decision), by="person")
        except Conflict as error:
            refused.append(error)

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer, "allow")
            tasks.start_soon(answer, "deny")
            assert await until(lambda: bool(heard), DEADLINE)
            both.set()

    assert len(heard) == 1
    assert len(refused) == 1
    assert (await ended(sessions, turn)).outcome == "completed"


async def test_a_lease_that_nothing_drives_runs_out(house: House, agents: Agents) -> None:
    """A driver's task that breaks must not leave a lease that is renewed for ever."""
    runtime = ScriptedRuntime([[Gate("never")], [Gate("also never")]])
    agents.add(runtime)
    async with house.server(agents) as sessions:
        one = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
        two = await sessions.prompt(ME, "helper", NewPrompt(text="b"))
        runners_of(sessions)._runners.pop(two.session.id)
        engine = engine_of(sessions)
        later = engine.clock.now() + 1000

        held = await engine.database.write(
            lambda c: leases.renew(c, engine.owner, list(runners_of(sessions)._runners), later)
        )

        assert list(held) == [one.session.id]


async def test_many_cancelled_sessions_leave_nothing_behind(
    sessions: Sessions, agents: Agents
) -> None:
    runtime = ScriptedRuntime(lambda turn: [Started(), Gate("never")])
    agents.add(runtime)

    async def one() -> None:
        accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
        await sessions.cancel(LOCAL, accepted.session.id)

    before = len(anyio.get_running_tasks())
    for _ in range(6):
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(one)

    assert await until(lambda: not runtime.readers and not len(runners_of(sessions)), DEADLINE)
    assert await until(lambda: len(anyio.get_running_tasks()) <= before, DEADLINE)
    assert len(engine_of(sessions).hub) == 0
    assert not await sessions.list(LOCAL, status="running")
