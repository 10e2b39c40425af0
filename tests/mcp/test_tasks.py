"""Long agent calls as tasks of the extension, for clients that declare it."""

from __future__ import annotations

from typing import Any

import anyio
import mcp.types as t
import pytest
from mcp.shared.exceptions import MCPError

from lap_mcp.control.services import NewAnswer
from tests.mcp.scripted import World
from tests.mcp.serving import ALICE, BOB_KEY, Served, served, text, until
from tests.mcp.task_client import Task, TasksExtension, task_cancel, task_get, task_update

pytestmark = pytest.mark.anyio


async def call_as_task(client: Any, name: str, prompt: str) -> str:
    result = await client.call_tool(name, {"prompt": prompt})
    word, task_id = text(result).split()
    assert word == "task"
    return str(task_id)


def asking_client(s: Served) -> Any:
    """A client that declares elicitation; in a task it is asked by `tasks/get`, not called back."""

    async def never(context: Any, params: Any) -> t.ElicitResult:
        raise AssertionError("asked outside the task")

    return s.client(extensions=[TasksExtension()], elicitation_callback=never)


async def settled(client: Any, task_id: str, *statuses: str) -> Task:
    with anyio.fail_after(15):
        while (task := await task_get(client, task_id)).status not in statuses:  # noqa: ASYNC110
            await anyio.sleep(0.05)
    return task


async def test_a_turn_that_outlasts_the_grace_becomes_a_task_with_its_result() -> None:
    async with served() as s, s.client(extensions=[TasksExtension()]) as client:
        task_id = await call_as_task(client, "slow", "0.6")
        assert (await task_get(client, task_id)).status == "working"
        task = await settled(client, task_id, "completed")
        assert task.result is not None
        assert "Slowly done." in task.result["content"][0]["text"]
        assert s.world.sessions.running == 0


async def test_a_quick_turn_and_wait_zero_are_answered_inline() -> None:
    async with served() as s, s.client(extensions=[TasksExtension()]) as client:
        assert "You said" in text(await client.call_tool("echo", {"prompt": "x"}))
        started = await client.call_tool("slow", {"prompt": "9", "wait_s": 0})
        assert "Started." in text(started)
        assert len(s.face.tasks) == 0


async def test_a_client_without_the_extension_is_never_given_a_task() -> None:
    async with served() as s, s.client() as client:
        result = await client.call_tool("slow", {"prompt": "60", "wait_s": 0.5})
        assert "running" in text(result)
        with pytest.raises(MCPError) as raised:
            await task_get(client, "x")
        assert raised.value.code == -32021


async def test_a_question_in_a_task_is_asked_and_only_an_accept_answers_it() -> None:
    world = World()

    async def late(stage: Any) -> None:
        await anyio.sleep(0.5)
        answer = await stage.ask("May I?")
        await stage.message(f"Decision: {answer.decision}")

    world.registry.add("late", late)
    async with served(world) as s, asking_client(s) as client:
        for action, content, words in (
            ("accept", {"decision": "allow"}, "Decision: allow"),
            ("accept", {"decision": "deny"}, "Decision: deny"),
            ("decline", None, "Only a person may decide this"),
        ):
            task_id = await call_as_task(client, "late", action)
            task = await settled(client, task_id, "input_required")
            assert task.input_requests is not None
            key = next(iter(task.input_requests))
            schema = task.input_requests[key]["params"]["requestedSchema"]
            assert "title" not in schema
            await task_update(client, task_id, {key: {"action": action, "content": content}})
            task = await settled(client, task_id, "completed")
            assert task.result is not None
            assert words in task.result["content"][0]["text"]


async def test_a_question_answered_elsewhere_lets_the_task_go_on() -> None:
    world = World()

    async def late(stage: Any) -> None:
        await anyio.sleep(0.5)
        answer = await stage.ask("May I?")
        await stage.message(f"Decision: {answer.decision}")

    world.registry.add("late", late)
    async with served(world) as s, asking_client(s) as client:
        task_id = await call_as_task(client, "late", "x")
        task = await settled(client, task_id, "input_required")
        question = next(iter(task.input_requests or {}))
        await s.world.sessions.answer(ALICE, question, NewAnswer(decision="allow"), by="cli")
        task = await settled(client, task_id, "completed")
        assert "Decision: allow" in str(task.result)


async def test_cancelling_the_task_cancels_the_turn() -> None:
    async with served() as s, s.client(extensions=[TasksExtension()]) as client:
        task_id = await call_as_task(client, "slow", "60")
        assert s.world.sessions.running == 1
        await task_cancel(client, task_id)
        assert (await task_get(client, task_id)).status == "cancelled"
        assert s.world.sessions.running == 0


async def test_cancelling_a_task_ends_no_turn_of_another_call() -> None:
    async with served() as s, s.client(extensions=[TasksExtension()]) as client:
        running = await call_as_task(client, "slow", "60")
        session = running.partition(".")[0]
        result = await client.call_tool("slow", {"prompt": "61", "session": session})
        queued = text(result).split()[1]
        await task_cancel(client, queued)
        room = s.world.sessions.rooms[session]
        assert [turn.outcome for turn in room.turns] == ["running", "cancelled"]
        assert (await task_get(client, running)).status == "working"


async def test_a_turn_cancelled_by_other_means_is_a_cancelled_task() -> None:
    async with served() as s, s.client(extensions=[TasksExtension()]) as client:
        task_id = await call_as_task(client, "slow", "60")
        await client.call_tool("cancel_session", {"session": task_id.partition(".")[0]})
        await settled(client, task_id, "cancelled")


async def test_a_task_belongs_to_its_principal() -> None:
    extension = TasksExtension()
    async with (
        served() as s,
        s.client(extensions=[extension]) as alice,
        s.client(key=BOB_KEY, extensions=[extension]) as bob,
    ):
        task_id = await call_as_task(alice, "slow", "60")
        for forbidden in (task_get, task_cancel):
            with pytest.raises(MCPError, match="no such task"):
                await forbidden(bob, task_id)
        assert s.world.sessions.running == 1


async def test_a_task_is_found_again_by_a_server_that_did_not_make_it() -> None:
    """As after a restart, or on another replica: the id says which turn it is."""
    world = World()
    async with served(world) as s, s.client(extensions=[TasksExtension()]) as client:
        task_id = await call_as_task(client, "slow", "1.5")
        s.face.tasks._records.clear()  # what a new process knows
        assert (await task_get(client, task_id)).status == "working"
        task = await settled(client, task_id, "completed")
        assert "Slowly done." in str(task.result)


async def test_no_task_is_left_running_when_the_server_ends() -> None:
    async with served() as s:
        async with s.client(extensions=[TasksExtension()]) as client:
            await call_as_task(client, "slow", "60")
        face = s.face
        assert face.tasks.running == 1
    await until(lambda: face.tasks.running == 0)
