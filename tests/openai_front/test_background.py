"""Background responses, and registered agents as models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import openai
import pytest

from tests.control.conftest import where
from tests.openai_front.fronting import BOB_KEY, TOOL, Fronted, fronted
from tests.openai_front.model import Code, Model, Say, Status
from tests.waiting import eventually_async

__all__ = ["where"]

pytestmark = pytest.mark.anyio


async def begin(f: Fronted, **more: Any) -> Any:
    body = {"model": "gpt-test", "input": "go", "tools": [TOOL], "background": True, **more}
    return await f.client().responses.create(**body)


async def ended(f: Fronted, id_: str) -> Any:
    client = f.client()
    with anyio.fail_after(30):
        while True:
            found = await client.responses.retrieve(id_)
            if found.status not in ("queued", "in_progress"):
                return found
            await anyio.sleep(0.02)


@pytest.mark.parametrize("api", ["responses", "chat"])
async def test_a_background_response_goes_on_without_its_client(
    tmp_path: Path, where: Path | str, api: str
) -> None:
    async with fronted(Model([Code("say 1")], [Say("done")]), tmp_path, api=api, store=where) as f:
        first = await begin(f)
        assert first.status == "queued"
        assert first.background is True
        found = await ended(f, first.id)
    assert found.status == "completed"
    assert found.output_text == "done"
    assert found.id == first.id
    assert found.background is True
    assert "background" not in f.model.asked[0]


async def test_a_background_stream_can_be_left_and_followed_again(
    tmp_path: Path, where: Path | str
) -> None:
    async with fronted(Model([Code("forever")], [Say("never")]), tmp_path, store=where) as f:
        seen = []
        async with await begin(f, stream=True) as stream:
            async for event in stream:
                seen.append(event)
                if event.type == "response.code_interpreter_call.interpreting":
                    break
        id_ = seen[0].response.id
        await eventually_async(lambda: f.launcher.sandboxes and f.launcher.sandboxes[0].running)
        again = []
        async with await f.client().responses.retrieve(
            id_, stream=True, starting_after=seen[2].sequence_number
        ) as stream:
            async for event in stream:
                again.append(event)
                if event.type == "response.code_interpreter_call.interpreting":
                    break
        assert [e.sequence_number for e in again] == [e.sequence_number for e in seen[3:]]
        assert f.launcher.sandboxes[0].interrupts == 0
        # Not his, so it is asked of the upstream, which knows nothing of it.
        await f.client(BOB_KEY).responses.cancel(id_)
        assert f"POST /v1/responses/{id_}/cancel" in f.model.paths
        assert f.launcher.sandboxes[0].interrupts == 0
        cancelled = await f.client().responses.cancel(id_)
        assert cancelled.status == "cancelled"
        assert f.launcher.sandboxes[0].interrupts == 1


async def test_a_deleted_background_response_ends_and_stays_deleted(
    tmp_path: Path, where: Path | str
) -> None:
    async with fronted(
        Model([Code("forever")]),
        tmp_path,
        store=where,
        tables=lambda url: {"gpt-test": {"base_url": url}, "other": {"base_url": url}},
    ) as f:
        id_ = (await begin(f)).id
        await eventually_async(lambda: f.launcher.sandboxes and f.launcher.sandboxes[0].running)
        await f.client().responses.delete(id_)
        await eventually_async(lambda: f.launcher.sandboxes[0].interrupts == 1)
        await eventually_async(lambda: f.model.open == 0)
        with pytest.raises(openai.NotFoundError):
            await f.client().responses.retrieve(id_)


async def test_what_fails_in_the_background_is_found_by_its_id(
    tmp_path: Path, where: Path | str
) -> None:
    async with fronted(Model(Status(500)), tmp_path, store=where) as f:
        found = await ended(f, (await begin(f)).id)
    assert found.status == "failed"
    assert "500" in found.error.message


async def test_a_server_that_ends_says_so_in_what_still_ran(
    tmp_path: Path, where: Path | str
) -> None:
    async with fronted(Model([Code("forever")]), tmp_path, store=where) as f:
        id_ = (await begin(f)).id
        await eventually_async(lambda: f.launcher.sandboxes and f.launcher.sandboxes[0].running)
    async with fronted(Model(), tmp_path, store=where) as f:
        found = await f.client().responses.retrieve(id_)
    assert found.status == "failed"
    assert found.error is not None
    assert "stopped" in found.error.message


async def test_background_needs_store_and_only_background_can_be_cancelled(tmp_path: Path) -> None:
    async with fronted(Model([Say("x")]), tmp_path) as f:
        with pytest.raises(openai.BadRequestError, match="store"):
            await begin(f, store=False)
        plain = await begin(f, background=False)
        with pytest.raises(openai.BadRequestError, match="background"):
            await f.client().responses.cancel(plain.id)


# Agents ---------------------------------------------------------------------------------------


async def test_an_agent_is_a_model_and_the_previous_response_its_session(tmp_path: Path) -> None:
    async with fronted(Model(), tmp_path) as f:
        client = f.client()
        assert "agent/echo" in [model.id async for model in client.models.list()]
        first = await client.responses.create(model="agent/echo", input="hello")
        second = await client.responses.create(
            model="agent/echo", input="again", previous_response_id=first.id
        )
        assert "hello" in first.output_text
        assert "again" in second.output_text
        assert len(f.world.sessions.rooms) == 1
        assert (await client.responses.retrieve(second.id)).output_text == second.output_text
        with pytest.raises(openai.BadRequestError):
            await f.client(BOB_KEY).responses.create(
                model="agent/echo", input="mine", previous_response_id=first.id
            )


async def test_an_agents_stream_is_what_the_official_client_accumulates(tmp_path: Path) -> None:
    async with fronted(Model(), tmp_path) as f:
        async with f.client().responses.stream(model="agent/echo", input="hello") as events:
            kinds = [event.type async for event in events]
            final = await events.get_final_response()
        chat = await f.client().chat.completions.create(
            model="agent/echo", messages=[{"role": "user", "content": "hello"}]
        )
    assert "response.output_text.delta" in kinds
    assert final.output_text == chat.choices[0].message.content
    assert "hello" in final.output_text


async def test_an_agent_that_fails_or_is_unknown_is_told(tmp_path: Path) -> None:
    async with fronted(Model(), tmp_path) as f:
        client = f.client()
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(model="agent/none_such", input="x")
        talk: Any = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
        with pytest.raises(openai.BadRequestError, match="previous_response_id"):
            await client.responses.create(model="agent/echo", input=talk)
        with pytest.raises(openai.BadRequestError, match="tools"):
            await client.responses.create(model="agent/echo", input="x", tools=[TOOL])  # type: ignore[list-item]
        failed = await client.responses.create(model="agent/failing", input="x")
    assert failed.status == "failed"
    assert failed.error is not None
