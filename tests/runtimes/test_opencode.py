"""opencode's server: what its events become, how its questions are answered, what comes astray."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from lap_runtimes.base import (
    Answer,
    Asked,
    Done,
    Event,
    Message,
    MessageDelta,
    QuestionClosed,
    Started,
    Thinking,
    ToolResult,
    ToolUse,
    Usage,
)
from lap_runtimes.errors import ProtocolError, Rejected
from lap_runtimes.opencode import OpencodeRuntime
from lap_runtimes.opencode_fold import TurnFold, reply_of
from pydantic import ValidationError

from tests.canary import canary
from tests.runtimes.case_opencode import basic
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.opencode_server import Server
from tests.runtimes.serving import serving

pytestmark = pytest.mark.anyio

SECONDS = 60


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[tuple[OpencodeRuntime, Server]]:
    server = Server(basic(canary("opencode")))
    with serving(server) as url:
        config = OpencodeRuntime.Config.model_validate(
            {"url": url, "password": "env:KEY", **settings},
            context={"resolve_secret": lambda name: canary("opencode")},
        )
        runtime = OpencodeRuntime(config)
        try:
            with anyio.fail_after(SECONDS):
                yield runtime, server
        finally:
            await runtime.aclose()


async def read(stream: Any) -> list[Event]:
    async with stream as events:
        return [event async for event in events]


def texts(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Message))


async def answered(runtime: OpencodeRuntime, turn: Any, **answer: Any) -> list[Event]:
    seen: list[Event] = []
    async with runtime.start(turn) as events:
        async for event in events:
            seen.append(event)
            if isinstance(event, Asked):
                await runtime.answer({}, Answer(question_id=event.question.id, **answer))
    return seen


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"decision": "allow"}, "allowed once"),
        ({"option": "always"}, "allowed always"),
        ({"decision": "deny", "text": "no"}, "denied"),
    ],
)
async def test_a_permission_is_answered_with_its_own_words(
    make_turn: MakeTurn, answer: dict[str, Any], said: str
) -> None:
    async with running() as (runtime, _):
        seen = await answered(runtime, make_turn("ask rm -rf"), **answer)
    (asked,) = [event.question for event in seen if isinstance(event, Asked)]
    assert (asked.tool, asked.tool_input) == ("bash", {"command": "rm -rf"})
    assert asked.options == ("once", "always", "reject")
    (use,) = [event for event in seen if isinstance(event, ToolUse)]
    (result,) = [event for event in seen if isinstance(event, ToolResult)]
    assert (use.name, use.input) == ("bash", {"command": "rm -rf"})
    assert (result.tool_use_id, result.is_error) == (use.tool_use_id, said == "denied")
    assert any(isinstance(event, QuestionClosed) for event in seen)
    assert texts(seen) == said


@pytest.mark.parametrize(
    ("answer", "said"),
    [({"text": "blue"}, "you chose blue"), ({"decision": "deny"}, "you chose nothing")],
)
async def test_a_question_is_answered_or_declined(
    make_turn: MakeTurn, answer: dict[str, Any], said: str
) -> None:
    async with running() as (runtime, _):
        seen = await answered(runtime, make_turn("choose which?"), **answer)
    (asked,) = [event.question for event in seen if isinstance(event, Asked)]
    assert (asked.kind, asked.text) == ("input", "which? (red)")
    assert texts(seen) == said


async def test_an_open_question_is_asked_again_of_who_attaches(make_turn: MakeTurn) -> None:
    async with running() as (runtime, _):
        ref: Any = None
        async with runtime.start(make_turn("ask rm -rf")) as events:
            async for event in events:
                ref = event.ref or ref
                if isinstance(event, Asked):
                    break
        again: list[Event] = []
        async with runtime.attach(ref, None) as events:
            async for event in events:
                again.append(event)
                if isinstance(event, Asked):
                    answer = Answer(question_id=event.question.id, decision="allow")
                    await runtime.answer(ref, answer)
    assert texts(again) == "allowed once"
    assert sum(isinstance(event, Started) for event in again) == 1


async def test_agent_model_and_files_go_with_the_prompt(make_turn: MakeTurn) -> None:
    async with running(model="near/words", directory="/project") as (runtime, server):
        await read(runtime.start(make_turn("hello", agent="build", input={"a": 1})))
    (body,) = server.bodies
    assert body["agent"] == "build"
    assert body["model"] == {"providerID": "near", "modelID": "words"}
    assert body["parts"] == [{"type": "text", "text": 'hello\n\n{"a": 1}'}]


async def test_a_wrong_password_is_said_and_never_shown(make_turn: MakeTurn) -> None:
    async with running(username="someone") as (runtime, _):
        with pytest.raises(Rejected) as failure:
            await read(runtime.start(make_turn("hello")))
    assert (failure.value.kind, failure.value.sent) == ("auth", False)
    assert canary("opencode") not in failure.value.message


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("per_1/../../session", {"decision": "allow"}),
        ("", {"decision": "allow"}),
        ("per_1", {"option": "maybe"}),
        ("per_1", {"text": "yes"}),
    ],
)
def test_an_answer_that_means_nothing_is_not_sent(question: str, answer: dict[str, Any]) -> None:
    with pytest.raises(Rejected) as failure:
        reply_of(Answer(question_id=question, **answer))
    assert not failure.value.sent


def test_a_model_has_a_provider() -> None:
    with pytest.raises(ValidationError, match="provider/model"):
        OpencodeRuntime.Config.model_validate({"url": "http://a.example", "model": "words"})


# The fold


def folded(*events: tuple[str, dict[str, Any]], before: str = "") -> list[Event]:
    fold = TurnFold("t", {"session": "s", "message": before}, again=False)
    found = []
    for kind, properties in events:
        body = {"type": kind, "properties": {"sessionID": "s", **properties}}
        found += fold.feed(json.dumps(body))
    return found


USER = ("message.updated", {"info": {"id": "m1", "role": "user"}})
MINE = ("message.updated", {"info": {"id": "m2", "role": "assistant", "parentID": "m1"}})
IDLE = ("session.idle", {})


def part(part_id: str, message: str = "m2", **more: Any) -> tuple[str, dict[str, Any]]:
    return "message.part.updated", {"part": {"id": part_id, "messageID": message, **more}}


def test_a_turn_is_one_message_and_what_answers_it() -> None:
    """Not the words of another session, of another message, or of the user."""
    ended = {"time": {"end": 1}}
    late = ("message.updated", {"info": {"id": "m0", "role": "user"}})
    events = folded(
        late,
        IDLE,
        USER,
        part("p0", "m1", type="text", text="the prompt", **ended),
        MINE,
        part("p1", "m9", type="text", text="another's", **ended),
        part("p2", type="reasoning", text="hm", **ended),
        part("p3", type="text", text=""),
        ("message.part.delta", {"partID": "p3", "field": "text", "delta": "mine"}),
        ("message.part.delta", {"partID": "p8", "field": "text", "delta": "unknown"}),
        ("message.part.delta", {"sessionID": "x", "partID": "p3", "field": "text", "delta": "!"}),
        IDLE,
        before="m0",
    )
    assert [event.text for event in events if isinstance(event, MessageDelta)] == ["mine"]
    assert texts(events) == "mine"
    assert [event.text for event in events if isinstance(event, Thinking)] == ["hm"]
    assert sum(isinstance(event, Started) for event in events) == 1
    assert isinstance(events[-1], Done)
    assert events[-1].ref == {"session": "s", "turn": "t", "message": "m1"}


def test_an_error_before_any_message_ends_the_turn() -> None:
    events = folded(
        ("session.error", {"error": {"name": "UnknownError", "data": {"message": "no"}}})
    )
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Done)
    assert (events[-1].outcome, events[-1].error) == ("failed", "no")


def test_tokens_and_cost_are_summed_over_the_messages_of_a_turn() -> None:
    def used(message: str) -> tuple[str, dict[str, Any]]:
        tokens = {"input": 3, "output": 4, "cache": {"read": 1}}
        info = {"id": message, "role": "assistant", "parentID": "m1", "tokens": tokens}
        return "message.updated", {"info": {**info, "cost": 0.25}}

    events = folded(USER, used("m2"), used("m2"), used("m3"), IDLE)
    (usage,) = [event for event in events if isinstance(event, Usage)]
    assert (usage.input_tokens, usage.output_tokens, usage.cost_usd) == (6, 8, 0.5)


@pytest.mark.parametrize("data", ["1", "[]", "{}", '{"properties": 3}', '{"type": {}}'])
def test_events_of_no_known_shape_are_passed_over(data: str) -> None:
    fold = TurnFold("t", {"session": "s"}, again=False)
    assert len(fold.feed(data)) == 1
    with pytest.raises(ProtocolError):
        fold.feed("{")
