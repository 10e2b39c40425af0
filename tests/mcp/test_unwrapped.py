"""What fails inside a task group of ours comes out as itself: groups mean nothing to a client."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from lap_mcp.errors import Conflict, StoreError
from lap_mcp.mcp_server import long_turn
from lap_mcp.mcp_server.tasks import TaskRecord
from lap_mcp.mcp_server.turn_task import TurnBody

pytestmark = pytest.mark.anyio


async def test_what_ends_the_wait_for_an_answer_is_raised_itself() -> None:
    async def broken() -> None:
        raise StoreError("full")

    task = TaskRecord(id="t", owner="me", body=None)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="full"):
        await task.ask({"q": None}, until=broken)  # type: ignore[dict-item]
    assert task.pending == {}


async def test_a_store_that_fails_once_does_not_end_a_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0

    async def questions() -> list[str]:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise StoreError("locked")
        return ["open"] if looks == 2 else []

    monkeypatch.setattr("lap_mcp.mcp_server.turn_task._LOOK", 0.0)
    body: Any = SimpleNamespace(_held=SimpleNamespace(questions=questions))
    body._still_open = lambda: TurnBody._still_open(body)
    with anyio.fail_after(30):
        await TurnBody._settled(body)
    assert looks == 3


async def test_a_failed_wait_is_told_in_its_own_words_where_progress_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def told(held: object, progress: object) -> None:
        await anyio.sleep_forever()

    async def refused(call: object, held: object, wait: float) -> None:
        raise Conflict("Somebody else answered.")

    monkeypatch.setattr(long_turn, "_report", told)
    monkeypatch.setattr(long_turn, "_hold", refused)
    call: Any = SimpleNamespace(progress=None)
    with pytest.raises(Conflict, match="Somebody else"):
        await long_turn._told(call, None, 1.0)  # type: ignore[arg-type]
