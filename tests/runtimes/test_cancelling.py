"""A cancel that stopped nothing is not reported as one that did."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from lap_runtimes.base import Done, Event
from lap_runtimes.errors import Rejected

from tests.canary import canary
from tests.runtimes import cursor_server, snowflake_server
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.mcp_server import WordsServer
from tests.runtimes.serving import serving
from tests.runtimes.test_mcp import over_http
from tests.runtimes.test_n8n import CHAT
from tests.runtimes.test_n8n import server as n8n
from tests.runtimes.vendors import done, reaching, read

pytestmark = pytest.mark.anyio


async def test_a_call_of_a_tool_that_is_cancelled_before_it_is_made_is_not_made(
    make_turn: MakeTurn,
) -> None:
    server = WordsServer(lambda: None)
    async with over_http(server) as (runtime, _):
        turn = make_turn("hello")
        seen: list[Event] = []
        stream = runtime.start(turn)

        async def follow() -> None:
            async with stream as events:
                seen.extend([event async for event in events])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            # It connects now, and has not asked for the server's tools.
            while turn.id not in runtime._open:
                await anyio.lowlevel.checkpoint()
            assert runtime._open[turn.id].call is None
            await runtime.cancel({"turn": turn.id})
        assert [type(event) for event in seen] == [Done]
        assert done(seen).outcome == "cancelled"
        assert done(await read(runtime.start(make_turn("hello")))).outcome == "completed"


async def test_an_execution_that_n8n_does_not_show_is_not_called_stopped(
    make_turn: MakeTurn,
) -> None:
    made = n8n()
    with serving(made.app) as url:
        async with (
            reaching("n8n", url, **CHAT) as ours,
            ours.start(make_turn("slow 500")) as events,
        ):
            started = await anext(events)
            made.executions.clear()
            with pytest.raises(Rejected, match="may still run") as refused:
                await ours.cancel(started.ref or {})
    assert refused.value.kind == "conflict"
    assert made.stopped == []


@pytest.mark.parametrize("kind", ["cursor", "snowflake"])
async def test_a_conflict_is_success_only_where_the_run_has_ended(
    kind: str, make_turn: MakeTurn
) -> None:
    server: Any
    settings: dict[str, Any] = {}
    if kind == "cursor":
        server = cursor_server.Server(token=canary("cursor"))
    else:
        server = snowflake_server.Server(token=canary("snowflake"))
        settings = {"schemas": ["DB.SCH"], "agent": "SALES"}
    server.busy = True
    with serving(server.app) as url:
        async with reaching(kind, url, **settings) as ours:
            ended = done(await read(ours.start(make_turn("hello"))))
            await ours.cancel(ended.ref or {})
            async with ours.start(make_turn("slow 500")) as events:
                started = await anext(events)
                while started.ref is None:
                    started = await anext(events)
                with pytest.raises(Rejected) as refused:
                    await ours.cancel(started.ref)
    assert refused.value.kind == "conflict"
