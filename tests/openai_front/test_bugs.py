"""A bug in a handler: the client gets an error in its vendor's shape, the log says where it was,
and what the client said is in neither."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from lap_sandbox.testing import Scripted
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from lap_mcp.front_parts.guarding import guarded
from tests.anthropic_front import messaging
from tests.anthropic_front import upstream as claude
from tests.openai_front.fronting import TOOL, fronted
from tests.openai_front.model import Code, Model, Say, served

pytestmark = pytest.mark.anyio

SAID = "what-the-client-said"
ASKED: Any = [{"role": "user", "content": "go"}]


def broken(code: str) -> Scripted:
    """A launcher with a bug that says what it was given."""
    raise RuntimeError(f"no idea what {code} means")


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What our own log says of bugs; nothing in any log says what the client said."""
    lines: list[str] = []
    with caplog.at_level(logging.DEBUG):
        yield lines
    records = [
        record
        for record in caplog.get_records("call")
        if record.name.startswith(("lap_", "uvicorn"))
    ]
    lines += [record.getMessage() for record in records if "failed:" in record.getMessage()]
    formatter = logging.Formatter()
    assert all(SAID not in formatter.format(record) for record in records)
    assert len(lines) >= 1
    assert "RuntimeError at test_bugs.py:" in lines[0]


@pytest.mark.parametrize("api", ["responses", "chat"])
async def test_a_bug_before_the_answer_is_openais_error_with_an_id(
    tmp_path: Path, api: str, logged: list[str]
) -> None:
    async with fronted(Model([Code(SAID)]), tmp_path, api=api, script=broken) as f:
        with pytest.raises(openai.InternalServerError) as failed:
            await f.client().responses.create(model="gpt-test", input="go", tools=[TOOL])  # type: ignore[list-item]
    error = failed.value
    assert error.type == "server_error"
    assert error.request_id is not None
    assert error.request_id in error.message
    assert SAID not in error.message


async def test_a_bug_in_a_stream_is_an_event_of_it(tmp_path: Path, logged: list[str]) -> None:
    async with fronted(Model([Code(SAID)]), tmp_path, script=broken) as f:
        stream = await f.client().responses.create(
            model="gpt-test",
            input="go",
            tools=[TOOL],
            stream=True,  # type: ignore[list-item]
        )
        with pytest.raises(openai.APIError, match="Its log says more about req_"):
            async for _ in stream:
                pass
        assert (await f.client().models.list()).data  # it serves on


async def test_a_bug_is_anthropics_error_before_the_answer_and_in_a_stream(
    tmp_path: Path, logged: list[str]
) -> None:
    upstream = claude.Upstream([claude.python(SAID)], [claude.python(SAID)])
    asked: dict[str, Any] = {"model": "claude-test", "max_tokens": 9, "messages": ASKED}
    async with messaging.serving(upstream, tmp_path, run=broken) as f:
        messages = f.client().beta.messages
        with pytest.raises(anthropic.InternalServerError) as failed:
            await messages.create(**asked, tools=[messaging.PYTHON])  # type: ignore[list-item]
        body: Any = failed.value.body
        assert body["error"]["type"] == "api_error"
        assert body["request_id"] == failed.value.request_id
        assert failed.value.request_id in body["error"]["message"]
        with pytest.raises(anthropic.APIStatusError, match="Its log says more about req_"):
            async with messages.stream(**asked, tools=[messaging.PYTHON]) as stream:  # type: ignore[list-item]
                await stream.get_final_message()


async def test_half_an_answer_that_is_no_stream_is_cut_off(logged: list[str]) -> None:
    async def half(request: Any) -> Response:
        async def body() -> Any:
            yield b"half"
            raise RuntimeError(SAID)

        return StreamingResponse(body(), media_type="application/json")

    routes = guarded([Route("/", half)], lambda words, id_: ({"error": words}, "x-request-id"))
    async with served(Starlette(routes=routes)) as url:
        import httpx2

        async with httpx2.AsyncClient() as client:
            with pytest.raises(httpx2.RemoteProtocolError):
                await client.get(url)


async def test_a_bug_in_the_background_is_the_end_of_that_response_only(
    tmp_path: Path, logged: list[str]
) -> None:
    async with fronted(Model([Code(SAID)], [Say("fine")]), tmp_path, script=broken) as f:
        responses = f.client().responses
        begun = await responses.create(
            model="gpt-test",
            input="go",
            tools=[TOOL],
            background=True,  # type: ignore[list-item]
        )
        stream = await responses.retrieve(begun.id, stream=True)
        kinds = [event.type async for event in stream]
        assert kinds[-1] == "response.failed"
        ended = await responses.retrieve(begun.id)
        assert ended.status == "failed"
        assert ended.error is not None
        assert SAID not in json.dumps(ended.error.to_dict())
        assert (await responses.create(model="gpt-test", input="go")).output_text == "fine"
