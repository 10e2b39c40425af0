"""What is OpenAI Agents' own: the test server against the official SDK, required actions of each
kind, environments, artifacts, and how sessions end."""

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
    File,
    MessageDelta,
    Progress,
    PromptFile,
    Started,
    Thinking,
    ToolResult,
    ToolUse,
    Usage,
)
from lap_runtimes.errors import Rejected, RuntimeFailure, Unavailable, Unsupported
from lap_runtimes.openai_agents import OpenAIAgentsConfig, OpenAIAgentsRuntime
from lap_runtimes.openai_agents_fold import AgentFold
from pydantic import ValidationError

from tests.canary import canary
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.openai_agents_server import SCHEMA, Server
from tests.runtimes.reading import done, last_ref, questions, read, texts, until
from tests.runtimes.serving import serving

pytestmark = pytest.mark.anyio

KEY = canary("openai-agents")
HOSTED = {"environment": {"type": "openai_hosted"}}


def runtime(url: str, **settings: Any) -> OpenAIAgentsRuntime:
    made = {"url": f"{url}/v1", "auth": {"bearer": "env:KEY"}, "agent": "agent_words", **settings}
    context = {"resolve_secret": lambda reference: KEY}
    return OpenAIAgentsRuntime(OpenAIAgentsConfig.model_validate(made, context=context))


@asynccontextmanager
async def reaching(**settings: Any) -> AsyncIterator[tuple[OpenAIAgentsRuntime, Server]]:
    server = Server(key=KEY)
    with serving(server.app) as url:
        ours = runtime(url, **settings)
        try:
            with anyio.fail_after(15):
                yield ours, server
        finally:
            await ours.aclose()


async def test_the_test_server_satisfies_the_official_client() -> None:
    """The oracle: what the adapter is tested against gives OpenAI's own SDK typed objects."""
    server = Server(key=KEY)
    with serving(server.app) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            api: Any = client.beta.agents
            assert [agent.name async for agent in api.list()] == ["Words"]
            stream = await api.sessions.create(
                agent_id="agent_words", environment={"type": "none"}, input="hello", stream=True
            )
            seen = [event async for event in stream]
            assert [event.type for event in seen] == [
                "agent.session.created",
                "agent.session.turn.created",
                "agent.session.in_progress",
                "agent.session.turn.output_text.delta",
                "agent.session.turn.item.done",
                "agent.session.turn.completed",
                "agent.session.idle",
            ]
            assert seen[4].item.content[0].text == "hello"
            session = seen[-1].session
            assert (session.status, seen[-2].usage.output_tokens) == ("idle", 11)
            live = await api.sessions.events.stream(session.id)
            message = {"role": "user", "content": [{"type": "input_text", "text": "ask x"}]}
            said = {"type": "agent.session.input.message", "input": [message]}
            await api.sessions.events.create(session.id, events=[said], idempotency_key="k")
            async for event in live:
                if event.type == "agent.session.requires_action":
                    break
            await live.close()
            (action,) = event.session.required_actions
            assert (action.type, action.request.name) == ("mcp_approval_request", "delete_file")
            assert (await api.sessions.retrieve(session.id)).status == "requires_action"
            turns = [turn.status async for turn in api.sessions.turns.list(session.id)]
            assert turns == ["waiting", "completed"]
            items = [item async for item in api.sessions.items.list(session.id, order="asc")]
            assert [item.type for item in items] == ["message"] * 4
        wrong = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0)
        async with wrong as client:
            with pytest.raises(openai.AuthenticationError):
                await client.beta.agents.sessions.retrieve(session.id)


async def test_agents_are_listed_with_description_and_output_schema() -> None:
    async with reaching() as (ours, _):
        (agent,) = await ours.agents()
    assert (agent.ref, agent.name) == ("agent_words", "Words")
    assert agent.description == "Says the words again."
    assert agent.output_schema == SCHEMA


async def test_a_model_alone_is_an_agent(make_turn: MakeTurn) -> None:
    async with reaching(agent="", model="words") as (ours, server):
        (agent,) = await ours.agents()
        events = await read(ours.start(make_turn("hello", agent=agent.ref)))
    assert texts(events) == ["hello"]
    assert server.requests[0][1]["agent"] == {"model": "words"}
    assert "agent_id" not in server.requests[0][1]


@pytest.mark.parametrize(("decision", "said"), [("allow", "allowed"), ("deny", "denied")])
async def test_an_approval_is_asked_and_answered(
    decision: Any, said: str, make_turn: MakeTurn
) -> None:
    """The vendor's turn goes on in a turn of ours that repeats nothing."""
    async with reaching() as (ours, _):
        asked = await read(ours.start(make_turn("ask /etc/passwd")))
        (question,) = questions(asked)
        assert (question.kind, question.tool) == ("approval", "delete_file")
        assert question.text == "Delete /etc/passwd?"
        assert question.tool_input == {"path": "/etc/passwd"}
        answer = Answer(question_id=question.id, decision=decision)
        events = await read(ours.start(make_turn(answers=[answer], ref=done(asked).ref)))
        again = await read(ours.attach(events[0].ref or {}, None))
    assert texts(asked) == ["may I?"]
    assert texts(events) == texts(again) == [said]
    assert done(events).outcome == "completed"
    assert not {"open", "asked"} & set(done(events).ref or {})


async def test_all_calls_are_answered_at_once_though_they_arrive_one_by_one(
    make_turn: MakeTurn,
) -> None:
    async with reaching() as (ours, server):
        asked = await read(ours.start(make_turn("call one two")))
        found = questions(asked)
        assert [(q.kind, q.tool) for q in found] == [("tool_result", "one"), ("tool_result", "two")]
        answers = [Answer(question_id=q.id, text=f"r{n}") for n, q in enumerate(found)]
        before = len(server.requests)
        with pytest.raises(Rejected) as refused:
            await read(ours.start(make_turn(answers=answers[:1], ref=done(asked).ref)))
        assert not refused.value.sent
        assert len(server.requests) == before
        answers[1] = Answer(question_id=found[1].id, text="no disk", is_error=True)
        events = await read(ours.start(make_turn(answers=answers, ref=done(asked).ref)))
    assert texts(events) == ["you said: r0", "you said: failed: no disk"]


@pytest.mark.parametrize(
    ("prompt", "kind", "decision", "said"),
    [
        ("browse https://a.example", "approval", "allow", "approve"),
        ("browse https://a.example", "approval", "deny", "deny"),
        ("browse login", "auth", "deny", "cancel"),
    ],
)
async def test_what_a_browser_asks_is_asked(
    prompt: str, kind: str, decision: Any, said: str, make_turn: MakeTurn
) -> None:
    async with reaching() as (ours, _):
        asked = await read(ours.start(make_turn(prompt)))
        (question,) = questions(asked)
        assert question.kind == kind
        answer = Answer(question_id=question.id, decision=decision)
        events = await read(ours.start(make_turn(answers=[answer], ref=done(asked).ref)))
    assert texts(events) == [said]


async def test_passwords_are_not_carried(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, server):
        asked = await read(ours.start(make_turn("browse login")))
        answer = Answer(question_id=questions(asked)[0].id, data={"Password": "hunter2"})
        before = len(server.headers)
        with pytest.raises(Unsupported, match="sign in"):
            await read(ours.start(make_turn(answers=[answer], ref=done(asked).ref)))
        assert len(server.headers) == before


async def test_tools_thinking_usage_and_cost_have_their_events(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        first = await read(ours.start(make_turn("tool")))
        second = await read(ours.start(make_turn("hello", ref=done(first).ref)))
    assert [e.text for e in first if isinstance(e, Thinking)] == ["thinking hard"]
    uses = [(e.name, e.input) for e in first if isinstance(e, ToolUse)]
    assert uses == [
        ("search", {"q": "x"}),
        ("shell", {"command": "false", "cwd": "/workspace"}),
        ("web_search", {"type": "search", "query": "cats", "queries": None}),
    ]
    results = [(e.text, e.is_error) for e in first if isinstance(e, ToolResult)]
    assert results == [("found it", False), ("exit code 1", True)]
    for events in (first, second):
        (usage,) = [e for e in events if isinstance(e, Usage)]
        assert (usage.input_tokens, usage.output_tokens) == (7, 11)
        assert usage.cost_usd == pytest.approx(0.07)
        assert usage.detail["output_tokens_details"] == {"reasoning_tokens": 3}


async def test_files_go_both_ways_in_a_hosted_environment(make_turn: MakeTurn) -> None:
    async def data() -> bytes:
        return b"a,b\x00"

    given = PromptFile(name="in.csv", media_type="text/csv", size=4, read=data)
    async with reaching(**HOSTED) as (ours, server):
        turn = make_turn("file ../one.csv", files=[given, given])
        first = await read(ours.start(turn))
        again = make_turn("file two.csv", files=[given], ref=done(first).ref)
        second = await read(ours.start(again))
        third = await read(ours.start(make_turn("nothing", ref=done(second).ref)))
        put = {path: data for path, data in server.files.items() if path.startswith("/")}
    names = [[e.name for e in events if isinstance(e, File)] for events in (first, second, third)]
    assert names == [["one.csv"], ["two.csv"], []]
    folder = f"/workspace/uploads/{turn.id[-8:]}"
    later = f"/workspace/uploads/{again.id[-8:]}-1/in.csv"
    assert put == dict.fromkeys([f"{folder}-1/in.csv", f"{folder}-2/in.csv", later], b"a,b\x00")
    assert later in server.requests[-2][1]["events"][0]["input"][0]["content"][0]["text"]


async def test_a_cancelled_turn_says_so_and_the_session_goes_on(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        async with ours.start(make_turn("slow 500")) as events:
            seen = await until(events, MessageDelta)
            await ours.cancel(last_ref(seen))
            seen += [event async for event in events]
        assert done(seen).outcome == "cancelled"
        again = await read(ours.start(make_turn("hello", ref=done(seen).ref)))
        assert texts(again) == ["hello"]


@pytest.mark.parametrize(
    ("prompt", "kind", "gone"),
    [("die no disk", "failed", True), ("spend", "rate_limited", False)],
)
async def test_a_session_that_stops_says_why(
    prompt: str, kind: str, gone: bool, make_turn: MakeTurn
) -> None:
    async with reaching() as (ours, _):
        events = await read(ours.start(make_turn(prompt)))
    assert done(events).outcome == "failed"
    assert (done(events).error_kind, done(events).session_gone) == (kind, gone)
    assert done(events).error in ("no disk", "the spending limit of the session is reached")


async def test_unknown_events_and_those_of_subagents_are_passed_over(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        events = await read(ours.start(make_turn("odd")))
    assert texts(events) == ["went on"]
    assert not any(isinstance(event, MessageDelta) for event in events)


async def test_a_question_survives_a_crash(make_turn: MakeTurn) -> None:
    server = Server(key=KEY)
    with serving(server.app) as url:
        first, second = runtime(url), runtime(url)
        with anyio.fail_after(15):
            async with first.start(make_turn("ask here")) as events:
                ref = json.loads(json.dumps(last_ref(await until(events, Started))))
            await first.aclose()
            asked = await read(second.attach(ref, None))
            answer = Answer(question_id=questions(asked)[0].id, decision="allow")
            events = await read(second.start(make_turn(answers=[answer], ref=done(asked).ref)))
            assert texts(events) == ["allowed"]
            await second.aclose()


async def test_a_second_turn_that_was_lost_is_found_alone(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        first = await read(ours.start(make_turn("one")))
        async with ours.start(make_turn("two", ref=done(first).ref)) as events:
            ref = last_ref(await until(events, Started))
        assert texts(await read(ours.attach(ref, None))) == ["two"]


async def test_what_is_sent_names_the_turn_and_the_limits(make_turn: MakeTurn) -> None:
    settings = {"budget_usd": 2.5, "metadata": {"team": "a"}, "body": {"review": "auto_review"}}
    async with reaching(**settings) as (ours, server):
        turn = make_turn("one")
        first = await read(ours.start(turn))
        later = make_turn("two", ref=done(first).ref)
        await read(ours.start(later))
    body = server.requests[0][1]
    assert body["metadata"] == {"team": "a", "lap_session": turn.session_id}
    assert (body["spend_control"], body["review"]) == ({"limit": 250}, "auto_review")
    assert later.id in [headers.get("idempotency-key") for headers in server.headers]


async def test_a_session_that_is_busy_refuses_in_its_words(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        asked = await read(ours.start(make_turn("ask x")))
        with pytest.raises(Rejected, match="session is requires_action") as refused:
            await read(ours.start(make_turn("hello", ref=done(asked).ref)))
        assert (refused.value.kind, refused.value.sent) == ("conflict", False)
        assert refused.value.request_id == "req_9"


async def test_what_cannot_be_is_refused_before_anything_is_sent(make_turn: MakeTurn) -> None:
    async with reaching(agent="") as (ours, server):
        with pytest.raises(Unsupported, match="no agent is named"):
            await read(ours.start(make_turn("x")))
        for call in (
            ours.answer({"session": "s"}, Answer(question_id="q")),
            ours.steer({"session": "s"}, make_turn("x").input),  # type: ignore[arg-type]
            ours.cancel({"session": "a/b"}),
            ours.cancel({}),
        ):
            with pytest.raises(RuntimeFailure):
                await call
        for ref, cursor in (({}, None), ({"session": "../agents"}, None), ({"session": "s"}, "1")):
            with pytest.raises(RuntimeFailure):
                await read(ours.attach(ref, cursor))
    assert server.headers == []


def test_an_error_of_the_stream_is_a_lost_stream() -> None:
    with pytest.raises(Unavailable, match="overloaded"):
        AgentFold({}).feed({"type": "error", "error": {"message": "overloaded"}})


def test_a_rest_before_the_turn_began_ends_nothing() -> None:
    fold = AgentFold({"session": "s", "vendor_turn": "turn_1"})
    fold.feed({"type": "agent.session.idle", "session": {"status": "idle"}})
    old = {"id": "turn_1", "status": "completed"}
    fold.feed_past([], {"status": "idle"}, old)
    fold.feed({"type": "agent.session.turn.completed", "turn_id": "turn_1", "turn": old})
    fold.feed({"type": "agent.session.idle", "session": {"status": "idle"}})
    assert not fold.finished


def test_what_no_answer_gives_is_shown_and_waited_for() -> None:
    """A self-hosted environment is connected by somebody at its machine."""
    fold = AgentFold({"session": "s"})
    actions = [{"type": "environment_connection", "environment_id": "env_1"}]
    session = {"status": "requires_action", "required_actions": actions}
    (progress,) = fold.feed({"type": "agent.session.requires_action", "session": session})
    assert progress == Progress(text="waits for environment connection")
    assert not fold.finished


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"agent": "a", "model": "m"}, "name one of them"),
        ({"body": {"stream": True}}, "stream is set by the adapter"),
        ({"environment": {"type": "cloud"}}, "openai_hosted"),
        ({"url": "ftp://x"}, "not an http"),
    ],
)
def test_a_wrong_configuration_names_its_key(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        OpenAIAgentsConfig.model_validate(settings)
