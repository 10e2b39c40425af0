"""What is the Responses API's own: the test server against the official client, servers that
deviate, questions, and state in each of its forms."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import openai
import pytest
from lap_runtimes.base import (
    Answer,
    Asked,
    Done,
    Event,
    File,
    Message,
    PastMessage,
    Thinking,
    ToolResult,
    ToolUse,
    Usage,
)
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure, Unsupported
from lap_runtimes.openai_responses import OpenAIResponsesConfig, OpenAIResponsesRuntime
from lap_runtimes.responses_fold import Cursor
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.canary import canary
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.responses_server import Server
from tests.runtimes.serving import serving

pytestmark = pytest.mark.anyio

TOKEN = canary("responses")


@asynccontextmanager
async def reaching(url: str, **settings: Any) -> AsyncIterator[OpenAIResponsesRuntime]:
    context = {"resolve_secret": lambda reference: TOKEN}
    made = {"url": f"{url}/v1", "auth": {"bearer": "env:TOKEN"}, **settings}
    runtime = OpenAIResponsesRuntime(OpenAIResponsesConfig.model_validate(made, context=context))
    try:
        with anyio.fail_after(15):
            yield runtime
    finally:
        await runtime.aclose()


async def read(stream: Any) -> list[Event]:
    async with stream as events:
        return [event async for event in events]


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Message)]


async def test_the_test_server_satisfies_the_official_client() -> None:
    """The oracle: what the adapter is tested against is what OpenAI's own SDK understands."""
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0) as client:
            whole = await client.responses.create(model="words", input="remember apples")
            assert whole.output_text == "remember apples"
            stream = await client.responses.create(
                model="words", input="recall", previous_response_id=whole.id, stream=True
            )
            events = [event async for event in stream]
            assert [event.sequence_number for event in events] == list(range(len(events)))
            assert events[0].type == "response.created"
            assert events[-1].type == "response.completed"
            assert events[-1].response.output_text == "apples"
            later = await client.responses.create(model="words", input="slow 3", background=True)
            replay = await client.responses.retrieve(later.id, stream=True, starting_after=1)
            assert [event.sequence_number async for event in replay][0] == 2
            conversation = await client.conversations.create()
            assert conversation.id
        wrong = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0)
        async with wrong as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()


async def test_reasoning_tools_usage_and_files_have_their_events(make_turn: MakeTurn) -> None:
    with serving(Server(token=TOKEN).app) as url:
        async with reaching(url) as ours:
            thought = await read(ours.start(make_turn("think cats")))
            used = await read(ours.start(make_turn("tool")))
            made = await read(ours.start(make_turn("file ../../x/out.csv")))
    assert [e.text for e in thought if isinstance(e, Thinking)] == ["thinking about cats"]
    (use,) = [e for e in used if isinstance(e, ToolUse)]
    (result,) = [e for e in used if isinstance(e, ToolResult)]
    assert (use.name, dict(use.input)["q"]) == ("search", "x")
    assert (result.tool_use_id, result.text, result.is_error) == (use.id, "found it", False)
    (usage,) = [e for e in made if isinstance(e, Usage)]
    assert (usage.input_tokens, usage.output_tokens) == (7, 11)
    assert usage.detail["output_tokens_details"]["reasoning_tokens"] == 3
    (file,) = [e for e in made if isinstance(e, File)]
    assert (file.name, file.data) == ("out.csv", b"content of cfile_1")


@pytest.mark.parametrize(("decision", "said"), [("allow", "allowed"), ("deny", "denied")])
async def test_an_approval_is_asked_and_answered(
    decision: Any, said: str, make_turn: MakeTurn
) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching(url) as ours:
            asked = await read(ours.start(make_turn("ask /etc/passwd")))
            (question,) = [e.question for e in asked if isinstance(e, Asked)]
            assert (question.tool, question.tool_input) == ("delete_file", {"path": "/etc/passwd"})
            answer = Answer(question_id=question.id, decision=decision, text="because")
            events = await read(ours.start(make_turn(answers=[answer], ref=asked[-1].ref)))
    assert texts(events) == [said]
    assert server.requests[-1]["input"][0]["reason"] == "because"


async def test_all_calls_are_answered_at_once(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching(url) as ours:
            asked = await read(ours.start(make_turn("call one two")))
            questions = [e.question for e in asked if isinstance(e, Asked)]
            assert [q.tool for q in questions] == ["one", "two"]
            assert all(q.kind == "tool_result" and q.tool_input == {"key": 1} for q in questions)
            answers = [Answer(question_id=q.id, text=f"r{n}") for n, q in enumerate(questions)]
            for some in (answers[:1], [*answers, Answer(question_id="other")]):
                with pytest.raises(Rejected) as refused:
                    await read(ours.start(make_turn(answers=some, ref=asked[-1].ref)))
                assert not refused.value.sent
            answers[1] = Answer(question_id=questions[1].id, text="no disk", is_error=True)
            await read(ours.start(make_turn(answers=answers, ref=asked[-1].ref)))
    outputs = [item["output"] for item in server.requests[-1]["input"]]
    assert outputs == ["r0", "Error: no disk"]


async def test_a_failed_turn_is_not_what_the_next_one_continues(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching(url) as ours:
            first = await read(ours.start(make_turn("remember apples")))
            failed = await read(ours.start(make_turn("fail why", ref=first[-1].ref)))
            again = await read(ours.start(make_turn("recall", ref=failed[-1].ref)))
    assert texts(again) == ["apples"]
    assert server.requests[-1]["previous_response_id"] == "resp_1"


async def test_a_server_that_keeps_nothing_is_sent_everything_again(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching(url, state="resend") as ours:
            assert ours.capabilities.conversation == "caller"
            first = await read(ours.start(make_turn("remember apples")))
            ref = first[-1].ref
            with pytest.raises(Unsupported):
                await read(ours.start(make_turn("recall", ref=ref)))
            past = [
                PastMessage(role="user", text="remember apples"),
                PastMessage(role="agent", text="yes"),
            ]
            turn = make_turn("recall", ref=ref)
            object.__setattr__(turn, "history", past)
            assert texts(await read(ours.start(turn))) == ["apples"]
    assert [item["role"] for item in server.requests[-1]["input"]] == ["user", "assistant", "user"]
    assert "previous_response_id" not in server.requests[-1]


class Deviant:
    """A server that answers `/v1/responses` with exactly these bytes."""

    def __init__(self, body: str, media_type: str = "text/event-stream", status: int = 200) -> None:
        self._answer = (body, media_type, status)
        self.requests: list[Any] = []
        self.app = Starlette(routes=[Route("/v1/responses", self.create, methods=["POST"])])

    async def create(self, request: Request) -> Response:
        self.requests.append(await request.json())
        body, media_type, status = self._answer
        return Response(body, status, media_type=media_type)


def sse(*events: Any) -> str:
    return "".join(f"data: {e if isinstance(e, str) else json.dumps(e)}\n\n" for e in events)


def delta(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": "msg_1", "delta": text, **more}


def item(text: str, **more: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    made = {"type": "message", "id": "msg_1", "role": "assistant", "content": content, **more}
    return {"type": "response.output_item.done", "item": made}


CREATED = {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (sse(delta("he"), delta("llo"), item("hello"), "[DONE]"), ["hello"]),
        (sse(delta("he"), delta("llo"), item("hello")), ["hello"]),
        (sse(delta("he"), delta("llo"), "[DONE]"), ["hello"]),
        (sse(item("hello", id=None), item("you", id=None), "[DONE]"), ["hello", "you"]),
        (sse(CREATED, {"type": "response.new_thing", "x": 1}, delta("a"), item("a"),
             {"type": "response.completed", "response": {"id": "resp_1"}}), ["a"]),
        (sse(CREATED, {"type": "response.completed", "response": {"id": "resp_1", "output":
             [item("late")["item"]]}}), ["late"]),
    ],
)  # fmt: skip
async def test_deviant_streams_are_read_as_they_were_meant(
    body: str, said: list[str], make_turn: MakeTurn
) -> None:
    """MLflow's AgentServer and others: no beginning, no end, no ids, unknown events."""
    with serving(Deviant(body).app) as url:
        async with reaching(url) as ours:
            events = await read(ours.start(make_turn("x")))
    assert texts(events) == said
    assert isinstance(events[-1], Done)
    assert events[-1].outcome == "completed"


@pytest.mark.parametrize(
    "body",
    [
        sse(delta("he"), {"error": "out of ink"}, "[DONE]"),
        sse(CREATED, {"error": {"message": "out of ink"}}),
        sse(CREATED, {"type": "error", "code": "server_error", "message": "out of ink"}),
        sse(CREATED, {"type": "response.failed", "response": {"error": {"message": "out of ink"}}}),
        sse(CREATED, {"type": "response.incomplete", "response": {"incomplete_details":
            {"reason": "out of ink"}}}),
    ],
)  # fmt: skip
async def test_an_error_inside_a_200_stream_fails_the_turn(body: str, make_turn: MakeTurn) -> None:
    with serving(Deviant(body).app) as url:
        async with reaching(url) as ours:
            events = await read(ours.start(make_turn("x")))
    assert isinstance(events[-1], Done)
    assert events[-1].outcome == "failed"
    assert "out of ink" in (events[-1].error or "")


@pytest.mark.parametrize("body", [sse(CREATED, delta("he")), sse(delta("he")), sse(CREATED), ""])
async def test_a_stream_that_stops_in_the_middle_is_lost_not_completed(
    body: str, make_turn: MakeTurn
) -> None:
    with serving(Deviant(body).app) as url:
        async with reaching(url) as ours:
            events = await read(ours.start(make_turn("x")))
    assert not any(isinstance(event, Done) for event in events)


async def test_a_server_that_ignores_stream_is_read_whole(make_turn: MakeTurn) -> None:
    whole = {"output": [item("hello")["item"]], "usage": None}
    with serving(Deviant(json.dumps(whole, indent=2), "application/json").app) as url:
        async with reaching(url) as ours:
            events = await read(ours.start(make_turn("x")))
            assert texts(events) == ["hello"]
            with pytest.raises(Unsupported, match="resend"):
                await read(ours.start(make_turn("y", ref=events[-1].ref)))


@pytest.mark.parametrize("body", ["data: nonsense\n\n", "data: []\n\n", "data: 5\n\n"])
async def test_what_is_no_responses_stream_is_a_protocol_error(
    body: str, make_turn: MakeTurn
) -> None:
    with serving(Deviant(body).app) as url:
        async with reaching(url) as ours:
            with pytest.raises(ProtocolError):
                await read(ours.start(make_turn("x")))


async def test_hostile_file_ids_do_not_leave_their_path(make_turn: MakeTurn) -> None:
    note = {"type": "container_file_citation", "container_id": "..", "file_id": "../../models"}
    content = [{"type": "output_text", "text": "x", "annotations": [note]}]
    with serving(Deviant(sse(CREATED, item("x", content=content))).app) as url:
        async with reaching(url) as ours:
            with pytest.raises(ProtocolError):
                await read(ours.start(make_turn("x")))


async def test_an_error_status_is_told_in_the_servers_words(make_turn: MakeTurn) -> None:
    body = json.dumps({"error": {"message": "model not found", "code": "x"}})
    with serving(Deviant(body, "application/json", 404).app) as url:
        async with reaching(url) as ours:
            with pytest.raises(Rejected, match="model not found") as refused:
                await read(ours.start(make_turn("x")))
    assert (refused.value.kind, refused.value.sent) == ("not_found", False)


async def test_the_configured_fields_are_sent(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    tool = {"type": "web_search"}
    settings = {
        "model": "words",
        "instructions": "be brief",
        "tools": [tool],
        "body": {"temperature": 0, "metadata": {"a": "b"}},
        "background": True,
    }
    with serving(server.app) as url:
        async with reaching(url, **settings) as ours:
            await read(ours.start(make_turn("x", agent="other")))
    sent = server.requests[0]
    assert sent["model"] == "other"
    assert sent["instructions"] == "be brief"
    assert sent["tools"] == [tool]
    assert (sent["temperature"], sent["metadata"]) == (0, {"a": "b"})
    assert (sent["background"], sent["store"], sent["stream"]) == (True, True, True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"body": {"stream": True}}, "stream is set by the adapter"),
        ({"background": True, "state": "resend"}, "stores responses"),
        ({"state": "nothing"}, "state"),
        ({"modle": "x"}, "modle"),
    ],
)
def test_a_wrong_configuration_names_its_key(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        OpenAIResponsesConfig.model_validate({"url": "http://x", **settings})


@pytest.mark.parametrize("text", ["5:", "5:0,1,7", "0:3"])
def test_a_cursor_survives_being_written_down(text: str) -> None:
    assert Cursor.decode(text).encode() == text


async def test_a_cursor_that_is_none_is_refused(make_turn: MakeTurn) -> None:
    async with reaching("http://127.0.0.1:1", background=True) as ours:
        for ref, cursor in (({"response": "r"}, "what"), ({}, None), ({"response": "a/b"}, None)):
            with pytest.raises(RuntimeFailure) as refused:
                await read(ours.attach(ref, cursor))
            assert not refused.value.sent


async def test_a_cancelled_background_stream_ends_as_cancelled(make_turn: MakeTurn) -> None:
    """Its stream just ends; the response object says how."""
    with serving(Server(token=TOKEN).app) as url:
        async with reaching(url, background=True, poll_interval=0.02) as ours:
            async with ours.start(make_turn("slow 500")) as events:
                started = await anext(events)
                assert started.ref is not None
                await ours.cancel(started.ref)
                rest = [event async for event in events]
            assert isinstance(rest[-1], Done)
            assert rest[-1].outcome == "cancelled"
            with pytest.raises(Rejected):
                await ours.cancel({"response": "resp_9/../x"})


async def test_models_are_the_agents_of_a_server(make_turn: MakeTurn) -> None:
    with serving(Server(token=TOKEN).app) as url:
        async with reaching(url) as ours:
            assert [agent.ref for agent in await ours.agents()] == ["words"]
        async with reaching(url, model="mine") as ours:
            assert [agent.ref for agent in await ours.agents()] == ["mine"]


async def test_a_text_that_only_streamed_is_closed_at_the_end(make_turn: MakeTurn) -> None:
    body = sse(CREATED, delta("he"), delta("llo"), {"type": "response.completed", "response": {}})
    with serving(Deviant(body).app) as url:
        async with reaching(url) as ours:
            assert texts(await read(ours.start(make_turn("x")))) == ["hello"]
