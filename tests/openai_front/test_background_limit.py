"""A background response that writes without measure: its pieces are dropped, never its end."""

from __future__ import annotations

from typing import Any

import pytest

from lap_mcp.openai_front import background

pytestmark = pytest.mark.anyio


async def test_beyond_the_limit_pieces_go_and_items_and_the_end_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "MAX_EVENTS", 3)
    nothing: Any = None
    work = background._Work("me", nothing, nothing)
    pieces = [{"type": "response.output_text.delta", "delta": "x"} for _ in range(5)]
    whole = {"type": "response.output_text.done", "text": "xxxxx"}
    for event in (*pieces, whole, {"type": "response.completed"}):
        await work.event(event)
    assert work.events == [*pieces[:3], whole, {"type": "response.completed"}]
