"""What goes wrong between us and a runtime, for every adapter: two sessions at once, errors with a
status, answers byte by byte, noise between events, a wrong credential, a process that died."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest
from lap_runtimes.base import Done, Event, Message, MessageDelta, Started
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure, Unavailable

from tests.canary import canary
from tests.runtimes.bench import Bench, Case, adapter_of
from tests.runtimes.cases import CASES
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.programs import ProgramCase
from tests.runtimes.reading import last_ref, read, texts, until

pytestmark = pytest.mark.anyio

SECONDS = 15
OPEN = ("http", "n8n")
"""Kinds whose test server lets everybody in."""
ANYTHING = ("bedrock_agentcore", "n8n")
"""Kinds whose agents may answer with whatever they like, also with a page."""
NEGOTIATES = ("mcp",)
"""Kinds that ask for one revision of their protocol, then for another, before they start."""

ERRORS: list[tuple[int, str, bool | None]] = [
    (400, "invalid", True),
    (401, "auth", True),
    (403, "auth", True),
    (404, "not_found", True),
    (409, "conflict", True),
    (429, "rate_limited", True),
    (500, "failed", None),
    (503, "overloaded", True),
]
"""Status, its kind, and whether a start that got it may be tried again.  Whether one that got a 500
may depends on how far it had come."""


class Faulty:
    """An ASGI application that misbehaves where it is told to, around one that does not."""

    def __init__(self, app: Any, url: str) -> None:
        self._app = app
        self.url = url
        self.refuse: tuple[int, dict[str, str], bytes] | None = None
        """Status, headers and body of every answer."""
        self.refused = 0
        self.drip = False
        """Bodies come in pieces of one to seven bytes."""
        self.noise = b""
        """Put between the events of a stream."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.refuse is not None and scope["type"] == "http":
            await self._refuse(receive, send, *self.refuse)
            return
        await self._app(scope, receive, self._sender(send))

    async def _refuse(
        self, receive: Any, send: Any, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        self.refused += 1
        while (await receive()).get("more_body"):
            pass
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": body})

    def _sender(self, send: Any) -> Any:
        stream = False

        async def sender(message: Any) -> None:
            nonlocal stream
            if message["type"] == "http.response.start":
                kinds = [value for name, value in message["headers"] if name == b"content-type"]
                stream = any(kind.startswith(b"text/event-stream") for kind in kinds)
                await send(message)
                return
            body = message.get("body", b"")
            if stream and self.noise and body.endswith(b"\n\n"):
                body += self.noise
            if not self.drip:
                await send({**message, "body": body})
                return
            await self._dripped(send, message, body)

        return sender

    async def _dripped(self, send: Any, message: Any, body: bytes) -> None:
        place, size = 0, 1
        while place < len(body):
            piece, place = body[place : place + size], place + size
            size = size % 7 + 1
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({**message, "body": b""})


@asynccontextmanager
async def faulty(case: Case) -> AsyncIterator[tuple[Bench, Faulty]]:
    """A bench whose server misbehaves on demand, and that leaves no task behind."""
    made: list[Faulty] = []

    def app(url: str) -> Any:
        real, server, cancelled = case.app(url)
        made.append(Faulty(real, url))
        return made[-1], server, cancelled

    async with replace(case, app=app).bench() as bench:
        with anyio.fail_after(SECONDS):
            yield bench, made[0]


def another(case: Case, url: str, secret: str) -> Any:
    """Another runtime of the same configuration, with this credential."""
    settings = {"auth": {"bearer": "env:KEY"}, "url": url + case.path, **case.settings}
    context = {"resolve_secret": lambda reference: secret}
    adapter = adapter_of(case.kind)
    return adapter(adapter.Config.model_validate(settings, context=context))


SERVED = [case for case in CASES if not isinstance(case, ProgramCase)]
"""Programs have no HTTP to break; how they misbehave is in `test_acp.py` and `test_mcp.py`."""


@pytest.fixture(params=SERVED, ids=lambda case: case.id)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


async def test_two_sessions_at_once_do_not_mix(case: Case, make_turn: MakeTurn) -> None:
    async with faulty(case) as (bench, _):
        if bench.runtime.capabilities.conversation != "runtime":
            pytest.skip("what was said comes with each turn, or each turn stands alone")
        found: dict[str, list[Event]] = {}

        async def session(word: str, number: int) -> None:
            mine = replace(make_turn(f"remember {word}"), session_id=f"ses_{number:032x}")
            first = await read(bench.runtime.start(mine))
            again = replace(make_turn("recall", ref=last_ref(first)), session_id=mine.session_id)
            found[word] = await read(bench.runtime.start(again))

        async with anyio.create_task_group() as tasks:
            for number, word in enumerate(("apples", "pears")):
                tasks.start_soon(session, word, number)
        for word, other in (("apples", "pears"), ("pears", "apples")):
            said = "\n".join(texts(found[word]))
            assert word in said
            assert other not in said


async def test_an_error_before_the_first_byte_is_told_with_all_that_is_known(
    case: Case, make_turn: MakeTurn
) -> None:
    """Status, words, the vendor's id, how long to wait, and whether it may be tried again; it is
    not tried again by itself, and the next start is one like any other."""
    async with faulty(case) as (bench, faults):
        body = json.dumps({"error": {"message": "out of ink"}}).encode()
        headers = {"content-type": "application/json", "x-request-id": "req_7", "retry-after": "60"}
        for status, kind, safe in ERRORS:
            if status == 500 and case.kind == "n8n":
                continue  # a workflow that failed: that is how its turn ended
            faults.refuse, faults.refused = (status, headers, body), 0
            with pytest.raises(Rejected, match="out of ink") as refused:
                await read(bench.runtime.start(make_turn("hello")))
            failure = refused.value
            assert (failure.status, failure.kind) == (status, kind)
            assert (failure.request_id, failure.retry_after) == ("req_7", 60.0)
            assert safe is None or failure.safe_to_retry is safe, status
            if case.kind not in NEGOTIATES:
                assert faults.refused == 1, f"a start was tried again after {status}"
        faults.refuse = None
        events = await read(bench.runtime.start(make_turn("hello")))
        assert isinstance(events[-1], Done)
        assert events[-1].outcome == "completed"


async def test_a_page_where_an_answer_belongs_is_no_answer(case: Case, make_turn: MakeTurn) -> None:
    """A captive portal, a proxy's error page with 200: refused or lost, never an empty success."""
    async with faulty(case) as (bench, faults):
        faults.refuse = (200, {"content-type": "text/html"}, b"<html><p>Sign in</p></html>")
        events: list[Event] = []
        try:
            events = await read(bench.runtime.start(make_turn("hello")))
        except RuntimeFailure as failure:
            assert isinstance(failure, ProtocolError | Unavailable)  # noqa: PT017
        if case.kind in ANYTHING and events:
            assert "Sign in" in "\n".join(texts(events))
            return
        assert not any(isinstance(e, Done) and e.outcome == "completed" for e in events)


async def test_an_answer_that_comes_in_crumbs_is_read_whole(
    case: Case, make_turn: MakeTurn
) -> None:
    async with faulty(case) as (bench, faults):
        faults.drip = True
        events = await read(bench.runtime.start(make_turn("hello wide world")))
        assert "hello wide world" in "\n".join(texts(events))
        assert isinstance(events[-1], Done)
        assert events[-1].outcome == "completed"


async def test_comments_and_empty_lines_between_events_say_nothing(
    case: Case, make_turn: MakeTurn
) -> None:
    async with faulty(case) as (bench, faults):
        faults.noise = b": keep-alive\n\n\n\nretry: 1000\n\n"
        events = await read(bench.runtime.start(make_turn("slow 3")))
        assert isinstance(events[-1], Done)
        assert events[-1].outcome == "completed"
        assert "chunk 3 of 3" in "\n".join(texts(events))


async def test_a_wrong_credential_is_refused_as_such_and_not_shown(
    case: Case, make_turn: MakeTurn
) -> None:
    if case.kind in OPEN:
        pytest.skip("its test server lets everybody in")
    wrong = canary("wrong-key")
    async with faulty(case) as (_, faults):
        runtime = another(case, faults.url, wrong)
        try:
            with pytest.raises(Rejected) as refused:
                await read(runtime.start(make_turn("hello")))
        finally:
            await runtime.aclose()
        assert refused.value.kind == "auth"
        assert not refused.value.sent
        assert wrong not in str(refused.value)


async def test_another_process_takes_a_turn_over(case: Case, make_turn: MakeTurn) -> None:
    """Nothing but the ref is needed, and it survives being written down."""
    async with faulty(case) as (bench, faults):
        if bench.runtime.capabilities.attach == "none":
            pytest.skip("a lost stream is a lost turn here")
        async with bench.runtime.start(make_turn("slow 8")) as events:
            before = await until(events, Started)
        ref = json.loads(json.dumps(last_ref(before)))
        await bench.runtime.aclose()
        other = another(case, faults.url, canary(case.slot or case.kind))
        try:
            whole = await read(other.attach(ref, None))
        finally:
            await other.aclose()
        assert isinstance(whole[-1], Done)
        assert whole[-1].outcome == "completed"
        if case.kind != "http":
            assert "chunk 8 of 8" in "\n".join(texts(whole))


async def test_a_deadline_in_the_middle_of_a_stream_is_kept_and_leaves_nothing(
    case: Case, make_turn: MakeTurn
) -> None:
    """Though bytes keep coming."""
    before = asyncio.all_tasks()
    async with faulty(case) as (bench, _):
        with anyio.move_on_after(0.3) as scope:
            await read(bench.runtime.start(make_turn("slow 500")))
        assert scope.cancelled_caught
        await bench.runtime.aclose()
        await bench.proxy.until_closed()
    assert asyncio.all_tasks() <= before


async def test_closing_twice_is_closing_once_and_a_closed_runtime_opens_again(
    case: Case, make_turn: MakeTurn
) -> None:
    async with faulty(case) as (bench, _):
        await bench.runtime.check()
        await bench.runtime.aclose()
        await bench.runtime.aclose()
        await bench.proxy.until_closed()
        events = await read(bench.runtime.start(make_turn("hello")))
        assert any(isinstance(event, Message | MessageDelta) for event in events)


async def test_a_generator_around_a_stream_can_be_closed_half_way(
    case: Case, make_turn: MakeTurn
) -> None:
    """As the session engine reads: the block is left by closing whoever is inside it."""
    async with faulty(case) as (bench, _):

        async def inside() -> AsyncGenerator[Event, None]:
            async with bench.runtime.start(make_turn("slow 5")) as events:
                async for event in events:
                    yield event

        async with aclosing(inside()) as events:
            assert await anext(events) is not None
        await bench.runtime.aclose()
        await bench.proxy.until_closed()
