"""Services are opened once, at the first need, and closed by the task that opened them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from lap_mcp.app import Running
from lap_mcp.errors import StoreError, Unavailable
from lap_mcp.hosting import ServiceOwner, owned
from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio


class Opening:
    """Counts; fails as often as a test wants, before or after the services are open."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.opened = self.closed = 0
        self.task = 0
        self.breaks = anyio.Event()

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Running]:
        await anyio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        self.task = anyio.get_current_task().id
        self.opened += 1
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._break)
                yield cast(Running, type("Fake", (), {"services": f"services {self.opened}"})())
                tasks.cancel_scope.cancel()
        finally:
            assert anyio.get_current_task().id == self.task
            self.closed += 1

    async def _break(self) -> None:
        await self.breaks.wait()
        raise RuntimeError("a bug")


async def test_many_who_ask_get_the_same_services(anyio_backend: str) -> None:
    opening = Opening()
    found: list[Any] = []

    async def ask(owner: ServiceOwner) -> None:
        found.append(await owner.services())

    async with owned(opening) as owner:
        assert opening.opened == 0
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask, owner)
    assert found == ["services 1"] * 5
    assert (opening.opened, opening.closed) == (1, 1)


async def test_never_asked_nothing_is_opened() -> None:
    opening = Opening()
    async with owned(opening):
        pass
    assert (opening.opened, opening.closed) == (0, 0)


async def test_a_failure_is_told_in_words_and_the_next_one_who_asks_tries_again() -> None:
    opening = Opening(StoreError("disk full"), ValueError("a bug"))
    async with owned(opening) as owner:
        with pytest.raises(StoreError, match="disk full"):
            await owner.services()
        with pytest.raises(Unavailable, match="log on stderr"):
            await owner.services()
        assert cast(Any, await owner.services()) == "services 1"


async def test_services_that_break_are_opened_again() -> None:
    opening = Opening()
    async with owned(opening) as owner:
        await owner.services()
        opening.breaks.set()
        await eventually_async(lambda: opening.closed)
        opening.breaks = anyio.Event()
        assert cast(Any, await owner.services()) == "services 2"


async def test_who_asks_while_it_ends_is_told() -> None:
    opening = Opening()
    async with owned(opening) as owner:
        await owner.services()
    with pytest.raises(Unavailable, match="stopping"):
        await owner.services()
