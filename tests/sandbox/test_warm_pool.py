"""The warm pool's keeping full, with containers that cost nothing: no engine is needed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from lap_sandbox.errors import LauncherUnavailable
from lap_sandbox.tasks import Tasks
from lap_sandbox.waiting import Signal
from lap_sandbox.warm_pool import WarmPool

from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio


@dataclass(eq=False)
class Made:
    """What a container is to the pool."""

    born: float = field(default_factory=time.monotonic)
    alive: bool = True

    async def remove(self) -> None:
        self.alive = False


class Starter:
    """Makes them; `broken` says how often that fails first."""

    def __init__(self, broken: int = 0) -> None:
        self.broken = broken
        self.made: list[Made] = []
        self.tried = 0

    async def __call__(self) -> Made:
        # Decided as it is counted: a test that sees the count may change `broken` for the next.
        self.tried += 1
        fails = self.broken > 0
        self.broken -= fails
        await anyio.lowlevel.checkpoint()
        if fails:
            raise LauncherUnavailable("the engine is busy")
        self.made.append(Made())
        return self.made[-1]


Make = Callable[..., WarmPool[Made]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    tasks = Tasks()
    yield partial(WarmPool, tasks, age=3600.0)
    await tasks.aclose()


async def _take(pool: WarmPool[Made]) -> Made | None:
    async def well(made: Made) -> bool:
        return made.alive

    return await pool.take(lambda made: True, well)


def _is(pool: WarmPool[Made], count: int) -> Awaitable[None]:
    """Well before the pool is looked at by itself, which is what is not to be waited for."""
    return eventually_async(lambda: len(pool) == count, within=20)


async def test_what_is_taken_is_replaced_at_whatever_moment_of_the_refilling_it_is_taken(
    make: Make,
) -> None:
    """One turn of the loop later in each round: also while the pool makes sure that it is full.
    Nothing but the taking makes it look."""
    pool = make(Starter(), size=1)
    pool.refill()
    for turns in range(60):
        with anyio.fail_after(20):
            while not len(pool):
                await anyio.lowlevel.checkpoint()
        for _ in range(turns % 20):
            await anyio.lowlevel.checkpoint()
        assert await _take(pool) is not None
        pool.refill()
    await _is(pool, 1)


async def test_a_start_that_fails_is_tried_again_soon(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    starter = Starter(broken=3)
    pool = make(starter, size=2)
    pool.refill()
    await _is(pool, 2)
    assert starter.tried == 5
    assert caplog.text.count("no warm sandbox: the engine is busy") == 1


async def test_an_engine_that_is_down_is_not_asked_again_and_again_but_at_once_when_there_is_news(
    make: Make,
) -> None:
    starter = Starter(broken=1_000_000)
    pool = make(starter, size=1)
    pool.refill()
    await eventually_async(lambda: starter.tried == 3, within=20)
    starter.broken = 0
    pool.refill()
    await _is(pool, 1)
    assert starter.tried == 4


async def test_no_start_competes_with_the_first_answer_of_the_one_just_taken(make: Make) -> None:
    starter, answered = Starter(), Signal()
    pool = make(starter, size=1)
    pool.refill(answered)
    for _ in range(20):
        await anyio.lowlevel.checkpoint()
    assert starter.tried == 0
    answered.set()
    await _is(pool, 1)


async def test_the_dead_and_the_old_are_replaced_without_anybody_taking_one(make: Make) -> None:
    starter = Starter()
    pool = make(starter, size=1, age=0.2)
    pool.begin()
    await eventually_async(lambda: len(starter.made) >= 3, within=20)
    await eventually_async(lambda: not starter.made[0].alive, within=20)


async def test_one_that_is_not_well_is_removed_and_a_cancelled_taker_gives_back(make: Make) -> None:
    starter = Starter()
    pool = make(starter, size=1)
    pool.refill()
    await _is(pool, 1)

    async def hang(made: Made) -> bool:
        await anyio.sleep_forever()
        return True

    with anyio.move_on_after(0):
        await pool.take(lambda made: True, hang)
    assert pool.all() == starter.made

    async def ill(made: Made) -> bool:
        return False

    assert await pool.take(lambda made: True, ill) is None
    await eventually_async(lambda: not starter.made[0].alive, within=20)
    await pool.aclose()
    assert pool.all() == []
