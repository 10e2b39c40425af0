"""The declarative kind: mistakes are named when the configuration is read, values stay where the
template puts them, and answers are read as described."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from lap_runtimes.base import Done, Event, Message, MessageDelta, PastMessage
from lap_runtimes.errors import ProtocolError, Rejected, Unsupported
from lap_runtimes.http_agent import HTTPAgentRuntime
from lap_runtimes.http_agent_config import HTTPAgentConfig
from lap_runtimes.http_template import Answer, Path, Predicate, filled, filled_path
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.runtimes.conftest import MakeTurn
from tests.runtimes.serving import serving

pytestmark = pytest.mark.anyio

PLAIN = {"request": {"body": {"q": "${prompt}"}}, "answer": {"text": "a"}}


def settings(**more: Any) -> dict[str, Any]:
    return {"url": "http://a.example", **PLAIN, **more}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"request": {"body": "${promt}"}}, r"request\.body: there is no variable \$\{promt\}"),
        ({"request": {"path": "/${ref.x}"}}, r"request\.path: .*\$\{ref\.x\}"),
        ({"request": {"method": "FETCH"}}, "method"),
        ({"request": {"method": "GET", "body": {}}}, r"request\.body: a GET has none"),
        ({"request": {"headers": {"X": "${prompt}"}}}, r"request\.headers\.X: a prompt"),
        ({"answer": {}}, r"answer\.text: say where"),
        ({"answer": {"text": "a..b"}}, "not a path"),
        ({"answer": {"text": "@cookie"}}, "@cookie is none of"),
        ({"answer": {"delta": "a"}}, r"answer\.delta: only streams"),
        ({"answer": {"form": "sse", "text": "a", "delta_when": "b"}}, r"answer\.delta_when"),
        ({"answer": {"text": "a", "from": "xml"}}, "from"),
        ({"idempotent": True}, r"idempotent: needs \$\{turn_id\}"),
        ({"cancel_request": {"body": "${prompt}"}}, r"cancel_request: \$\{prompt\}"),
        ({"cancel_request": {"path": "/x/${ref.run}"}}, r"cancel_request\.path"),
        ({"request": {"body": "${ref.t}"}, "answer": {"text": "a", "ref": {"t": "t"}}},
         "the first turn has no"),
        ({"unknown": 1}, "unknown"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_key(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        HTTPAgentConfig.model_validate(settings(**changed))


def test_a_variable_alone_is_its_value_and_within_text_its_text() -> None:
    values = {"input": {"a": 1}, "prompt": 'say "hi"\n${input}'}
    template = {"x": "${input}", "y": ["p: ${prompt}", 5], "${prompt}": "z: ${input}"}
    assert filled(template, values) == {
        "x": {"a": 1},
        "y": ['p: say "hi"\n${input}', 5],
        'say "hi"\n${input}': 'z: {"a": 1}',
    }


@pytest.mark.parametrize("value", ["../admin", "a/b?x=1#y", "%2e%2e/", "..", "ü y"])
def test_a_variable_in_a_path_adds_no_segment_and_no_query(value: str) -> None:
    made = filled_path("/runs/${prompt}/end", {"prompt": value})
    assert made.count("/") == 3
    assert not set(made) & set("?# ")
    assert ".." not in made


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.b.1.c", 7), (".", {"a": {"b": [0, {"c": 7}]}}), ("a.b.9", None), ("a.b.c", None),
        ("@event", "done"), ("@id", "5"), ("@data", "raw"), ("@header.X-Run", "r1"),
    ],
)  # fmt: skip
def test_paths_find_what_they_name(path: str, found: Any) -> None:
    answer = Answer("raw", "done", "5", {"x-run": "r1"}, {"a": {"b": [0, {"c": 7}]}})
    assert Path.parse(path).find(answer) == found


@pytest.mark.parametrize(
    ("text", "holds"),
    [("t=end", True), ("t=begin", False), ("t!=begin", True), ("t", True), ("n=0", True),
     ("n", False), ("b=true", True), ("gone", False), ("gone!=x", True), ("@event=e", True)],
)  # fmt: skip
def test_predicates_hold_where_they_should(text: str, holds: bool) -> None:
    answer = Answer("", "e", "", {}, {"t": "end", "n": 0, "b": True})
    assert Predicate.parse(text).holds(answer) is holds


class Canned:
    """Answers everything with the same bytes and keeps what it was asked."""

    def __init__(self, body: str | bytes, status: int = 200, **headers: str) -> None:
        self.asked: list[tuple[str, str, bytes, dict[str, str]]] = []
        self._answer = (body, status, headers)
        methods = ["GET", "POST", "PUT", "DELETE", "OPTIONS"]
        self.app = Starlette(routes=[Route("/{path:path}", self.answer, methods=methods)])

    async def answer(self, request: Request) -> Response:
        body = await request.body()
        query = request.url.query
        where = request.scope["raw_path"].decode() + (f"?{query}" if query else "")
        self.asked.append((request.method, where, body, dict(request.headers)))
        made, status, headers = self._answer
        return Response(made, status, headers={k.replace("_", "-"): v for k, v in headers.items()})


@asynccontextmanager
async def reaching(url: str, **more: Any) -> AsyncIterator[HTTPAgentRuntime]:
    runtime = HTTPAgentRuntime(HTTPAgentConfig.model_validate({"url": url, **PLAIN, **more}))
    try:
        with anyio.fail_after(15):
            yield runtime
    finally:
        await runtime.aclose()


async def read(stream: Any) -> list[Event]:
    async with stream as events:
        return [event async for event in events]


def last(events: list[Event]) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


async def test_the_request_is_what_the_template_says(make_turn: MakeTurn) -> None:
    canned = Canned('{"a": "yes"}')
    request = {
        "method": "PUT",
        "path": "/sessions/${session_uuid}?v=1",
        "headers": {"X-Turn": "${turn_id}"},
        "body": {"messages": "${messages}", "n": 1, "agent": "${agent}", "in": "${input}"},
    }
    with serving(canned.app) as url:
        async with reaching(f"{url}/base", request=request) as ours:
            turn = make_turn("hi", agent="a1", input={"k": 2})
            assert ours.capabilities.conversation == "caller"
            await read(ours.start(turn))
    method, address, body, headers = canned.asked[0]
    digits = turn.session_id.removeprefix("ses_")
    assert method == "PUT"
    assert address.split("/base/sessions/")[1].replace("-", "") == f"{digits}?v=1"
    assert headers["x-turn"] == turn.id
    assert (
        body.decode().replace(" ", "") == '{"messages":[{"role":"user","content":"hi"}],'
        '"n":1,"agent":"a1","in":{"k":2}}'
    )


@pytest.mark.parametrize(
    ("answer", "body", "text", "data"),
    [
        ({"text": "a.0"}, '{"a": ["x"]}', "x", None),
        ({"text": "a"}, '{"a": {"b": 1}}', '{"b": 1}', None),
        ({"text": "@data"}, "plain words", "plain words", None),
        ({"text": "."}, '"just text"', "just text", None),
        ({"data": "."}, '{"b": 1}', '{"b": 1}', {"b": 1}),
        ({"form": "ndjson", "delta": "t"}, '{"t":"a"}\n{"t":"b"}', "ab", None),
        ({"form": "sse", "delta": "@data"}, "data: a\n\ndata: b\n\n", "ab", None),
        ({"form": "sse", "delta": "t", "text": "whole"},
         'data: {"t":"a"}\n\ndata: {"whole":"A!"}\n\ndata: [DONE]\n\n', "A!", None),
    ],
)  # fmt: skip
async def test_the_text_is_found_in_any_shape(
    answer: dict[str, Any], body: str, text: str, data: Any, make_turn: MakeTurn
) -> None:
    with serving(Canned(body).app) as url:
        async with reaching(url, answer=answer) as ours:
            events = await read(ours.start(make_turn("x")))
    (message,) = [event for event in events if isinstance(event, Message)]
    assert (message.text, message.data) == (text, data)
    assert last(events).outcome == "completed"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        ({"text": "a"}, '{"error": {"message": "out of ink"}}'),
        ({"text": "a", "error": "problem.words"}, '{"problem": {"words": "out of ink"}}'),
        ({"form": "sse", "delta": "t"}, 'data: {"t":"a"}\n\ndata: {"error": "out of ink"}\n\n'),
        ({"form": "ndjson", "delta": "t", "error": "e"}, '{"t":"a"}\n{"e":["out of ink"]}'),
    ],
)
async def test_an_error_inside_a_200_answer_fails_the_turn(
    answer: dict[str, Any], body: str, make_turn: MakeTurn
) -> None:
    with serving(Canned(body).app) as url:
        async with reaching(url, answer=answer) as ours:
            events = await read(ours.start(make_turn("x")))
    assert last(events).outcome == "failed"
    assert "out of ink" in (last(events).error or "")
    assert not [e for e in events if isinstance(e, MessageDelta)] or [
        e for e in events if isinstance(e, Message)
    ]


async def test_a_stream_without_its_announced_end_is_lost(make_turn: MakeTurn) -> None:
    answer = {"form": "ndjson", "delta": "t", "done": "t=end"}
    with serving(Canned('{"t":"a"}\n').app) as url:
        async with reaching(url, answer=answer) as ours:
            events = await read(ours.start(make_turn("x")))
    assert not any(isinstance(event, Done) for event in events)


async def test_an_answer_that_is_no_json_is_a_protocol_error(make_turn: MakeTurn) -> None:
    with serving(Canned("<html>hello").app) as url:
        async with reaching(url) as ours:
            with pytest.raises(ProtocolError, match="JSON"):
                await read(ours.start(make_turn("x")))


async def test_what_an_answer_gave_is_used_to_continue_and_to_cancel(make_turn: MakeTurn) -> None:
    canned = Canned('{"a": "yes", "thread": "t/1"}', x_run="r1")
    more: dict[str, Any] = {
        "answer": {"text": "a", "ref": {"thread": "thread", "run": "@header.X-Run"}},
        "continue_request": {"path": "/t/${ref.thread}", "body": {"q": "${prompt}"}},
        "cancel_request": {"method": "DELETE", "path": "/runs/${ref.run}"},
    }
    with serving(canned.app) as url:
        async with reaching(url, **more) as ours:
            with pytest.raises(Rejected, match="run") as early:
                await ours.cancel({"turn": "trn_1", "session": "ses_1"})
            assert not early.value.sent
            first = await read(ours.start(make_turn("one")))
            await read(ours.start(make_turn("two", ref=last(first).ref)))
            await ours.cancel(last(first).ref or {})
    assert [(method, where) for method, where, _, _ in canned.asked] == [
        ("POST", "/"),
        ("POST", "/t/t%2F1"),
        ("DELETE", "/runs/r1"),
    ]


async def test_an_agent_without_memory_refuses_a_second_turn_in_words(make_turn: MakeTurn) -> None:
    with serving(Canned('{"a": "yes"}').app) as url:
        async with reaching(url) as ours:
            assert ours.capabilities.conversation == "none"
            first = await read(ours.start(make_turn("one")))
            with pytest.raises(Unsupported, match="new session"):
                await read(ours.start(make_turn("two", ref=last(first).ref)))


async def test_the_history_is_sent_where_the_template_wants_it(make_turn: MakeTurn) -> None:
    canned = Canned('{"a": "yes"}')
    with serving(canned.app) as url:
        async with reaching(url, request={"body": "${messages}"}) as ours:
            first = await read(ours.start(make_turn("one")))
            turn = make_turn("two", ref=last(first).ref)
            with pytest.raises(Unsupported, match="history"):
                await read(ours.start(turn))
            past = [
                PastMessage(role="user", text="one"),
                PastMessage(role="agent", text="yes"),
            ]
            object.__setattr__(turn, "history", past)
            await read(ours.start(turn))
    assert canned.asked[-1][2].count(b"role") == 3


async def test_a_hostile_value_does_not_become_a_header(make_turn: MakeTurn) -> None:
    canned = Canned('{"a": "yes", "t": "x\\r\\nX-Evil: 1"}')
    more: dict[str, Any] = {
        "answer": {"text": "a", "ref": {"t": "t"}},
        "continue_request": {"headers": {"X-Thread": "${ref.t}"}},
    }
    with serving(canned.app) as url:
        async with reaching(url, **more) as ours:
            first = await read(ours.start(make_turn("one")))
            with pytest.raises(Rejected, match="control"):
                await read(ours.start(make_turn("two", ref=last(first).ref)))
    assert len(canned.asked) == 1


@pytest.mark.parametrize(("status", "fine"), [(200, True), (404, True), (405, True), (401, False)])
async def test_checking_starts_nothing_and_tells_a_refusal(status: int, fine: bool) -> None:
    canned = Canned("", status)
    with serving(canned.app) as url:
        async with reaching(url) as ours:
            if fine:
                assert await ours.check()
            else:
                with pytest.raises(Rejected):
                    await ours.check()
    assert [method for method, *_ in canned.asked] == ["OPTIONS"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"answer": {"text": "t"}}, "needs answer.done"),
        ({"answer": {"form": "sse", "delta": "t", "done": "d"}}, "needs answer.done"),
        ({"poll_request": {"body": "${prompt}"}}, "not known any more"),
    ],
)
def test_polling_knows_when_it_is_done_and_does_not_ask_again(
    settings: dict[str, Any], words: str
) -> None:
    valid = {
        "url": "https://a.example",
        "request": {"body": "${prompt}"},
        "answer": {"text": "t", "done": "d"},
        "poll_request": {"method": "GET", "path": "jobs"},
    }
    assert HTTPAgentConfig.model_validate(valid).poll_interval == 1.0
    with pytest.raises(ValidationError, match=words):
        HTTPAgentConfig.model_validate({**valid, **settings})
