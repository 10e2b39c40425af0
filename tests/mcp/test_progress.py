"""Progress of a call: errors go through it as they are."""

from __future__ import annotations

import pytest

from lap_mcp.errors import Unavailable
from lap_mcp.mcp_server.progress import Progress

pytestmark = pytest.mark.anyio


async def test_an_error_of_a_call_with_progress_arrives_unwrapped_after_what_was_said() -> None:
    """Every real harness asks for progress: wrapped, its words would be lost on the way."""
    told: list[str | None] = []

    async def report(step: float, total: float | None, message: str | None) -> None:
        told.append(message)

    progress = Progress(report, heartbeat=10)

    async def call() -> None:
        async with progress.running():
            progress.say("looking")
            raise Unavailable("no engine")

    with pytest.raises(Unavailable, match="no engine"):
        await call()
    assert told == ["looking"]
