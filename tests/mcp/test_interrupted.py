"""Calls that are cut off, up to a thousand, leave nothing behind in the face."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from tests.mcp.scripted import Stage, World
from tests.mcp.serving import Mode, served, until

pytestmark = pytest.mark.anyio

MANY = 1000
SOME = 200
TOGETHER = 50


def endless_world(**fields: Any) -> World:
    world = World()

    async def endless(stage: Stage) -> None:
        await stage.delta("going on")
        await anyio.sleep_forever()

    world.registry.add("endless", endless, **fields)
    return world


async def cut_off(client: Any, world: World, calls: int) -> None:
    """That many calls, each cancelled once its turn has started."""
    for begun in range(0, calls, TOGETHER):
        async with anyio.create_task_group() as group:
            for _ in range(TOGETHER):
                group.start_soon(client.call_tool, "endless", {"prompt": "x"})
            expected = begun + TOGETHER
            await until(lambda expected=expected: len(world.sessions.prompts) >= expected, 60)
            group.cancel_scope.cancel()


@pytest.mark.parametrize(("mode", "calls"), [("auto", MANY), ("legacy", SOME)])
async def test_calls_that_are_cut_off_leave_no_task_and_their_turns_go_on(
    mode: Mode, calls: int
) -> None:
    world = endless_world()
    async with served(world) as s, s.client(mode) as client:
        await client.list_tools()
        before = len(asyncio.all_tasks())
        await cut_off(client, world, calls)
        assert world.sessions.running == calls
        for room in world.sessions.rooms.values():
            assert room.scope is not None
            room.scope.cancel()
        await until(lambda: world.sessions.running == 0, 30)
        await until(lambda: s.http.inflight.count == 0, 30)
        await until(lambda: len(asyncio.all_tasks()) <= before, 30)
        assert len(s.face.tasks) == 0
        assert all(not room.followers for room in world.sessions.rooms.values())


async def test_calls_that_are_cut_off_end_the_turns_of_an_agent_that_wants_it() -> None:
    world = endless_world(cancel_on_disconnect=True)
    async with served(world) as s, s.client() as client:
        await client.list_tools()
        before = len(asyncio.all_tasks())
        await cut_off(client, world, SOME)
        await until(lambda: world.sessions.running == 0, 60)
        await until(lambda: len(asyncio.all_tasks()) <= before, 30)
        assert len(s.face.tasks) == 0


@pytest.mark.parametrize("name", ["slow_bound", "ask_agents"])
async def test_a_call_that_is_cut_off_ends_no_turn_of_another_call(name: str) -> None:
    """Of a session: another call prompts it too."""
    async with served() as s, s.client() as client:
        asked: dict[str, Any] = {"prompt": "60"}
        if name == "ask_agents":
            asked["agents"] = ["slow", "slow_bound"]
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, name, asked)
            await until(lambda: s.world.sessions.running == len(asked.get("agents", [name])))
            (room,) = [
                room
                for room in s.world.sessions.rooms.values()
                if room.session.agent == "slow_bound"
            ]
            more = {"prompt": "61", "session": room.session.id, "wait_s": 0}
            await client.call_tool("slow_bound", more)
            group.cancel_scope.cancel()
        await until(lambda: room.turns[0].outcome == "cancelled", 30)
        assert room.turns[1].outcome == "queued"
