"""What is a LiteLLM Agent Platform's own: prompts that are answered late, approvals of the inbox,
runtimes behind it that obey or do not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from lap_runtimes.base import Answer, MessageDelta, Progress, Started, ToolResult, ToolUse
from lap_runtimes.errors import Rejected, RuntimeFailure, Unsupported
from lap_runtimes.lap_platform_fold import PlatformFold
from lap_runtimes.litellm_agent_platform import (
    LiteLLMAgentPlatformConfig,
    LiteLLMAgentPlatformRuntime,
)
from pydantic import ValidationError

from tests.canary import canary
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.lap_server import Server
from tests.runtimes.reading import done, last_ref, questions, read, texts, until
from tests.runtimes.serving import serving

pytestmark = pytest.mark.anyio

KEY = canary("lap-platform")


def runtime(url: str, **settings: Any) -> LiteLLMAgentPlatformRuntime:
    made = {
        "url": url,
        "auth": {"bearer": "env:KEY"},
        "agent": "agt_1",
        "poll_interval": 0.02,
        **settings,
    }
    context = {"resolve_secret": lambda reference: KEY}
    config = LiteLLMAgentPlatformConfig.model_validate(made, context=context)
    return LiteLLMAgentPlatformRuntime(config)


@asynccontextmanager
async def reaching(
    **settings: Any,
) -> AsyncIterator[tuple[LiteLLMAgentPlatformRuntime, Server]]:
    server = Server(key=KEY)
    with serving(server.app) as url:
        ours = runtime(url, **settings)
        try:
            with anyio.fail_after(15):
                yield ours, server
        finally:
            await ours.aclose()


async def test_agents_are_listed_with_their_descriptions() -> None:
    async with reaching() as (ours, _):
        (agent,) = await ours.agents()
    assert (agent.ref, agent.name, agent.description) == ("agt_1", "words", "Says the words again.")


async def test_runtime_and_model_are_the_agents_unless_configured(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, server):
        await read(ours.start(make_turn("hello")))
    (path, made), (_, prompt) = server.requests
    assert (path, made["runtime"], made["agent_id"]) == (
        "/session",
        "claude_managed_agents",
        "agt_1",
    )
    assert prompt["model"] == {"modelID": "claude-sonnet-4-6"}
    async with reaching(runtime="mine", model="gpt-5") as (ours, server):
        await read(ours.start(make_turn("hello")))
    assert server.requests[0][1]["runtime"] == "mine"
    assert server.requests[1][1]["model"] == {"modelID": "gpt-5"}


async def test_events_arrive_before_the_prompt_is_answered(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, server), ours.start(make_turn("slow 200")) as events:
        seen = await until(events, Started)
        (session,) = server.sessions.values()
        assert session.task is not None
        assert not session.task.done()
        assert not any(isinstance(event, MessageDelta) for event in seen)


async def test_leaving_ends_our_side_and_attaching_finds_the_rest(make_turn: MakeTurn) -> None:
    """The platform's handler goes with our connection; the runtime behind does not."""
    async with reaching() as (ours, _):
        async with ours.start(make_turn("slow 8")) as events:
            ref = last_ref(await until(events, Started))
        again = await read(ours.attach(json.loads(json.dumps(ref)), None))
    assert texts(again) == [f"chunk {n} of 8\n" for n in range(1, 9)]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"decision": "allow"}, 'allowed: {"path": "/etc/passwd"}'),
        ({"decision": "allow", "data": {"path": "/tmp/x"}}, 'allowed: {"path": "/tmp/x"}'),
        ({"decision": "deny", "text": "too risky"}, "denied: too risky"),
    ],
)
async def test_an_approval_of_the_inbox_is_asked_and_answered(
    answer: dict[str, Any], said: str, make_turn: MakeTurn
) -> None:
    """What is approved may be changed; what is refused, explained."""
    async with reaching() as (ours, _):
        asked = await read(ours.start(make_turn("ask /etc/passwd")))
        (question,) = questions(asked)
        assert question.text == "Delete /etc/passwd?\n\nIt is not needed."
        assert question.tool_input == {"path": "/etc/passwd"}
        given = Answer(question_id=question.id, **answer)
        events = await read(ours.start(make_turn(answers=[given], ref=done(asked).ref)))
    assert texts(asked) == ["asked"]
    assert texts(events) == [said]
    assert done(events).outcome == "completed"


async def test_each_of_two_answers_is_heard_to_its_end(make_turn: MakeTurn) -> None:
    """The platform goes on after each by itself."""
    async with reaching() as (ours, server):
        asked = await read(ours.start(make_turn("ask a b")))
        answers = [Answer(question_id=q.id, decision="allow") for q in questions(asked)]
        with pytest.raises(Rejected) as refused:
            await read(ours.start(make_turn(answers=answers[:1], ref=done(asked).ref)))
        assert not refused.value.sent
        events = await read(ours.start(make_turn(answers=answers, ref=done(asked).ref)))
    assert texts(events) == ['allowed: {"path": "a"}', 'allowed: {"path": "b"}']
    assert [item["status"] for item in server.inbox.values()] == ["accepted"] * 2


async def test_approvals_of_other_sessions_are_not_asked(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        await read(ours.start(make_turn("ask a")))
        other = await read(ours.start(make_turn("hello")))
    assert not questions(other)
    assert done(other).outcome == "completed"


async def test_an_interrupt_is_claimed_only_where_it_is_obeyed(make_turn: MakeTurn) -> None:
    for settings, obeys in (
        ({}, False),
        ({"runtime": "elastic_agent_builder"}, False),
        ({"runtime": "cursor"}, True),
        ({"runtime": "mine", "obeys_interrupt": True}, True),
    ):
        claimed = runtime("http://127.0.0.1:1", **settings).capabilities.cancel
        assert claimed == ("remote" if obeys else "none")


async def test_tools_have_their_events_and_unknown_ones_are_passed_over(
    make_turn: MakeTurn,
) -> None:
    async with reaching() as (ours, _):
        events = await read(ours.start(make_turn("tool")))
    (use,) = [e for e in events if isinstance(e, ToolUse)]
    (result,) = [e for e in events if isinstance(e, ToolResult)]
    assert (use.tool_use_id, use.name, use.input) == ("tu_1", "search", {"q": "x"})
    assert (result.tool_use_id, result.text) == ("tu_1", "found it")
    assert [e.text for e in events if isinstance(e, Progress)] == ["thinking"]
    assert texts(events) == ["used a tool"]


async def test_the_same_words_twice_are_two_messages(make_turn: MakeTurn) -> None:
    """Events have no ids: they are known by their places."""
    async with reaching() as (ours, _):
        first = await read(ours.start(make_turn("hello")))
        second = await read(ours.start(make_turn("hello", ref=done(first).ref)))
    assert texts(first) == texts(second) == ["hello"]
    assert not {e.id for e in first if e.id} & {e.id for e in second if e.id}


async def test_a_question_that_the_platform_cannot_pass_on_fails_in_words(
    make_turn: MakeTurn,
) -> None:
    async with reaching() as (ours, _):
        events = await read(ours.start(make_turn("wait")))
    assert done(events).outcome == "failed"
    assert "cannot give it" in (done(events).error or "")


async def test_a_session_that_rests_without_a_word_is_over(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        events = await read(ours.start(make_turn("quiet")))
    assert texts(events) == ["said and done"]
    assert done(events).outcome == "completed"


async def test_a_prompt_that_is_refused_is_told_in_the_platforms_words(
    make_turn: MakeTurn,
) -> None:
    async with reaching() as (ours, server):
        with pytest.raises(Rejected, match="slow down") as refused:
            await read(ours.start(make_turn("refused")))
        assert (refused.value.status, refused.value.sent) == (502, True)
        with pytest.raises(Rejected) as refused:
            await read(ours.start(make_turn("x", agent="agt_9")))
        assert (refused.value.kind, refused.value.sent) == ("not_found", False)
        assert len(server.sessions) == 1


async def test_what_cannot_be_is_refused_before_anything_is_sent(make_turn: MakeTurn) -> None:
    async with reaching(agent="") as (ours, server):
        with pytest.raises(Unsupported, match="no agent is named"):
            await read(ours.start(make_turn("x")))
        for call in (
            ours.answer({"session": "s"}, Answer(question_id="q")),
            ours.steer({"session": "s"}, make_turn("x").input),  # type: ignore[arg-type]
            ours.cancel({"session": "s"}),
        ):
            with pytest.raises(Unsupported):
                await call
        bad = Answer(question_id="../agents", decision="allow")
        turn = make_turn(answers=[bad], ref={"session": "s", "open": {"../agents": "approval"}})
        for stream in (
            ours.attach({}, None),
            ours.attach({"session": "a/b"}, None),
            ours.attach({"session": "s"}, "1"),
            ours.start(turn),
        ):
            with pytest.raises(RuntimeFailure):
                await read(stream)
    assert server.headers == []


async def test_an_error_in_the_block_comes_out_as_it_is(make_turn: MakeTurn) -> None:
    """Not wrapped by the task group that sends beside the reading."""
    async with reaching() as (ours, _):

        async def broken() -> None:
            async with ours.start(make_turn("slow 50")) as events:
                await anext(events)
                raise KeyError("mine")

        with pytest.raises(KeyError):
            await broken()


def test_a_later_run_takes_an_earlier_error_back() -> None:
    fold = PlatformFold({"session": "s", "turn": "t"})
    error = {"type": "session.error", "error": {"message": "hiccup"}}
    fold.feed_list([error])
    assert fold.resting
    fold.feed_list([error, {"type": "session.status_running"}])
    assert not fold.resting
    fold.feed_list([error, {"type": "session.status_running"}, {"type": "session.status_idle"}])
    assert [event.outcome for event in fold.end([]) if hasattr(event, "outcome")] == ["completed"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [({}, "url"), ({"url": "http://x", "poll_interval": 0}, "poll_interval")],
)
def test_a_wrong_configuration_names_its_key(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        LiteLLMAgentPlatformConfig.model_validate(settings)
