"""What is Claude Managed Agents' own: the test server against the official SDK, questions of each
kind, what a session counts, files both ways, and how sessions end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import anyio
import pytest
from anthropic.types.beta.sessions import (
    BetaManagedAgentsAgentMessageEvent,
    BetaManagedAgentsAgentToolUseEvent,
    BetaManagedAgentsSessionStatusIdleEvent,
)
from lap_runtimes.base import (
    Answer,
    Asked,
    File,
    MessageDelta,
    Progress,
    PromptFile,
    ToolResult,
    ToolUse,
    Usage,
)
from lap_runtimes.claude_fold import SessionFold
from lap_runtimes.claude_managed_agents import (
    ClaudeManagedAgentsConfig,
    ClaudeManagedAgentsRuntime,
)
from lap_runtimes.errors import Rejected, RuntimeFailure, Unavailable, Unsupported
from pydantic import ValidationError

from tests.canary import canary
from tests.runtimes.claude_server import Server
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.reading import done, last_ref, questions, read, texts, until
from tests.runtimes.serving import serving
from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio

KEY = canary("claude")


def runtime(url: str, **settings: Any) -> ClaudeManagedAgentsRuntime:
    made = {
        "url": url,
        "auth": {"header": {"x-api-key": "env:KEY"}},
        "environment": "env_1",
        "agent": "agent_words",
        **settings,
    }
    context = {"resolve_secret": lambda reference: KEY}
    config = ClaudeManagedAgentsConfig.model_validate(made, context=context)
    return ClaudeManagedAgentsRuntime(config)


@asynccontextmanager
async def reaching(
    **settings: Any,
) -> AsyncIterator[tuple[ClaudeManagedAgentsRuntime, Server]]:
    server = Server(key=KEY)
    with serving(server.app) as url:
        ours = runtime(url, **settings)
        try:
            with anyio.fail_after(15):
                yield ours, server
        finally:
            await ours.aclose()


async def test_the_test_server_satisfies_the_official_client() -> None:
    """The oracle: what the adapter is tested against gives Anthropic's own SDK typed objects."""
    server = Server(key=KEY)
    with serving(server.app) as url:
        sdk = anthropic.AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0)
        async with sdk as client:
            agents = [agent.id async for agent in client.beta.agents.list()]
            assert agents == ["agent_old", "agent_words"]
            assert (await client.beta.environments.retrieve("env_1")).name == "default"
            session = await client.beta.sessions.create(agent="agent_words", environment_id="env_1")
            stream = await client.beta.sessions.events.stream(
                session.id, event_deltas=["agent.message"]
            )
            said = {"type": "user.message", "content": [{"type": "text", "text": "ask here"}]}
            sent = await client.beta.sessions.events.send(session.id, events=[said])  # type: ignore[list-item]
            assert sent.data is not None
            seen = []
            async for event in stream:
                seen.append(event)
                if event.type == "session.status_idle":
                    break
            await stream.close()
            assert [event.type for event in seen] == [
                "user.message",
                "session.status_running",
                "user.message",
                "agent.tool_use",
                "session.status_idle",
            ]
            assert isinstance(seen[3], BetaManagedAgentsAgentToolUseEvent)
            assert isinstance(seen[4], BetaManagedAgentsSessionStatusIdleEvent)
            assert seen[4].stop_reason.type == "requires_action"
            allow = {"type": "user.tool_confirmation", "tool_use_id": seen[3].id, "result": "allow"}
            await client.beta.sessions.events.send(session.id, events=[allow])  # type: ignore[list-item]
            await eventually_async(lambda: server.sessions[session.id].status == "idle")
            past = [event async for event in client.beta.sessions.events.list(session.id)]
            (message,) = [e for e in past if isinstance(e, BetaManagedAgentsAgentMessageEvent)]
            assert message.content[0].text == "allowed"  # type: ignore[union-attr]
            made = await client.beta.files.upload(file=("a.txt", b"bytes", "text/plain"))
            assert made.size_bytes == 5
            with pytest.raises(anthropic.NotFoundError):
                await client.beta.sessions.retrieve("sesn_99")
        wrong = anthropic.AsyncAnthropic(base_url=url, api_key="wrong", max_retries=0)
        async with wrong as client:
            with pytest.raises(anthropic.AuthenticationError):
                await client.beta.sessions.retrieve(session.id)


async def test_agents_are_found_on_every_page_with_their_descriptions() -> None:
    async with reaching() as (ours, _):
        (agent,) = await ours.agents()
    assert (agent.ref, agent.name, agent.description) == (
        "agent_words",
        "Words",
        "Says the words again.",
    )


@pytest.mark.parametrize(("decision", "said"), [("allow", "allowed"), ("deny", "denied: risky")])
async def test_an_approval_is_asked_and_answered(
    decision: Any, said: str, make_turn: MakeTurn
) -> None:
    async with reaching() as (ours, server):
        asked = await read(ours.start(make_turn("ask /etc/passwd")))
        (question,) = questions(asked)
        assert (question.kind, question.tool) == ("approval", "bash")
        assert question.tool_input == {"path": "/etc/passwd"}
        reason = "" if decision == "allow" else "risky"
        answer = Answer(question_id=question.id, decision=decision, text=reason)
        events = await read(ours.start(make_turn(answers=[answer], ref=done(asked).ref)))
        assert texts(events) == [said]
        assert done(events).outcome == "completed"
        assert "open" not in (done(events).ref or {})
    assert server.requests[-1][1]["events"][0]["result"] == decision


async def test_all_questions_are_answered_at_once(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, server):
        asked = await read(ours.start(make_turn("call one two")))
        found = questions(asked)
        assert [(q.kind, q.tool) for q in found] == [("tool_result", "one"), ("tool_result", "two")]
        ref = done(asked).ref
        answers = [Answer(question_id=q.id, text=f"r{n}") for n, q in enumerate(found)]
        before = len(server.requests)
        for some in (answers[:1], [*answers, Answer(question_id="other")]):
            with pytest.raises(Rejected) as refused:
                await read(ours.start(make_turn(answers=some, ref=ref)))
            assert not refused.value.sent
        assert len(server.requests) == before
        answers[1] = Answer(question_id=found[1].id, text="no disk", is_error=True)
        events = await read(ours.start(make_turn(answers=answers, ref=ref)))
        assert texts(events) == ["you said: no disk (failed)"]
        sent = server.requests[-1][1]["events"]
    assert [event["type"] for event in sent] == ["user.custom_tool_result"] * 2
    assert [event["is_error"] for event in sent] == [False, True]


async def test_a_declined_tool_call_says_so_to_the_agent(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        asked = await read(ours.start(make_turn("call one")))
        (question,) = questions(asked)
        no = Answer(question_id=question.id, decision="deny", text="not now")
        events = await read(ours.start(make_turn(answers=[no], ref=done(asked).ref)))
    assert texts(events) == ["you said: The call was declined. not now (failed)"]


async def test_tools_and_thinking_have_their_events(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        events = await read(ours.start(make_turn("tool")))
    (use,) = [e for e in events if isinstance(e, ToolUse)]
    (result,) = [e for e in events if isinstance(e, ToolResult)]
    assert (use.name, use.input) == ("search", {"q": "x"})
    assert (result.tool_use_id, result.text, result.is_error) == (use.id, "found it", False)
    assert any(isinstance(e, Progress) and e.text == "thinking" for e in events)
    assert not questions(events), "a tool that is allowed asks nothing"


async def test_usage_is_that_of_the_turn_not_of_the_session(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        first = await read(ours.start(make_turn("one")))
        second = await read(ours.start(make_turn("two", ref=done(first).ref)))
    for events in (first, second):
        (usage,) = [e for e in events if isinstance(e, Usage)]
        assert (usage.input_tokens, usage.output_tokens) == (7, 11)
        assert usage.cost_usd == pytest.approx(0.07)
        assert usage.detail["session"]["cache_read_input_tokens"] == 2


async def test_each_file_is_given_once_by_a_safe_name(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        first = await read(ours.start(make_turn("file ../../x/one.csv")))
        second = await read(ours.start(make_turn("file two.csv", ref=done(first).ref)))
        third = await read(ours.start(make_turn("nothing", ref=done(second).ref)))
        again = await read(ours.attach(first[0].ref or {}, None))
    names = [[e.name for e in events if isinstance(e, File)] for events in (first, second, third)]
    assert names == [["one.csv"], ["two.csv"], []]
    assert "one.csv" in [e.name for e in again if isinstance(e, File)]


async def test_files_are_uploaded_mounted_and_named(make_turn: MakeTurn) -> None:
    async def data() -> bytes:
        return b"a,b\r\n\x00"

    files = [
        PromptFile(name='my "data".csv', media_type="text/csv", size=6, read=data),
        PromptFile(name="plot.png", media_type="image/png", size=6, read=data),
        PromptFile(name="paper.pdf", media_type="application/pdf", size=6, read=data),
    ]
    async with reaching(resources=[{"type": "memory_store", "memory_store_id": "m"}]) as (
        ours,
        server,
    ):
        first = await read(ours.start(make_turn("look", files=files)))
        assert server.uploads == [b"a,b\r\n\x00"] * 3
        (made,) = [body for path, body in server.requests if path == "/v1/sessions"]
        assert [r.get("mount_path") for r in made["resources"]] == [
            None,
            '/mnt/session/uploads/file_1/my "data".csv',
            "/mnt/session/uploads/file_2/plot.png",
            "/mnt/session/uploads/file_3/paper.pdf",
        ]
        text, *blocks = server.requests[-1][1]["events"][0]["content"]
        assert "/mnt/session/uploads/file_2/plot.png" in text["text"]
        assert [block["type"] for block in blocks] == ["image", "document"]
        await read(ours.start(make_turn("more", files=files[:1], ref=done(first).ref)))
        assert "/v1/sessions/sesn_1/resources" in [path for path, _ in server.requests]
        assert len(server.sessions) == 1


async def test_the_configuration_reaches_the_session(make_turn: MakeTurn) -> None:
    settings = {"vaults": ["vlt_1"], "budget_usd": 2.5, "metadata": {"team": "a"}}
    async with reaching(**settings) as (ours, server):
        turn = make_turn("x", agent="agent_words")
        await read(ours.start(turn))
    body = server.requests[0][1]
    assert body["metadata"] == {"team": "a", "lap_session": turn.session_id}
    assert body["vault_ids"] == ["vlt_1"]
    assert body["budget"]["max_list_cost"] == {"amount": "250", "currency": "USD"}


async def test_an_interrupted_turn_ends_as_cancelled_and_the_session_goes_on(
    make_turn: MakeTurn,
) -> None:
    async with reaching() as (ours, _):
        async with ours.start(make_turn("slow 500")) as events:
            seen = await until(events, MessageDelta)
            await ours.cancel(last_ref(seen))
            seen += [event async for event in events]
        assert done(seen).outcome == "cancelled"
        again = await read(ours.start(make_turn("hello", ref=done(seen).ref)))
        assert done(again).outcome == "completed"


async def test_a_session_that_dies_is_gone_and_says_why(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        events = await read(ours.start(make_turn("die out of ink")))
        assert (done(events).outcome, done(events).session_gone) == ("failed", True)
        assert done(events).error == "out of ink"
        ref = done(events).ref or {}
        with pytest.raises(Rejected, match="terminated"):
            await read(ours.start(make_turn("hello", ref=ref)))
        await ours.cancel(ref)


async def test_a_refusal_fails_the_turn_in_its_words(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        events = await read(ours.start(make_turn("refuse not mine")))
    assert done(events).outcome == "failed"
    assert done(events).error == "the model refused: not mine"
    assert not done(events).session_gone


async def test_an_error_that_is_retried_is_no_failure_until_it_is(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        events = await read(ours.start(make_turn("fail too busy")))
    assert [e.text for e in events if isinstance(e, Progress)] == ["retrying: too busy"]
    assert (done(events).error, done(events).error_kind) == ("too busy", "overloaded")


async def test_events_of_unknown_types_are_passed_over(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        events = await read(ours.start(make_turn("odd")))
    assert texts(events) == ["went on"]


async def test_a_question_survives_a_crash(make_turn: MakeTurn) -> None:
    """Another process finds it in the history, and its answer."""
    server = Server(key=KEY)
    with serving(server.app) as url:
        first, second = runtime(url), runtime(url)
        with anyio.fail_after(15):
            async with first.start(make_turn("ask here")) as events:
                ref = json.loads(json.dumps((await anext(events)).ref))
            await first.aclose()
            asked = await read(second.attach(ref, None))
            (question,) = questions(asked)
            answer = Answer(question_id=question.id, decision="allow")
            events = await read(second.start(make_turn(answers=[answer], ref=done(asked).ref)))
            assert texts(events) == ["allowed"]
            await second.aclose()


async def test_attaching_to_the_first_turn_does_not_give_the_second(make_turn: MakeTurn) -> None:
    async with reaching() as (ours, _):
        first = await read(ours.start(make_turn("one")))
        await read(ours.start(make_turn("two", ref=done(first).ref)))
        assert texts(await read(ours.attach(first[0].ref or {}, None))) == ["one"]


async def test_what_begins_no_work_may_be_tried_again(make_turn: MakeTurn) -> None:
    """A wrong agent, a wrong key and a session that is gone are refused before the prompt is."""
    async with reaching() as (ours, server):
        with pytest.raises(Rejected) as refused:
            await read(ours.start(make_turn("x", agent="agent_other")))
        assert (refused.value.kind, refused.value.sent) == ("not_found", False)
        assert refused.value.request_id == "req_9"
        with pytest.raises(Rejected) as refused:
            await read(ours.start(make_turn("x", ref={"session": "sesn_99"})))
        assert refused.value.kind == "not_found"
        assert not any(path.endswith("/events") for path, _ in server.requests)


@pytest.mark.parametrize(
    ("broken", "safe"), [("/files", True), ("/sessions", True), ("/events", False)]
)
async def test_whether_a_500_may_be_tried_again_depends_on_what_was_asked(
    broken: str, safe: bool, make_turn: MakeTurn
) -> None:
    """An upload and an empty session begin no work; a prompt may have."""

    async def data() -> bytes:
        return b"x"

    file = PromptFile(name="x", media_type="text/plain", size=1, read=data)
    async with reaching() as (ours, server):
        server.broken = broken
        with pytest.raises(Rejected, match="out of ink") as refused:
            await read(ours.start(make_turn("hello", files=[file])))
    assert (refused.value.status, refused.value.safe_to_retry) == (500, safe)


async def test_without_an_agent_nothing_is_sent(make_turn: MakeTurn) -> None:
    async with reaching(agent="") as (ours, server):
        with pytest.raises(Unsupported, match="no agent is named"):
            await read(ours.start(make_turn("x")))
        for call in (
            ours.answer({"session": "s"}, Answer(question_id="q")),
            ours.steer({"session": "s"}, make_turn("x").input),  # type: ignore[arg-type]
        ):
            with pytest.raises(Unsupported):
                await call
        for ref in ({}, {"session": "../agents", "from": "e"}, {"session": "sesn_1"}):
            with pytest.raises(RuntimeFailure):
                await read(ours.attach(ref, None))
        with pytest.raises(Rejected):
            await ours.cancel({"session": "a/b"})
    assert server.headers == []


def test_what_comes_before_our_own_event_is_of_an_earlier_turn() -> None:
    """A server that replays, a rest that is told late."""
    fold = SessionFold({"turn": "trn_2", "from": "sevt_5"})
    idle = {"type": "session.status_idle", "stop_reason": {"type": "end_turn"}}
    text = [{"type": "text", "text": "old"}]
    assert fold.feed({"type": "agent.message", "id": "sevt_3", "content": text}) == []
    assert fold.feed({**idle, "id": "sevt_4"}) == []
    assert not fold.finished
    fold.feed({"type": "user.message", "id": "sevt_5", "content": []})
    fold.feed({**idle, "id": "sevt_6"})
    assert fold.finished


def test_an_error_of_the_stream_is_a_lost_stream() -> None:
    with pytest.raises(Unavailable, match="Overloaded") as lost:
        SessionFold({}).feed({"type": "error", "error": {"message": "Overloaded"}})
    assert lost.value.sent


def test_a_preview_that_is_never_finished_is_closed_with_what_it_had() -> None:
    fold = SessionFold({"turn": "trn_1"})
    content = {"type": "text", "text": "half"}
    fold.feed({"type": "event_delta", "event_id": "sevt_1", "delta": {"content": content}})
    fold.feed({"type": "session.status_idle", "id": "sevt_2", "stop_reason": {"type": "end_turn"}})
    assert texts(list(fold.end({}, []))) == ["half"]


def test_a_self_hosted_tool_is_asked_for_its_result() -> None:
    """Where the client runs the agent's tools, they are allowed and still waited for."""
    fold = SessionFold({"turn": "trn_1"})
    use = {"type": "agent.tool_use", "id": "e1", "name": "bash", "input": {"command": "ls"}}
    fold.feed({**use, "evaluated_permission": "allow"})
    reason = {"type": "requires_action", "event_ids": ["e1"]}
    (asked,) = fold.feed({"type": "session.status_idle", "id": "e2", "stop_reason": reason})
    assert isinstance(asked, Asked)
    assert asked.question.kind == "tool_result"
    ((*_, last),) = [list(fold.end({}, []))]
    assert (last.ref or {})["open"] == {"e1": "self_hosted"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "environment"),
        ({"environment": "e", "budget_usd": 0}, "budget_usd"),
        ({"environment": "e", "envronment": "x"}, "envronment"),
        ({"environment": "e", "url": "https://me:pw@api.anthropic.com"}, "use auth"),
    ],
)
def test_a_wrong_configuration_names_its_key(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ClaudeManagedAgentsConfig.model_validate(settings)
