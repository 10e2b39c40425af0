"""An error after the first byte, over every adapter: the agent had begun, some of what it said is
here, and then its runtime says, in the form of its own wire, that the turn failed.

The rows of `LATE` say how each wire has it; `WHOLE` names the configurations whose wire has no such
moment, and why."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import anyio
import pytest
from lap_runtimes.base import Done, Event, Message, MessageDelta, Progress, Started
from lap_runtimes.errors import RuntimeFailure

from tests.runtimes import (
    agentcore_server,
    http_server,
    responses_server,
    snowflake_server,
)
from tests.runtimes.bench import Bench, Case
from tests.runtimes.cases import CASES
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.contract.test_faults import SERVED, Faulty
from tests.runtimes.programs import ProgramCase
from tests.runtimes.reading import last_ref, read, texts

pytestmark = pytest.mark.anyio

SECONDS = 30
WORDS = "out of ink"
BEGUN = "It began well."


@dataclass(frozen=True, slots=True)
class Late:
    """`form` says, in the words of its wire, what the runtime sends."""

    prompt: str
    form: str
    kind: str = "failed"
    request_id: str | None = None
    told: str = ""
    """What the words of the failure hold beside the agent's."""


FAIL, BREAK = f"fail {WORDS}", f"break {WORDS}"
_TASK = Late(FAIL, "TASK_STATE_FAILED with a message")
_BROKEN = Late(BREAK, 'data: {"error": "…"} of MLflow')

LATE: Mapping[str, tuple[Late, ...]] = {
    "a2a": (_TASK,),
    "acp": (
        Late(FAIL, "JSON-RPC error -32603 to session/prompt"),
        Late(BREAK, "JSON-RPC error -32000 to session/prompt", kind="auth"),
    ),
    "bedrock_agentcore": (Late(FAIL, 'data: {"error", "error_type"} of BedrockAgentCoreApp'),),
    "claude_managed_agents": (
        Late(FAIL, "session.error, then idle: retries_exhausted", kind="overloaded"),
        Late(BREAK, "session.error in the middle of a message", kind="rate_limited"),
    ),
    "cursor": (Late(FAIL, "event: error, then a run with the status ERROR"),),
    "databricks": (_BROKEN,),
    "elastic": (Late(FAIL, "event: error with a traceId", request_id="trace-2"),),
    "gemini": (
        Late(FAIL, "an interaction that failed, with errors"),
        Late(BREAK, "the same, in the middle of a step", kind="rate_limited"),
    ),
    "http": (
        Late(
            BREAK,
            "an event with what `error` names",
            kind="rate_limited",
            request_id=http_server.REQUEST_ID,
        ),
    ),
    "langgraph": (Late(BREAK, "event: error", told="ValueError"),),
    "litellm": (_TASK,),
    "litellm_agent_platform": (Late(FAIL, "session.error in the session's list"),),
    "mcp": (Late(BREAK, "JSON-RPC error to tools/call", kind="invalid"),),
    "n8n": (Late(FAIL, '{"type": "error"} in the middle of an answer'),),
    "openai_agents": (
        Late(FAIL, "agent.session.turn.failed", kind="overloaded"),
        Late(BREAK, "the same, in the middle of a message", kind="rate_limited"),
    ),
    "openai_responses": (
        Late(
            FAIL,
            "response.failed",
            request_id=responses_server.REQUEST_ID,
            told="server_error",
        ),
        Late(
            BREAK,
            "event: error in the middle of a message",
            kind="rate_limited",
            request_id=responses_server.REQUEST_ID,
            told="rate_limit_exceeded",
        ),
    ),
    "opencode": (
        Late(FAIL, "session.error"),
        Late(BREAK, "session.error of a model's provider", kind="rate_limited", told="429"),
    ),
    "snowflake": (
        Late(
            FAIL,
            "event: error with a code and a request_id",
            request_id=snowflake_server.REQUEST_ID,
            told="399504",
        ),
    ),
}
"""By kind."""

OWN: Mapping[str, tuple[Late, ...]] = {
    "agentcore-harness": (
        Late(FAIL, "the exception runtimeClientError", request_id=agentcore_server.REQUEST_ID),
        Late(
            BREAK,
            "the exception validationException",
            kind="invalid",
            request_id=agentcore_server.REQUEST_ID,
        ),
    ),
    "databricks-durable": (Late(FAIL, "error of the template, then run.failed"),),
    "mcp-http-tasks": (Late(BREAK, "a task with the status failed"),),
    "responses-polled": (replace(LATE["openai_responses"][0], request_id=None),),
}
"""By case, where a configuration has another form than its kind."""

WHOLE: Mapping[str, str] = {
    "agentcore-whole": "an agent that does not stream answers with one JSON value, or with 500",
    "http-alone": "its answer is one JSON value: it holds an error, or the agent's words",
    "http-json": "its answer is one JSON value: it holds an error, or the agent's words",
    "http-polled": "what is looked at is one JSON value, an error or the agent's words",
    "n8n-webhook": "a webhook answers when its workflow has ended: with 500, where it failed",
    "responses-whole": "its answer is one response object, which is `failed` as a whole",
}
"""Configurations in which nothing comes before the answer, and so no error after a first byte."""

EVERY = [
    pytest.param(case, late, id=f"{case.id}-{late.prompt.partition(' ')[0]}")
    for case in CASES
    if case.id not in WHOLE
    for late in OWN.get(case.id, LATE.get(case.kind, ()))
]


def test_every_configuration_has_a_row_or_a_reason() -> None:
    covered = {parameters.values[0].id for parameters in EVERY}  # type: ignore[attr-defined]
    assert covered | set(WHOLE) == {case.id for case in CASES}
    assert not covered & set(WHOLE)
    assert set(OWN) <= covered
    assert all(len(reason.split()) > 5 for reason in WHOLE.values())


@pytest.mark.parametrize("case", [c for c in CASES if c.id in WHOLE], ids=lambda case: case.id)
async def test_where_an_answer_comes_whole_nothing_is_shown_before_it_fails(
    case: Case, make_turn: MakeTurn
) -> None:
    async with case.bench() as bench:
        with anyio.fail_after(SECONDS):
            events = await read(bench.runtime.start(make_turn(FAIL)))
    assert not any(isinstance(event, MessageDelta) for event in events)
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.outcome, done.error_kind) == ("failed", "failed")
    assert WORDS in (done.error or "")


@pytest.mark.parametrize(("case", "late"), EVERY)
async def test_an_error_after_the_first_byte_ends_the_turn_and_keeps_what_came(
    case: Case, late: Late, make_turn: MakeTurn
) -> None:
    """Once, with its kind and words, the vendor's code and request where the wire has them; as an
    end of the turn, not as something that is raised: a start that has begun is never repeated."""
    before = asyncio.all_tasks()
    async with case.bench() as bench:
        with anyio.fail_after(SECONDS):
            events = await read(bench.runtime.start(make_turn(late.prompt)))
            await bench.runtime.aclose()
            await bench.proxy.until_closed()
    check_late(events, late)
    assert asyncio.all_tasks() <= before, "tasks are left"


def check_late(events: list[Event], late: Late) -> None:
    said = [event for event in events if isinstance(event, MessageDelta | Message | Progress)]
    assert isinstance(events[0], Started) or isinstance(events[1], Started)
    assert sum(isinstance(event, Started) for event in events) == 1
    assert any(BEGUN.split()[0] in event.text or "well" in event.text for event in said)
    deltas: dict[str, str] = {}
    for event in events:
        if isinstance(event, MessageDelta):
            deltas[event.message_id] = deltas.get(event.message_id, "") + event.text
    closed = {event.message_id: event.text for event in events if isinstance(event, Message)}
    assert deltas.items() <= closed.items(), "what came before the error is not kept"
    assert sum(isinstance(event, Done) for event in events) == 1
    done = events[-1]
    assert isinstance(done, Done)
    assert done.outcome == "failed"
    assert WORDS in (done.error or "")
    assert late.told in (done.error or "")
    assert (done.error_kind, done.request_id) == (late.kind, late.request_id)


@pytest.mark.parametrize(("case", "late"), EVERY)
async def test_a_turn_that_failed_late_is_told_the_same_by_whoever_attaches(
    case: Case, late: Late, make_turn: MakeTurn
) -> None:
    async with case.bench() as bench:
        runtime = bench.runtime
        if runtime.capabilities.attach == "none":
            pytest.skip("a lost stream is a lost turn here")
        if case.kind == "http":
            pytest.skip("its server repeats words, not errors")
        if case.kind == "elastic":
            pytest.skip("a round that failed is not kept by its conversation")
        with anyio.fail_after(SECONDS):
            first = await read(runtime.start(make_turn(late.prompt)))
            started = next(event for event in first if event.ref is not None)
            again = await read(runtime.attach(last_ref([started]), None))
    done, repeated = first[-1], again[-1]
    assert isinstance(done, Done)
    assert isinstance(repeated, Done)
    assert (repeated.outcome, repeated.error_kind) == ("failed", done.error_kind)
    assert WORDS in (repeated.error or "")
    if late.prompt == FAIL and case.kind != "n8n":
        # A history has no message that was never finished; n8n keeps none of an answer that failed.
        assert set(texts(first)) <= set(texts(again))


PROGRAMS = [case for case in CASES if isinstance(case, ProgramCase)]
"""What a server says before its first byte is in `test_faults.py`; programs say it here."""


@pytest.mark.parametrize("case", PROGRAMS, ids=lambda case: case.id)
async def test_a_program_that_refuses_before_its_first_word_ends_the_turn_in_its_words(
    case: Case, make_turn: MakeTurn
) -> None:
    async with case.bench() as bench:
        with anyio.fail_after(SECONDS):
            events = await read(bench.runtime.start(make_turn(f"refuse {WORDS}")))
            again = await read(bench.runtime.start(make_turn("hello")))
    assert not any(isinstance(event, MessageDelta | Message) for event in events)
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.outcome, done.error_kind) == ("failed", "invalid")
    assert WORDS in (done.error or "")
    assert "hello" in "".join(texts(again))


# A start that is taken, and a request after it that is refused


class Refusing(Faulty):
    """Refuses one request, by its number; and sees whether the prompt was taken before."""

    number = 0
    prompt = ""
    seen = 0
    taken = False

    def refuse_only(self, number: int, prompt: str) -> None:
        self.number, self.prompt = number, prompt
        self.seen, self.taken, self.refused = 0, False, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number, self.seen = self.seen, self.seen + 1
        if number == self.number:
            body = json.dumps({"error": {"message": WORDS}}).encode()
            headers = {"content-type": "application/json", "retry-after": "60"}
            await self._refuse(receive, send, 429, headers, body)
            return
        await self._app(scope, *self._watched(scope, receive, send))

    def _watched(self, scope: Any, receive: Any, send: Any) -> tuple[Any, Any]:
        heard = bytearray()

        async def receiver() -> Any:
            message = await receive()
            heard.extend(message.get("body", b""))
            return message

        async def sender(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                # A session may be given its prompt as a title; that starts nothing.
                named = scope["path"].endswith(("/session", "/sessions"))
                if self.prompt.encode() in heard and not (named and b'"title"' in heard):
                    self.taken = True
            await send(message)

        return receiver, sender


@asynccontextmanager
async def refusing(case: Case) -> AsyncIterator[tuple[Bench, Refusing]]:
    made: list[Refusing] = []

    def app(url: str) -> Any:
        real, server, cancelled = case.app(url)
        made.append(Refusing(real, url))
        return made[-1], server, cancelled

    async with replace(case, app=app).bench() as bench:
        with anyio.fail_after(SECONDS):
            yield bench, made[0]


async def gathered(stream: Any, events: list[Event]) -> None:
    """What came stays in `events`, whatever ends the stream."""
    async with stream as read_from:
        async for event in read_from:
            events.append(event)


EARLY = ("agentcore-whole", "lap-platform", "lap-platform-disobedient")
"""They tell a beginning while the prompt is being sent, which is answered when the agent is done:
nothing else says how to cancel it, or where to look."""
MOST = 12
"""Requests of one turn that are refused, one in each run."""


@pytest.mark.parametrize("case", SERVED, ids=lambda case: case.id)
async def test_a_refusal_after_the_start_was_taken_is_never_one_of_the_start(
    case: Case, make_turn: MakeTurn
) -> None:
    """Whichever request of a turn is refused for its pace: once the prompt was taken, the adapter
    has said so (`Started`), or says that it was sent; else a repeated start would run twice."""
    wrong: list[str] = []
    async with refusing(case) as (bench, faults):
        for number in range(MOST):
            faults.refuse_only(number, f"hello number {number} of them")
            turn = replace(make_turn(faults.prompt), session_id=f"ses_{number:032x}")
            events: list[Event] = []
            failure: RuntimeFailure | None = None
            try:
                await gathered(bench.runtime.start(turn), events)
            except RuntimeFailure as raised:
                failure = raised
            told = any(isinstance(event, Started) for event in events)
            if failure is not None and faults.taken and not told and failure.safe_to_retry:
                wrong.append(f"request {number}: {failure.message}")
            if failure is not None and not faults.taken and case.id not in EARLY:
                assert not told, f"request {number}: nothing was taken, and a beginning was told"
            if not faults.refused:
                break
        assert number > 0, "no request was refused"
    assert not wrong


# Errors in the middle of a stream that are the stream's, not the turn's


@asynccontextmanager
async def breaking(case: Case, frame: bytes) -> AsyncIterator[Bench]:
    """The first stream of a turn sends `frame` after its third event, and then ends."""

    def app(url: str) -> Any:
        real, server, cancelled = case.app(url)
        return Breaking(real, frame), server, cancelled

    async with replace(case, app=app).bench() as bench:
        with anyio.fail_after(SECONDS):
            yield bench


class Breaking:
    def __init__(self, app: Any, frame: bytes) -> None:
        self._app = app
        self._frame = frame
        self._done = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        streams, count, over = False, 0, asyncio.Event()

        async def sender(message: Any) -> None:
            nonlocal streams, count
            if message["type"] == "http.response.start":
                kinds = [value for name, value in message["headers"] if name == b"content-type"]
                streams = any(kind.startswith(b"text/event-stream") for kind in kinds)
            elif streams and not self._done:
                body = message.get("body", b"").replace(b"\r\n", b"\n")
                count += body.count(b"\n\n")
                if count > 3:
                    self._done = True
                    await send({"type": "http.response.body", "body": self._frame})
                    over.set()
                    return
            if not over.is_set():
                await send(message)

        async def receiver() -> Any:
            if over.is_set():
                return {"type": "http.disconnect"}
            return await receive()

        await self._app(scope, receiver, sender)


def _sse(name: str, **body: Any) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(body)}\n\n".encode()


_RPC = {"jsonrpc": "2.0", "id": 1}
STREAMS: Mapping[str, bytes] = {
    "a2a-jsonrpc": _sse("", **_RPC, error={"code": -32602, "message": WORDS}),
    "a2a-0.3": _sse("", **_RPC, error={"code": -32602, "message": WORDS}),
    "a2a-rest": _sse("", error={"code": 404, "status": "NOT_FOUND", "message": WORDS}),
    "litellm": _sse("", **_RPC, error={"code": -32001, "message": WORDS}),
    "claude-managed-agents": _sse(
        "error", type="error", error={"type": "overloaded_error", "message": WORDS}
    ),
    "openai-agents-bare": _sse("error", type="error", code="stream_error", message=WORDS),
    "gemini": _sse("error", event_type="error", error={"code": "internal", "message": WORDS}),
}


@pytest.mark.parametrize("case", [c for c in CASES if c.id in STREAMS], ids=lambda case: case.id)
async def test_a_stream_that_says_it_broke_is_lost_and_the_turn_is_found_again(
    case: Case, make_turn: MakeTurn
) -> None:
    """It is raised as something that had been sent, whatever its code; attaching gives the rest."""
    before: list[Event] = []
    async with breaking(case, STREAMS[case.id]) as bench:
        with pytest.raises(RuntimeFailure, match=WORDS) as failure:
            await gathered(bench.runtime.start(make_turn("slow 8")), before)
        assert failure.value.sent
        assert not failure.value.safe_to_retry
        assert sum(isinstance(event, Started) for event in before) == 1
        again = await read(bench.runtime.attach(last_ref(before), None))
    assert isinstance(again[-1], Done)
    assert again[-1].outcome == "completed"
    assert "chunk 8 of 8" in "\n".join(texts(again))
