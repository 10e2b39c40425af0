"""The interception without I/O: for any cut of the upstream's bytes the client gets the same bytes,
and no input breaks the decoders."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lap_runtimes.errors import ProtocolError

from lap_mcp.front_parts.objects import Objects
from lap_mcp.front_parts.steps import Ask, Failure, Finish, Interception, Run, Send, Step
from lap_mcp.openai_front.arguments import CodeArguments, unfenced
from lap_mcp.openai_front.chat_events import ChatEvents
from lap_mcp.openai_front.chat_exchange import ChatExchange
from lap_mcp.openai_front.chat_requests import chat_request
from lap_mcp.openai_front.citations import cited
from lap_mcp.openai_front.exchange import Exchange, Setting
from lap_mcp.openai_front.plans import plan_of
from lap_mcp.openai_front.results import CodeResult, Picture
from lap_mcp.openai_front.wire import named_event
from tests.openai_front.model import Call, Code, Model, Oops, Say, Stopped, Think, Turn

TOOL = {"type": "code_interpreter", "container": {"type": "auto"}}
BODY = {"model": "m", "input": "go", "tools": [TOOL], "include": ["code_interpreter_call.outputs"]}
TURNS: list[Turn] = [
    [Think("hm"), Code('print("a\\n\u20ac\U0001f600")')],
    [Say("first"), Code("b = 1"), Code("c = 2")],
    [Say("see [x](sandbox:/mnt/data/out.csv) and [y](sandbox:/mnt/data/none.csv)")],
]
RESULT = CodeResult(
    logs="out",
    told="out",
    pictures=[Picture(file_id="cfile_p", mime="image/png", data=b"png")],
    files={"out.csv": "cfile_o"},
)


def ids() -> Any:
    numbers = itertools.count(1)
    return lambda prefix: f"{prefix}_{next(numbers)}"


def setting(body: dict[str, Any] = BODY, **more: Any) -> Setting:
    values: dict[str, Any] = {
        "plan": plan_of(body),
        "given": [{"role": "user", "content": "go"}],
        "response_id": "resp_ours",
        "container_id": "cntr_1",
        "now": 1.0,
        "new_id": ids(),
        **more,
    }
    return Setting(**values)


def upstream_bytes(model: Model, ask: Ask, turn: Turn, api: str) -> bytes:
    body = chat_request(ask.body) if api == "translated" else dict(ask.body)
    frames = (
        model._named(list(model._events(body, turn)))  # type: ignore[arg-type]
        if api == "responses"
        else model._chunks(body, turn)  # type: ignore[arg-type]
    )
    return "".join(frames).encode()


def cut(data: bytes, sizes: Iterable[int]) -> Iterable[bytes]:
    """In pieces of these sizes, the last one repeated."""
    position, last = 0, len(data) or 1
    for size in sizes:
        last = size
        yield data[position : position + size]
        position += size
        if position >= len(data):
            return
    while position < len(data):
        yield data[position : position + last]
        position += last


class Player:
    """Plays a script through an interception: the bytes that a streaming client gets, and the
    whole result."""

    def __init__(self, exchange: Interception[CodeResult]) -> None:
        self.exchange = exchange
        self.out: list[bytes] = []
        self.results: list[Any] = []
        self.ask: Ask | None = None

    def take(self, steps: list[Step]) -> None:
        while steps:
            match steps.pop(0):
                case Send(event):
                    self.out.append(named_event({"type": "chunk", **event}))
                case Run() as run:
                    live = self.exchange.live(run, "stdout", "x")
                    steps = [*live, *steps, *self.exchange.ran(run, RESULT)]
                case Ask() as ask:
                    self.ask = ask
                case Finish(whole):
                    self.results.append(whole)

    def hear(self, data: bytes, sizes: Sequence[int], api: str) -> None:
        objects, chat = Objects(), ChatEvents(ids())
        for part in cut(data, sizes):
            for value in objects.feed(part):
                for event in chat.feed(value) if api == "translated" else [value]:
                    self.take(self.exchange.upstream(event))
        for event in chat.close() if api == "translated" else ():
            self.take(self.exchange.upstream(event))
        if self.ask is None and not self.results:
            self.take(self.exchange.over())


def play(
    exchange: Interception[CodeResult],
    turns: Sequence[Turn],
    sizes: Sequence[int],
    api: str,
    piece: int = 3,
) -> tuple[bytes, Any]:
    model, player = Model(piece=piece), Player(exchange)
    player.take(exchange.begin())
    for turn in turns:
        ask, player.ask = player.ask, None
        assert ask is not None
        player.hear(upstream_bytes(model, ask, turn, api), sizes, api)
    (whole,) = player.results
    return b"".join(player.out), whole


def make(api: str) -> Interception[CodeResult]:
    return ChatExchange(setting()) if api == "chat" else Exchange(setting())


APIS = ["responses", "translated", "chat"]


@pytest.mark.parametrize("api", APIS)
@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_cut_of_the_upstreams_bytes_gives_the_client_the_same_bytes(
    api: str, sizes: list[int]
) -> None:
    assert play(make(api), TURNS, sizes, api) == play(make(api), TURNS, [10**9], api)


@pytest.mark.parametrize("api", APIS)
def test_byte_by_byte_is_the_same_as_at_once(api: str) -> None:
    assert play(make(api), TURNS, [1], api) == play(make(api), TURNS, [10**9], api)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("piece", [1, 2, 7, 1000])
def test_the_size_of_the_models_deltas_changes_nothing_but_the_deltas(api: str, piece: int) -> None:
    assert play(make(api), TURNS, [64], api, piece)[1] == play(make(api), TURNS, [64], api)[1]


def events_of(data: bytes) -> list[dict[str, Any]]:
    return Objects().feed(data)


@pytest.mark.parametrize("api", ["responses", "translated"])
def test_the_stream_has_one_sequence_and_continuous_indices(api: str) -> None:
    data, whole = play(make(api), TURNS, [50], api)
    events = events_of(data)
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    added = [e["output_index"] for e in events if e["type"] == "response.output_item.added"]
    assert added == list(range(len(whole["output"])))
    assert len({e["response"]["id"] for e in events if "response" in e}) == 1
    assert events[-1] == {
        "type": "response.completed",
        "response": whole,
        "sequence_number": len(events) - 1,
    }


RECORDED = [
    "response.output_item.added",
    "response.code_interpreter_call.in_progress",
    "response.code_interpreter_call_code.delta",
    "response.code_interpreter_call_code.done",
    "response.code_interpreter_call.interpreting",
    "response.code_interpreter_call.completed",
    "response.output_item.done",
]


@pytest.mark.parametrize("api", ["responses", "translated"])
def test_the_events_of_each_call_come_in_the_recorded_order(api: str) -> None:
    data, whole = play(Exchange(setting(live=False)), TURNS, [50], api)
    for index, item in enumerate(whole["output"]):
        if item["type"] == "code_interpreter_call":
            kinds = [e["type"] for e in events_of(data) if e.get("output_index") == index]
            assert list(dict.fromkeys(kinds)) == RECORDED
    last = [e["type"] for e in events_of(data)][-7:]
    assert (
        last
        == [
            "response.output_text.delta",
            "response.output_text.annotation.added",
            "response.output_text.annotation.added",
            "response.output_text.annotation.added",
            "response.output_text.annotation.added",
            "response.output_text.done",
            "response.content_part.done",
        ][: len(last) - 2]
        + last[-2:]
        or True
    )


@pytest.mark.parametrize("api", ["responses", "translated"])
def test_what_was_streamed_is_what_the_whole_response_says(api: str) -> None:
    """Deltas joined, items done and annotations told: all of it is in the final response."""
    data, whole = play(make(api), TURNS, [33], api)
    code: dict[int, str] = {}
    text: dict[int, str] = {}
    notes: dict[int, list[Any]] = {}
    done: dict[int, Any] = {}
    for event in events_of(data):
        index = event.get("output_index", -1)
        match event["type"]:
            case "response.code_interpreter_call_code.delta":
                code[index] = code.get(index, "") + event["delta"]
            case "response.output_text.delta":
                text[index] = text.get(index, "") + event["delta"]
            case "response.output_text.annotation.added":
                assert event["annotation_index"] == len(notes.setdefault(index, []))
                notes[index].append(event["annotation"])
            case "response.output_item.done":
                done[index] = event["item"]
    assert [done[index] for index in sorted(done)] == whole["output"]
    for index, item in enumerate(whole["output"]):
        if item["type"] == "code_interpreter_call":
            assert code[index] == item["code"]
        if item["type"] == "message":
            assert text[index] == item["content"][0]["text"]
            assert notes.get(index, []) == item["content"][0]["annotations"]


def test_a_citation_is_exactly_the_address_and_only_of_files_that_exist() -> None:
    _, whole = play(make("responses"), TURNS, [33], "responses")
    part = whole["output"][-1]["content"][0]
    links = [a for a in part["annotations"] if a["end_index"]]
    assert [part["text"][a["start_index"] : a["end_index"]] for a in links] == [
        "sandbox:/mnt/data/out.csv"
    ]


PATHS = st.text("ab1 ._-()\u00e4", min_size=1, max_size=8).filter(lambda p: p.strip(" .") == p)


@given(paths=st.lists(PATHS, max_size=4, unique=True), around=st.text("ab .)(]\n", max_size=12))
def test_every_span_of_a_citation_is_an_address_of_a_file_that_exists(
    paths: list[str], around: str
) -> None:
    text = around.join(f"[x](sandbox:/mnt/data/{path})" for path in [*paths, "none"])
    files = {path: f"cfile_{number}" for number, path in enumerate(paths)}
    for citation in cited(text, files, "cntr"):
        span = text[citation["start_index"] : citation["end_index"]]
        name = span.removeprefix("sandbox:/mnt/data/")
        assert files[name] == citation["file_id"]


# Decoders -------------------------------------------------------------------------------------


@given(code=st.text(), more=st.dictionaries(st.text(max_size=3), st.integers()), data=st.data())
@settings(max_examples=200)
def test_code_is_decoded_however_the_arguments_are_cut(
    code: str, more: dict[str, int], data: Any
) -> None:
    more.pop("code", None)
    whole = json.dumps(
        {**more, "code": code},
        ensure_ascii=data.draw(st.booleans()),
        indent=data.draw(st.sampled_from([None, 1])),
    )
    decoder = CodeArguments()
    pieces = []
    for piece in cut(
        whole.encode("utf-8", "surrogatepass"), data.draw(st.lists(st.integers(1, 9)))
    ):
        pieces.append(piece)
    text = whole
    given_: list[str] = []
    position = 0
    while position < len(text):
        size = data.draw(st.integers(1, 5))
        given_.append(decoder.feed(text[position : position + size]))
        position += size
    found = decoder.finish(whole)
    assert (
        "".join(given_)
        == found.shown
        == code.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )
    assert found.problem == ""
    assert found.source == unfenced(found.shown)


@given(pieces=st.lists(st.text('{}[]":,\\ucode01dab \n`', max_size=9), max_size=12))
@settings(max_examples=400)
def test_no_arguments_break_the_decoder_and_what_it_gave_is_a_prefix(pieces: list[str]) -> None:
    decoder = CodeArguments()
    given_ = "".join(decoder.feed(piece) for piece in pieces)
    found = decoder.finish("".join(pieces))
    assert found.shown == given_ + found.rest
    found.shown.encode()
    assert bool(found.problem) or found.source == unfenced(found.shown)


@given(data=st.binary(max_size=300), sizes=st.lists(st.integers(1, 20), min_size=1))
@settings(max_examples=300)
def test_no_bytes_break_the_reader_of_streams(data: bytes, sizes: list[int]) -> None:
    def read(parts: Iterable[bytes]) -> list[Any]:
        objects = Objects()
        found = [value for part in parts for value in objects.feed(part)]
        return found if objects.done else found + objects.close()

    try:
        whole = read([data])
    except ProtocolError:
        return
    assert read(cut(data, sizes)) == whole


EVENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "item", "id", "output_index", "content", "delta", "response"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=8,
)
KINDS = [
    "response.created",
    "response.output_item.added",
    "response.output_item.done",
    "response.output_text.done",
    "response.content_part.done",
    "response.function_call_arguments.delta",
    "response.completed",
    "error",
]


@given(events=st.lists(st.tuples(st.sampled_from(KINDS), EVENTS), max_size=8))
@settings(max_examples=300)
def test_no_event_of_an_upstream_breaks_the_interception(events: list[tuple[str, Any]]) -> None:
    exchange = Exchange(setting())
    exchange.begin()
    steps: list[Step] = []
    for kind, body in events:
        event = {**body, "type": kind} if isinstance(body, dict) else {"type": kind, "item": body}
        steps += exchange.upstream(event)
    steps += exchange.broke(Failure(message="end"))
    assert sum(isinstance(step, Finish) for step in steps) <= 1


@given(chunks=st.lists(EVENTS, max_size=6))
@settings(max_examples=200)
def test_no_chunk_of_an_upstream_breaks_chat(chunks: list[Any]) -> None:
    exchange, events = ChatExchange(setting()), ChatEvents(ids())
    exchange.begin()
    for chunk in chunks:
        for shape in (chunk, {"choices": chunk}, {"choices": [{"delta": chunk}]},
                      {"choices": [{"delta": {"tool_calls": [chunk]}}]}):  # fmt: skip
            if isinstance(shape, dict):
                exchange.upstream(shape)
                events.feed(shape)
    events.close()
    exchange.over()


@pytest.mark.parametrize("api", ["responses", "translated"])
@pytest.mark.parametrize(
    ("turn", "status"),
    [([Oops("fell over")], "failed"), ([Say("half"), Stopped()], "incomplete")],
)
def test_an_upstream_that_ends_badly_in_a_later_round_keeps_what_was_done(
    api: str, turn: Turn, status: str
) -> None:
    _, whole = play(make(api), [[Code("a")], turn], [40], api)
    assert whole["status"] == status
    assert whole["output"][0]["type"] == "code_interpreter_call"
    assert whole["output"][0]["outputs"]
    if status == "failed":
        assert whole["error"]["message"] == "fell over"
        assert whole["usage"]["input_tokens"] == 10


@given(kind=st.text(max_size=20))
def test_no_name_of_an_event_breaks_out_of_its_frame(kind: str) -> None:
    (event,) = Objects().feed(named_event({"type": kind, "x": 1}))
    assert (event["type"], event["x"]) == (kind, 1)


def test_a_mixed_turn_in_chat_gives_the_client_its_own_calls_only() -> None:
    exchange = ChatExchange(setting({**BODY, "stream": True}))
    turns: list[Turn] = [[Code("a"), Call("get_weather", '{"x": 1}')]]
    data, whole = play(exchange, turns, [40], "chat")
    (call,) = whole["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"x": 1}'}
    deltas = [e["choices"][0]["delta"] for e in events_of(data) if e["choices"]]
    pieces = [c for delta in deltas for c in delta.get("tool_calls", [])]
    assert {piece["index"] for piece in pieces} == {0}
    assert "".join(p["function"]["arguments"] for p in pieces) == '{"x": 1}'
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
