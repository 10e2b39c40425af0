"""Local programs that call our server: each turn has a program of its own, with the turn's key."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest
from lap_runtimes.acp import ACPRuntime
from lap_runtimes.base import Answer, Asked, Done, Message, MessageDelta, Progress, Turn
from lap_runtimes.errors import Unsupported
from lap_runtimes.mcp_config import MCPConfig

from tests.runtimes import case_acp, case_mcp
from tests.runtimes.bench import Bench
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.programs import Processes, ProgramCase
from tests.runtimes.reading import done, last_ref, read, texts, until

pytestmark = pytest.mark.anyio

SECONDS = 60
PROGRAMS = [
    case
    for case in (*case_acp.CASES, *case_mcp.CASES)
    if isinstance(case, ProgramCase) and not case.settings.get("tasks")
]


@pytest.fixture(params=PROGRAMS, ids=lambda case: case.id)
def case(request: pytest.FixtureRequest) -> ProgramCase:
    found: ProgramCase = request.param
    settings = {**found.settings, "env": {"LAP_KEY": "Bearer ${nested}"}}
    return replace(found, settings=settings)


@asynccontextmanager
async def nesting(case: ProgramCase) -> AsyncIterator[tuple[Bench, Processes]]:
    async with case.bench() as bench:
        assert isinstance(bench.proxy, Processes)
        with anyio.fail_after(SECONDS):
            yield bench, bench.proxy


def keyed(turn: Turn, agent: str = "") -> tuple[Turn, str]:
    """The turn with a maker of keys, and its key."""
    key = f"key-{secrets.token_hex(8)}"

    async def make() -> str:
        return key

    return replace(turn, nested=make), key


async def test_each_turn_has_a_program_with_its_own_key_that_ends_with_it(
    case: ProgramCase, make_turn: MakeTurn
) -> None:
    async with nesting(case) as (bench, programs):
        for _ in range(2):
            turn, key = keyed(make_turn("key"))
            events = await read(bench.runtime.start(turn))
            assert texts(events) == [f"Bearer {key}"]
            assert done(events).outcome == "completed"
            await programs.until_closed()
        assert len(programs.pids) == 2


async def test_a_session_goes_on_in_the_next_program(make_turn: MakeTurn) -> None:
    (found,) = case_acp.CASES
    case = replace(found, settings={"env": {"LAP_KEY": "${nested}"}})
    async with case.bench() as bench:
        with anyio.fail_after(SECONDS):
            turn, _ = keyed(make_turn("remember the tea"))
            ref = last_ref(await read(bench.runtime.start(turn)))
            turn, _ = keyed(make_turn("recall", ref=ref))
            events = await read(bench.runtime.start(turn))
    assert "the tea" in "\n".join(texts(events))


async def test_without_a_server_that_makes_keys_nothing_is_started(
    case: ProgramCase, make_turn: MakeTurn
) -> None:
    async with nesting(case) as (bench, programs):
        with pytest.raises(Unsupported, match="nested"):
            await read(bench.runtime.start(make_turn("key")))
        assert programs.pids == []
        assert await bench.runtime.check()
        assert await bench.runtime.agents()


async def test_an_answer_and_a_cancel_reach_the_program_of_their_turn(
    case: ProgramCase, make_turn: MakeTurn
) -> None:
    async with nesting(case) as (bench, programs):
        asking, _ = keyed(make_turn(str(case.ask)))
        async with bench.runtime.start(asking) as events:
            seen = await until(events, Asked)
            (question,) = [event.question for event in seen if isinstance(event, Asked)]
            answer = Answer(question_id=question.id, decision="allow", data={"color": "red"})
            if question.kind != "approval":
                answer = replace(answer, decision=None)
            await bench.runtime.answer(last_ref(seen), answer)
            rest = [event async for event in events]
        assert done(rest).outcome == "completed"

        slow, _ = keyed(make_turn("slow 2000"))
        async with bench.runtime.start(slow) as events:
            seen = [await anext(events)]
            while not isinstance(seen[-1], MessageDelta | Progress | Message):
                seen.append(await anext(events))
            await bench.runtime.cancel(last_ref(seen))
            rest = [event async for event in events]
        assert isinstance(rest[-1], Done)
        assert rest[-1].outcome == "cancelled"
        await programs.until_closed()


def test_tasks_that_outlive_their_turn_get_no_key_of_it() -> None:
    with pytest.raises(ValueError, match="outlives"):
        MCPConfig(command=("x",), env={"K": "${nested}"}, tasks=True)
    config = ACPRuntime.Config(command=("x",), env={"K": "a ${nested}", "L": "plain"})
    assert config.environment() == {"L": "plain"}
