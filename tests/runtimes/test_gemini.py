"""What is the Gemini API's own: the test server against the official SDK, steps that grow by
deltas, functions that are asked for, and streams that can be had again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from google import genai
from google.genai import interactions
from lap_runtimes.base import (
    Answer,
    File,
    MessageDelta,
    PromptFile,
    Started,
    Thinking,
    ToolResult,
    ToolUse,
    Usage,
)
from lap_runtimes.errors import Rejected, RuntimeFailure, Unavailable, Unsupported
from lap_runtimes.gemini import GeminiConfig, GeminiRuntime
from lap_runtimes.gemini_fold import InteractionFold
from pydantic import ValidationError

from tests.canary import canary
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.gemini_server import Server
from tests.runtimes.reading import done, last_ref, questions, read, texts, until
from tests.runtimes.serving import serving

pytestmark = pytest.mark.anyio

KEY = canary("gemini")


def runtime(url: str, **settings: Any) -> GeminiRuntime:
    made = {
        "url": f"{url}/v1",
        "auth": {"header": {"x-goog-api-key": "env:KEY"}},
        "agent": "words",
        "poll_interval": 0.02,
        **settings,
    }
    context = {"resolve_secret": lambda reference: KEY}
    return GeminiRuntime(GeminiConfig.model_validate(made, context=context))


@asynccontextmanager
async def reaching(**settings: Any) -> AsyncIterator[tuple[GeminiRuntime, Server]]:
    server = Server(key=KEY)
    with serving(server.app) as url:
        ours = runtime(url, **settings)
        try:
            with anyio.fail_after(15):
                yield ours, server
        finally:
            await ours.aclose()


@pytest.mark.filterwarnings("ignore:Agents usage is experimental:UserWarning")
def test_the_test_server_satisfies_the_official_client() -> None:
    """The oracle: what the adapter is tested against gives Google's own SDK typed objects."""
    server = Server(key=KEY)
    with serving(server.app) as url:
        client = genai.Client(api_key=KEY, http_options={"base_url": url})
        try:
            first = client.agents.list()
            assert (first.agents, first.next_page_token) == ([], "more")
            (agent,) = client.agents.list(page_token="more").agents or []
            assert agent.description == "Says the words again."
            stream: Any = client.interactions.create(
                agent="words", input="hello there", stream=True, background=True, store=True
            )
            events = list(stream)
            assert [event.event_type for event in events] == [
                "interaction.created",
                "step.start",
                "step.delta",
                "step.delta",
                "step.stop",
                "interaction.completed",
            ]
            assert isinstance(events[-1], interactions.InteractionCompletedEvent)
            assert events[-1].interaction.usage.total_output_tokens == 11  # type: ignore[union-attr]
            made = client.interactions.get(events[0].interaction.id)
            assert made.output_text == "hello there"
            again: Any = client.interactions.get(
                made.id, stream=True, last_event_id=events[3].event_id
            )
            assert [event.event_id for event in again] == [e.event_id for e in events[4:]]
            asked: Any = client.interactions.create(
                agent="words", input="ask one", previous_interaction_id=made.id
            )
            assert (asked.status, asked.steps[0].arguments) == ("requires_action", {"key": 1})
        finally:
            client.close()


async def test_agents_are_found_on_every_page() -> None:
    async with reaching() as (ours, _):
        (agent,) = await ours.agents()
    assert (agent.ref, agent.description) == ("words", "Says the words again.")


async def test_all_functions_are_answered_at_once(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, server):
        asked = await read(ours.start(make_turn("ask one two")))
        found = questions(asked)
        assert [(q.kind, q.tool) for q in found] == [("tool_result", "one"), ("tool_result", "two")]
        assert all(q.tool_input == {"key": 1} for q in found)
        answers = [Answer(question_id=q.id, text=f"r{n}") for n, q in enumerate(found)]
        before = len(server.headers)
        with pytest.raises(Rejected) as refused:
            await read(ours.start(make_turn(answers=answers[:1], ref=done(asked).ref)))
        assert not refused.value.sent
        assert len(server.headers) == before
        answers[1] = Answer(question_id=found[1].id, decision="deny", text="not now")
        events = await read(ours.start(make_turn(answers=answers, ref=done(asked).ref)))
    assert texts(events) == ["you said: r0; failed: The call was declined. not now"]
    sent = server.requests[-1]
    assert [(r["name"], r["is_error"]) for r in sent["input"]] == [("one", False), ("two", True)]
    assert sent["previous_interaction_id"] == "int_1"


async def test_steps_of_each_kind_have_their_events(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        events = await read(ours.start(make_turn("tool")))
    assert [e.text for e in events if isinstance(e, Thinking)] == ["thinking"]
    uses = [(e.name, e.input) for e in events if isinstance(e, ToolUse)]
    code = {"language": "python", "code": "1/0"}
    assert uses == [("search", {"q": "x"}), ("code_execution", code)]
    results = [(e.tool_use_id, e.text, e.is_error) for e in events if isinstance(e, ToolResult)]
    assert results == [("c1", "found it", False), ("c2", "ZeroDivisionError", True)]
    (usage,) = [e for e in events if isinstance(e, Usage)]
    assert (usage.input_tokens, usage.output_tokens) == (7, 11)
    assert usage.detail["total_thought_tokens"] == 3


async def test_a_picture_is_a_file_beside_its_text(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        events = await read(ours.start(make_turn("file")))
    assert texts(events) == ["here"]
    (file,) = [e for e in events if isinstance(e, File)]
    assert (file.name, file.media_type) == ("image.png", "image/png")


async def test_files_are_parts_of_the_prompt_by_their_kind(make_turn: MakeTurn) -> None:
    async def data() -> bytes:
        return b"hi"

    kinds = ("image/png", "audio/wav", "application/pdf", "text/csv")
    files = [PromptFile(name=f"f{n}", media_type=k, size=2, read=data) for n, k in enumerate(kinds)]
    async with reaching() as (ours, server):
        await read(ours.start(make_turn("look", files=files)))
    text, *parts = server.requests[0]["input"]
    assert text == {"type": "text", "text": "look"}
    assert [p["type"] for p in parts] == ["image", "audio", "document", "document"]
    assert {p["data"] for p in parts} == {"aGk="}


async def test_a_session_stays_in_the_environment_that_it_got(make_turn: MakeTurn) -> None:
    settings = {"environment": {"type": "remote"}, "body": {"labels": {"team": "a"}}}
    async with reaching(**settings) as (ours, server):
        first = await read(ours.start(make_turn("one")))
        await read(ours.start(make_turn("two", ref=done(first).ref)))
    assert [body["environment"] for body in server.requests] == [{"type": "remote"}, "env_1"]
    assert server.requests[0]["labels"] == {"team": "a"}
    assert server.requests[0]["background"] is server.requests[0]["store"] is True


async def test_a_failed_turn_is_not_what_the_next_one_continues(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, server):
        first = await read(ours.start(make_turn("remember apples")))
        failed = await read(ours.start(make_turn("fail no ink", ref=done(first).ref)))
        assert (done(failed).outcome, done(failed).error) == ("failed", "no ink")
        again = await read(ours.start(make_turn("recall", ref=done(failed).ref)))
    assert texts(again) == ["apples"]
    assert server.requests[-1]["previous_interaction_id"] == "int_1"


@pytest.mark.parametrize(
    ("status", "words"),
    [("incomplete", "incomplete"), ("budget_exceeded", "budget"), ("weird", "without a word")],
)
async def test_each_end_that_is_none_says_why(status: str, words: str, make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        events = await read(ours.start(make_turn(f"end {status}")))
    assert done(events).outcome == "failed"
    assert words in (done(events).error or "")


async def test_a_stream_that_has_expired_is_looked_at_instead(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, server):
        server.forgetful = True
        async with ours.start(make_turn("slow 5")) as events:
            before = await until(events, MessageDelta)
        whole = await read(ours.attach(last_ref(before), None))
        assert texts(whole)[-1].endswith("chunk 5 of 5\n")
        assert isinstance(whole[0], Started)
        again = await read(ours.attach(last_ref(before), "0|int_1_3"))
    assert texts(again) == texts(whole)[1:]
    assert not any(isinstance(event, Started) for event in again)


async def test_events_of_unknown_types_are_passed_over(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        assert texts(await read(ours.start(make_turn("odd")))) == ["went on"]


async def test_what_cannot_be_is_refused_before_anything_is_sent(make_turn: MakeTurn) -> None:
    async with reaching(agent="") as (ours, server):
        with pytest.raises(Unsupported, match="no agent is named"):
            await read(ours.start(make_turn("x")))
        for call in (
            ours.answer({}, Answer(question_id="q")),
            ours.steer({}, make_turn("x").input),  # type: ignore[arg-type]
            ours.cancel({"interaction": "a/b"}),
        ):
            with pytest.raises(RuntimeFailure):
                await call
        for ref, cursor in (
            ({}, None),
            ({"interaction": ".."}, None),
            ({"interaction": "i"}, "x|y"),
        ):
            with pytest.raises(RuntimeFailure):
                await read(ours.attach(ref, cursor))
    assert server.headers == []


def test_an_error_of_the_stream_is_a_lost_stream() -> None:
    with pytest.raises(Unavailable, match="deadline"):
        InteractionFold("t", {}).feed({"event_type": "error", "error": {"message": "deadline"}})


async def test_a_file_elsewhere_is_named_and_not_fetched(make_turn: MakeTurn) -> None:
    """The credential goes nowhere but home, and an address that is none stays words."""
    async with reaching() as (ours, server):
        events = await read(ours.start(make_turn("link http://169.254.169.254/key gs://bucket/x")))
        assert not any(isinstance(event, File) for event in events)
        first, second = texts(events)
        assert "169.254.169.254" in first
        assert "not fetched" in first
        assert second == "image.png: gs://bucket/x"
        assert len(server.headers) == 2, "the start, and the look at its end"


def test_no_cursor_sits_inside_an_open_step() -> None:
    """A replay from there would miss the step's beginning."""
    fold = InteractionFold("t", {})
    created = {"event_type": "interaction.created", "interaction": {"id": "i"}, "event_id": "e0"}
    (started,) = fold.feed(created)
    fold.feed({"event_type": "step.start", "index": 0, "step": {}, "event_id": "e1"})
    fold.feed({"event_type": "step.start", "index": 1, "step": {}, "event_id": "e2"})
    text = {"type": "text", "text": "x"}
    fold.feed({"event_type": "step.delta", "index": 1, "delta": text, "event_id": "e3"})
    (first,) = fold.feed({"event_type": "step.stop", "index": 1, "event_id": "e4"})
    (second,) = fold.feed({"event_type": "step.stop", "index": 0, "event_id": "e5"})
    assert (started.cursor, first.cursor, second.cursor) == ("|e0", "1|e0", "0,1|e5")


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"body": {"stream": True}}, "stream is set"), ({"enviroment": "x"}, "enviroment")],
)
def test_a_wrong_configuration_names_its_key(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        GeminiConfig.model_validate(settings)
