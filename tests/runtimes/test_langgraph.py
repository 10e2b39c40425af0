"""What is LangGraph's own: interrupts of each shape, schemas, what graphs and models say, and
servers that say it otherwise."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lap_runtimes.base import (
    Answer,
    Answers,
    Asked,
    Done,
    Event,
    File,
    Message,
    MessageDelta,
    Progress,
    PromptFile,
    Question,
    Thinking,
    ThinkingDelta,
    ToolResult,
    ToolUse,
    Usage,
)
from lap_runtimes.errors import ProtocolError, Rejected, Unsupported
from lap_runtimes.langgraph import LangGraphRuntime
from lap_runtimes.langgraph_fold import Cursor, RunFold
from lap_runtimes.langgraph_interrupts import questions, resumed
from lap_runtimes.langgraph_schema import own_schema
from lap_runtimes.stream import Frame
from pydantic import ValidationError

from tests.canary import canary
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.langgraph_server import ASSISTANT, SCHEMA, Server
from tests.runtimes.serving import serving

pytestmark = pytest.mark.anyio

KEY = canary("langgraph")


@asynccontextmanager
async def reaching(server: Server, **settings: Any) -> AsyncIterator[LangGraphRuntime]:
    with serving(server.app) as url:
        context = {"resolve_secret": lambda reference: KEY}
        auth = {"header": {"x-api-key": "env:KEY"}}
        made = {"url": url, "auth": auth, "assistant": "words", **settings}
        runtime = LangGraphRuntime(LangGraphRuntime.Config.model_validate(made, context=context))
        try:
            with anyio.fail_after(15):
                yield runtime
        finally:
            await runtime.aclose()


async def read(stream: Any) -> list[Event]:
    async with stream as events:
        return [event async for event in events]


def of(kind: Any, events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


async def test_an_assistant_brings_its_description_and_what_its_input_has_beside_messages() -> None:
    async with reaching(Server(key=KEY)) as runtime:
        (agent,) = await runtime.agents()
    assert (agent.ref, agent.name, agent.description) == (ASSISTANT, "words", "says words")
    assert agent.input_schema == {
        "$defs": {"Unit": {"type": "string", "enum": ["C", "F"]}},
        "properties": {"unit": {"$ref": "#/$defs/Unit"}},
        "title": "Input",
        "type": "object",
    }


@pytest.mark.parametrize(
    "schema",
    [None, {}, {"properties": {"messages": {}}}, {"properties": 3}, {"type": "string"}],
)
def test_an_input_of_messages_alone_has_no_schema_of_its_own(schema: Any) -> None:
    assert own_schema(schema, without="messages") is None


def test_what_another_definition_refers_to_is_kept() -> None:
    defs = {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}, "C": {}}
    schema = {"properties": {"a": {"$ref": "#/$defs/A"}}, "required": ["a", "m"], "$defs": defs}
    made = own_schema(schema, without="m")
    assert made is not None
    assert set(made["$defs"]) == {"A", "B"}
    assert made["required"] == ["a"]
    assert own_schema(SCHEMA, without="unit") is not None


async def test_a_wrong_key_is_refused_and_never_shown(make_turn: MakeTurn) -> None:
    async with reaching(Server(key="another")) as runtime:
        with pytest.raises(Rejected) as refusal:
            await read(runtime.start(make_turn("hello")))
    assert (refusal.value.kind, refusal.value.status) == ("auth", 403)
    assert KEY not in str(refusal.value)


async def test_a_busy_thread_is_a_conflict_that_may_be_tried_again(make_turn: MakeTurn) -> None:
    async with reaching(Server(key=KEY)) as runtime, runtime.start(make_turn("slow 500")) as events:
        await anext(events)
        with pytest.raises(Rejected) as refusal:
            await read(runtime.start(make_turn("hello")))
    assert (refusal.value.kind, refusal.value.safe_to_retry) == ("conflict", True)


async def test_thread_and_message_have_ids_of_ours(make_turn: MakeTurn) -> None:
    server = Server(key=KEY)
    async with reaching(server, body={"config": {"recursion_limit": 7}}) as runtime:
        turn = make_turn("hello", input={"unit": "C"})
        await read(runtime.start(turn))
    (body,) = server.requests
    assert list(server.messages) == [str(uuid.UUID(turn.session_id.removeprefix("ses_")))]
    said = {"role": "user", "content": "hello", "id": turn.id}
    assert body["input"] == {"unit": "C", "messages": [said]}
    assert body["config"] == {"recursion_limit": 7}
    assert body["on_disconnect"] == "continue"


async def test_a_graph_without_messages_gets_the_prompt_in_a_field(make_turn: MakeTurn) -> None:
    server = Server(key=KEY)
    async with reaching(server, prompt_key="topic") as runtime:
        await read(runtime.start(make_turn("ducks", input={"unit": "C"})))
        assert not runtime.capabilities.files_in
    assert server.requests[0]["input"] == {"unit": "C", "topic": "ducks"}


async def test_files_go_as_content_blocks(make_turn: MakeTurn) -> None:
    async def content() -> bytes:
        return b"bytes"

    server = Server(key=KEY)
    files = [
        PromptFile(name="a.png", media_type="image/png", size=5, read=content),
        PromptFile(name="a.pdf", media_type="application/pdf", size=5, read=content),
    ]
    async with reaching(server) as runtime:
        await read(runtime.start(make_turn("look", files=files)))
    text, image, file = server.requests[0]["input"]["messages"][0]["content"]
    assert text == {"type": "text", "text": "look"}
    assert image["image_url"]["url"] == "data:image/png;base64,Ynl0ZXM="
    assert (file["base64"], file["extras"]) == ("Ynl0ZXM=", {"filename": "a.pdf"})


def test_a_run_s_own_fields_cannot_be_configured_away() -> None:
    with pytest.raises(ValidationError, match="stream_mode is set by the adapter"):
        LangGraphRuntime.Config.model_validate(
            {"url": "http://x.example", "body": {"stream_mode": "values"}}
        )


async def test_without_an_assistant_nothing_is_sent(make_turn: MakeTurn) -> None:
    server = Server(key=KEY)
    async with reaching(server, assistant="") as runtime:
        with pytest.raises(Rejected, match="name the assistant") as refusal:
            await read(runtime.start(make_turn("hello")))
    assert not refusal.value.sent
    assert server.requests == []


async def test_a_ref_that_is_no_run_reaches_nothing() -> None:
    async with reaching(Server(key=KEY)) as runtime:
        for ref in ({}, {"thread": "../x", "run": "y"}, {"thread": str(uuid.uuid4())}):
            with pytest.raises(Rejected) as refusal:
                await runtime.cancel(ref)
            assert not refusal.value.sent


async def test_two_interrupts_are_two_questions_and_are_answered_by_id(make_turn: MakeTurn) -> None:
    server = Server(key=KEY)
    async with reaching(server) as runtime:
        asked = await read(runtime.start(make_turn("both red? blue?")))
        one, two = [event.question for event in of(Asked, asked)]
        assert (one.text, two.text) == ("red?", "blue?")
        only = make_turn(answers=[Answer(question_id=one.id, text="x")], ref=asked[-1].ref)
        with pytest.raises(Rejected, match="all open questions"):
            await read(runtime.start(only))
        answers = [Answer(question_id=q.id, text=q.text[0]) for q in (one, two)]
        done = await read(runtime.start(make_turn(answers=answers, ref=asked[-1].ref)))
    assert of(Message, done)[0].text == "you answered r and b"


async def test_a_denied_approval_says_why(make_turn: MakeTurn) -> None:
    async with reaching(Server(key=KEY)) as runtime:
        asked = await read(runtime.start(make_turn("allow /etc")))
        (question,) = [event.question for event in of(Asked, asked)]
        assert (question.tool, question.tool_input) == ("delete_file", {"path": "/etc"})
        answer = Answer(question_id=question.id, decision="deny", text="no")
        done = await read(runtime.start(make_turn(answers=[answer], ref=asked[-1].ref)))
    decisions = {"decisions": [{"type": "reject", "message": "no"}]}
    assert of(Message, done)[0].text == f"refused: {decisions}"


OLDER = {
    "action_request": {"action": "send", "args": {"to": "a"}},
    "config": {},
    "description": "?",
}
NEWER = {"action_requests": [{"name": "send", "args": {"to": "a"}}], "review_configs": []}


@pytest.mark.parametrize(
    ("value", "answer", "sent"),
    [
        (NEWER, {"decision": "allow"}, {"decisions": [{"type": "approve"}]}),
        (
            NEWER,
            {"decision": "allow", "data": {"to": "b"}},
            {
                "decisions": [
                    {"type": "edit", "edited_action": {"name": "send", "args": {"to": "b"}}}
                ]
            },
        ),
        (OLDER, {"decision": "allow"}, [{"type": "accept", "args": None}]),
        ([OLDER], {"decision": "deny"}, [{"type": "ignore", "args": None}]),
        (OLDER, {"decision": "deny", "text": "no"}, [{"type": "response", "args": "no"}]),
        ("which?", {"text": "that"}, "that"),
        ({"question": "which?", "options": ["a", "b"]}, {"option": "a"}, "a"),
        ({"a": 1}, {"data": {"b": 2}}, {"b": 2}),
        ("which?", {"decision": "deny", "text": "busy"}, "The question was declined. busy"),
    ],
)
def test_an_interrupt_of_any_shape_is_resumed_in_its_own(
    value: Any, answer: dict[str, Any], sent: Any
) -> None:
    (asked,), entry = questions("i1", value, None)
    given = Answers(answers=[Answer(question_id=asked.id, **answer)])
    assert resumed(given, {"open": [entry]}) == sent


def test_an_interrupt_with_a_schema_and_options_says_so() -> None:
    value = {"message": "which?", "options": ["a", "b"]}
    (asked,), _ = questions("i1", value, {"type": "string"})
    assert asked == Question(
        id="i1", kind="input", text="which?", options=("a", "b"), schema={"type": "string"}
    )


def test_more_questions_than_a_ref_holds_are_no_questions() -> None:
    value = {"action_requests": [{"name": "x" * 500, "args": {}}] * 100}
    with pytest.raises(ProtocolError, match="more at once"):
        fold(("updates", {"__interrupt__": [{"id": "i", "value": value}]}))


def test_an_event_id_with_spaces_is_a_cursor_and_one_that_is_too_long_is_none() -> None:
    made = RunFold("trn_1", {"thread": "t", "run": "r"}, nodes=())
    whole = {"type": "ai", "content": "a", "id": "m1"}
    (said,) = made.feed(Frame(json.dumps([whole, {}]), "messages", "a b  c"))
    assert Cursor.decode(str(said.cursor)).event == "a b  c"
    (next_one,) = made.feed(Frame(json.dumps([{**whole, "id": "m2"}, {}]), "messages", "x" * 9999))
    assert next_one.cursor == said.cursor


# The fold


def fold(*frames: tuple[str, Any], nodes: tuple[str, ...] = (), status: str = "success") -> Any:
    made = RunFold("trn_1", {"thread": "t", "run": "r"}, nodes=nodes)
    events: list[Event] = []
    for number, (name, data) in enumerate(frames):
        events += made.feed(Frame(json.dumps(data), name, f"{number}"))
    return events + made.end(status, {"messages": [], "sum": 3})


def piece(text: Any, message_id: str = "m1", node: str = "n") -> tuple[str, Any]:
    message = {"type": "AIMessageChunk", "content": text, "id": message_id}
    return "messages", [message, {"langgraph_node": node}]


def update(*messages: dict[str, Any]) -> tuple[str, Any]:
    return "updates", {"n": {"messages": list(messages)}}


async def test_tools_and_files_of_a_node_are_seen(make_turn: MakeTurn) -> None:
    async with reaching(Server(key=KEY)) as runtime:
        events = await read(runtime.start(make_turn("tool search")))
        file = of(File, await read(runtime.start(make_turn("file a.txt x"))))[0]
    (use,), (result,) = of(ToolUse, events), of(ToolResult, events)
    assert (use.name, use.input, use.tool_use_id) == ("search", {"q": 1}, "call_1")
    assert (result.tool_use_id, result.text) == ("call_1", "found")
    assert [event.text for event in of(Message, events)] == ["used a tool"]
    assert (file.name, file.data, file.media_type) == ("a.txt", b"x", "text/plain")


def test_reasoning_is_closed_with_the_message_even_if_it_does_not_repeat_it() -> None:
    thought = [{"type": "reasoning", "reasoning": "hm"}]
    events = fold(piece(thought), piece("ok"), update({"type": "ai", "content": "ok", "id": "m1"}))
    assert [event.text for event in of(ThinkingDelta, events)] == ["hm"]
    (closed,) = of(Thinking, events)
    assert (closed.text, closed.message_id) == ("hm", of(ThinkingDelta, events)[0].message_id)


def test_what_a_model_said_and_no_node_returned_is_closed_at_the_end() -> None:
    events = fold(piece("in"), piece("side"))
    assert [event.text for event in of(Message, events)] == ["inside"]


def test_a_message_that_a_node_gave_a_new_id_is_said_once() -> None:
    events = fold(piece("hi"), update({"type": "ai", "content": "hi", "id": "new"}))
    (said,) = of(Message, events)
    assert said.message_id == of(MessageDelta, events)[0].message_id


def test_history_that_a_node_returns_is_not_said_again() -> None:
    old = {"type": "ai", "content": "old", "id": "m0"}
    new = {"type": "ai", "content": "new", "id": "m1"}
    events = fold(piece("new"), update(old, new))
    assert [event.text for event in of(Message, events)] == ["new"]


def test_only_the_nodes_that_are_named_are_heard() -> None:
    events = fold(piece("yes", "m1", "a"), piece("no", "m2", "b"), nodes=("a",))
    assert [event.text for event in of(Message, events)] == ["yes"]


def test_a_graph_without_messages_gives_its_state() -> None:
    (said,) = of(Message, fold(("updates", {"n": {"sum": 3}})))
    assert said.data == {"sum": 3}


def test_custom_events_are_progress_also_of_subgraphs() -> None:
    events = fold(("custom", "half"), ("custom|sub:1", {"done": 1}))
    assert [event.text for event in of(Progress, events)] == ["half", '{"done": 1}']


def test_tokens_of_several_models_are_added_up_also_after_a_loss() -> None:
    used = {"input_tokens": 2, "output_tokens": 3}
    first = {"type": "ai", "content": "a", "id": "m1", "usage_metadata": used}
    second = {"type": "ai", "content": "b", "id": "m2", "usage_metadata": used}
    events = fold(("messages", [first, {}]), ("messages", [second, {}]))
    assert (of(Usage, events)[-1].input_tokens, of(Usage, events)[-1].output_tokens) == (4, 6)
    after = Cursor.decode(of(Usage, events)[0].cursor)
    again = RunFold("trn_1", {"thread": "t", "run": "r"}, nodes=(), after=after)
    rest = again.feed(Frame(json.dumps([second, {}]), "messages", "1"))
    assert (of(Usage, rest)[-1].input_tokens, of(Usage, rest)[-1].output_tokens) == (4, 6)
    assert again.said


@pytest.mark.parametrize(
    ("name", "outcome"), [("UserInterrupt", "cancelled"), ("ValueError", "failed")]
)
def test_an_error_event_ends_the_turn(name: str, outcome: str) -> None:
    made = RunFold("trn_1", {"thread": "t", "run": "r"}, nodes=())
    made.feed(Frame(json.dumps(piece("half")[1]), "messages", "1"))
    events = made.feed(Frame(json.dumps({"error": name, "message": "m"}), "error", "2"))
    assert of(Message, events)[0].text == "half"
    assert events[-1].outcome == outcome  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", ["error", "timeout", "", "new_status"])
def test_a_run_that_ended_otherwise_failed(status: str) -> None:
    (done,) = of(Done, fold(status=status))
    assert (done.outcome, done.error_kind) == ("failed", "failed")


ANY = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "content", "id", "messages", "__interrupt__", "value", "n"]),
            inner | st.sampled_from(["ai", "tool", "AIMessageChunk", "m1"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)
MODES = st.sampled_from(["messages", "updates", "custom", "metadata", "new", "messages|s:1"])


@given(st.lists(st.tuples(MODES, ANY), max_size=8))
def test_whatever_a_server_sends_opens_nothing_that_stays_open(frames: Any) -> None:
    try:
        events = fold(*frames)
    except ProtocolError:
        return
    assert len(of(Done, events)) == 1
    opened = {event.message_id for event in of(MessageDelta, events)}
    assert opened <= {event.message_id for event in of(Message, events)}


async def test_a_server_that_does_not_say_which_run_it_began_is_no_langgraph(
    make_turn: MakeTurn,
) -> None:
    server = Server(key=KEY)
    stream = server._stream
    server._stream = lambda run, after: _without(stream(run, after))  # type: ignore[method-assign]
    async with reaching(server) as runtime:
        with pytest.raises(ProtocolError, match="Content-Location"):
            await read(runtime.start(make_turn("hello")))


def _without(response: Any) -> Any:
    del response.headers["content-location"]
    return response


async def test_what_is_not_claimed_is_refused() -> None:
    async with reaching(Server(key=KEY)) as runtime:
        with pytest.raises(Unsupported):
            await runtime.answer({}, Answer(question_id="q"))
        with pytest.raises(Unsupported):
            await runtime.steer({}, None)  # type: ignore[arg-type]
        with pytest.raises(Rejected, match="cursor"):
            await read(runtime.attach({}, "0 0 0 1\n2"))
