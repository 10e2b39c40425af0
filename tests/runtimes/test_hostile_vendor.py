"""A vendor's server that means harm, over three adapters: what it sends ends in a turn, or in one
of our errors, once, and in bounded memory."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import anyio
import pytest
from lap_runtimes.base import Done, Event, Message, MessageDelta, Started, Usage
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure
from lap_runtimes.http_errors import retry_after
from lap_runtimes.stream import StreamReader
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from lap_mcp.control.recording import recorded
from lap_mcp.control.storable import storable
from tests.canary import canary
from tests.runtimes.bench import adapter_of
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.reading import read
from tests.runtimes.serving import serving

pytestmark = pytest.mark.anyio

SECONDS = 120
SSE = "text/event-stream"
RUN = "0f0f0f0f-0f0f-4f0f-8f0f-0f0f0f0f0f0f"
SETTINGS: dict[str, dict[str, Any]] = {
    "openai_responses": {"model": "m"},
    "langgraph": {"assistant": "a"},
    "http": {
        "request": {"body": {"p": "${prompt}"}},
        "answer": {"form": "sse", "delta": "text", "done": "@event=done"},
    },
}
for _kind in SETTINGS:
    # Imported while the tests are collected: it reads files, which an event loop may not.
    adapter_of(_kind)


class Hostile:
    """Answers every POST with these bytes and headers, and every GET with `{}`."""

    def __init__(self, body: bytes | Iterable[bytes], status: int = 200, **headers: str) -> None:
        self._body, self._status = body, status
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}
        where = f"/threads/{RUN}/runs/{RUN}"
        self._headers |= {"content-location": where}
        every = Route("/{path:path}", self.answer, methods=["GET", "POST"])
        self.app = Starlette(routes=[every])

    async def answer(self, request: Request) -> Response:
        if request.method == "GET":
            return Response(b'{"status": "success"}', media_type="application/json")
        await request.body()
        pieces = [self._body] if isinstance(self._body, bytes) else self._body
        return StreamingResponse(
            self._pieces(pieces), self._status, media_type=SSE, headers=self._headers
        )

    async def _pieces(self, pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece


async def told(kind: str, server: Hostile, turn: Any) -> tuple[list[Event], RuntimeFailure | None]:
    """What came of one turn, and what was raised."""
    events: list[Event] = []
    adapter = adapter_of(kind)
    with serving(server.app) as url:
        settings = {"url": url, "auth": {"bearer": "env:KEY"}, **SETTINGS[kind]}
        context = {"resolve_secret": lambda reference: canary("bearer")}
        runtime = adapter(adapter.Config.model_validate(settings, context=context))
        try:
            with anyio.fail_after(SECONDS):
                async with runtime.start(turn) as stream:
                    async for event in stream:
                        events.append(event)
        except RuntimeFailure as failure:
            return events, failure
        finally:
            await runtime.aclose()
    return events, None


def frame(event: str = "", **body: Any) -> bytes:
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {json.dumps(body)}\n\n".encode()


@pytest.mark.parametrize("kind", SETTINGS)
async def test_a_packed_bomb_is_given_up_at_the_limit_of_an_event(
    kind: str, make_turn: MakeTurn
) -> None:
    """Eighty megabytes in one line, packed into eighty kilobytes."""
    packer = zlib.compressobj(wbits=31)
    bomb = packer.compress(b"data: ") + b"".join(packer.compress(b"x" * 10**6) for _ in range(80))
    bomb += packer.flush()
    assert len(bomb) < 10**6
    events, failure = await told(kind, Hostile(bomb, content_encoding="gzip"), make_turn("x"))
    assert isinstance(failure, ProtocolError)
    assert "one event of more than" in failure.message
    assert not any(isinstance(event, Done) for event in events)


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("packing", ["br", "zstd", "gzip, gzip"])
async def test_a_body_packed_as_nobody_asked_is_not_unpacked(
    kind: str, packing: str, make_turn: MakeTurn
) -> None:
    server = Hostile(frame(text="hello"), content_encoding=packing)
    _, failure = await told(kind, server, make_turn("x"))
    assert isinstance(failure, ProtocolError)
    assert f"packed with {packing}" in failure.message


ENDS: dict[str, list[bytes]] = {
    "openai_responses": [
        frame(type="response.created", response={"id": "r", "status": "in_progress"}),
        frame(type="response.output_text.delta", item_id="m", output_index=0, delta="one"),
        frame(type="response.completed", response={"id": "r", "status": "completed"}),
    ],
    "langgraph": [
        frame("messages", text="") + frame("error", error="E", message="the end"),
    ],
    "http": [frame(text="one"), frame("done")],
}


@pytest.mark.parametrize("kind", SETTINGS)
async def test_what_follows_the_end_is_not_heard(kind: str, make_turn: MakeTurn) -> None:
    """The same end again, more words, another turn: in one piece with the end."""
    ends = ENDS[kind]
    server = Hostile([b"".join([*ends, *ends, *ends])])
    events, failure = await told(kind, server, make_turn("x"))
    assert failure is None
    assert sum(isinstance(event, Started) for event in events) == 1
    assert sum(isinstance(event, Done) for event in events) == 1
    assert isinstance(events[-1], Done)
    assert sum(isinstance(event, Message) for event in events) <= 1


async def test_very_many_tiny_events_are_read_and_joined(make_turn: MakeTurn) -> None:
    count = 30_000
    pieces = [frame(text="x") * 1000 for _ in range(count // 1000)]
    server = Hostile([*pieces, frame("done")])
    events, failure = await told("http", server, make_turn("x"))
    assert failure is None
    assert sum(isinstance(event, MessageDelta) for event in events) == count
    assert [event.text for event in events if isinstance(event, Message)] == ["x" * count]


def test_a_line_that_comes_byte_by_byte_costs_its_bytes() -> None:
    reader = StreamReader("sse", limit=10_000)
    for _ in range(10_000):
        assert reader.feed(b"x") == []
    with pytest.raises(ProtocolError):
        reader.feed(b"x")
    reader = StreamReader("sse", limit=10_000)
    found = [frame for byte in b'data: {"a": 1}\n\n' for frame in reader.feed(bytes([byte]))]
    assert [each.data for each in found] == ['{"a": 1}']


@pytest.mark.parametrize("wait", ["9" * 400, "1e400", "-5", "nan", "soon"])
async def test_a_wait_without_end_is_a_number_that_can_be_told(
    wait: str, make_turn: MakeTurn
) -> None:
    server = Hostile(b"{}", 429, retry_after=wait)
    _, failure = await told("openai_responses", server, make_turn("x"))
    assert isinstance(failure, Rejected)
    assert failure.retry_after is None or 0 <= failure.retry_after <= 1e9
    told_in_ms = retry_after({"retry-after-ms": wait})
    assert told_in_ms is None or 0 <= told_in_ms <= 1e9


async def test_usage_that_is_no_count_is_not_recorded_as_one(make_turn: MakeTurn) -> None:
    """Negative, and none at all; and a message whose data JSON cannot say."""
    used = b'{"input_tokens": -7, "output_tokens": NaN, "total_tokens": -Infinity}'
    end = b'data: {"type": "response.completed", "response": {"id": "r", "usage": %s}}\n\n' % used
    events, failure = await told("openai_responses", Hostile(end), make_turn("x"))
    assert failure is None
    (usage,) = [event for event in events if isinstance(event, Usage)]

    async def keep(data: bytes) -> Any:
        raise AssertionError("nothing is large here")

    for event in (usage, Usage(cost_usd=float("nan")), Usage(cost_usd=-3.0, output_tokens=-1)):
        new = await recorded(storable(event), keep, NOTHING)
        assert new is not None
        assert new.payload["input_tokens"] >= 0
        assert new.payload["output_tokens"] >= 0
        assert new.payload.get("cost_usd", 0) >= 0
        json.loads(json.dumps(new.payload, allow_nan=False))
    message = Message(message_id="m", text="x", data={"a": [float("inf"), 1.5]})
    assert storable(message).data == {"a": [None, 1.5]}


class _Nothing:
    """A scrubber without secrets."""

    def text(self, text: str) -> str:
        return text

    def data(self, data: Any) -> Any:
        return data


NOTHING: Any = _Nothing()


@pytest.mark.parametrize("name", ["resp/../x", "r\r\nX-Evil: 1", "r?a=b", "r#", "r\x00"])
async def test_an_id_that_would_lead_elsewhere_is_never_part_of_an_address(
    name: str, make_turn: MakeTurn
) -> None:
    created = frame(type="response.created", response={"id": name, "status": "in_progress"})
    adapter = adapter_of("openai_responses")
    with serving(Hostile(created).app) as url:
        settings = {"url": url, "model": "m", "background": True, "poll_interval": 0.02}
        runtime = adapter(adapter.Config.model_validate(settings))
        try:
            ref = {"response": name, "turn": "t"}
            for asking in (runtime.cancel(ref), read(runtime.attach(ref, None))):
                with anyio.fail_after(SECONDS), pytest.raises(Rejected) as refused:
                    await asking
                assert not refused.value.sent
        finally:
            await runtime.aclose()
