"""What is Elastic's own: rounds and conversations, prompts of each kind, attachments both ways, and
streams that call themselves something else."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from lap_runtimes.base import (
    Answer,
    MessageDelta,
    PromptFile,
    Started,
    Thinking,
    ToolResult,
    ToolUse,
    Usage,
)
from lap_runtimes.elastic import ElasticConfig
from lap_runtimes.elastic_fold import RoundFold
from lap_runtimes.errors import ProtocolError, Rejected, Unsupported
from pydantic import ValidationError

from tests.canary import canary
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.elastic_server import Server
from tests.runtimes.jobs import sse
from tests.runtimes.serving import serving
from tests.runtimes.vendors import SSE, Deviant, done, files, questions, reaching, read, texts
from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio

KEY = canary("elastic")
SPACE = "/s/team"


async def test_agents_are_listed_with_what_they_say_of_themselves() -> None:
    server = Server(key=KEY)
    with serving(server.app) as url:
        async with reaching("elastic", url + SPACE) as ours:
            (agent,) = await ours.agents()
    assert (agent.ref, agent.name) == ("elastic-ai-agent", "Elastic AI Agent")
    assert agent.description == "Searches your data."


async def test_the_configured_fields_and_headers_are_sent(make_turn: MakeTurn) -> None:
    server = Server(key=KEY)
    body = {"configuration_overrides": {"instructions": "be brief"}}
    with serving(server.app) as url:
        async with reaching("elastic", url + SPACE, connector="c-1", body=body) as ours:
            first = await read(ours.start(make_turn("hello", input={"a": 1})))
            await read(ours.start(make_turn("again", ref=done(first).ref)))
    one, two = server.bodies("/converse/async")
    assert (one["connector_id"], one["agent_id"]) == ("c-1", "elastic-ai-agent")
    assert one["input"] == 'hello\n\n{"a": 1}'
    assert one["configuration_overrides"] == {"instructions": "be brief"}
    assert "conversation_id" not in one
    assert two["conversation_id"] == (done(first).ref or {})["conversation"]
    sent = server.headers[0]
    assert (sent["authorization"], sent["kbn-xsrf"]) == (f"ApiKey {KEY}", "true")


async def test_a_bearer_token_is_sent_as_one() -> None:
    server = Server(key=KEY)
    with serving(server.app) as url:
        async with reaching("elastic", url + SPACE, scheme="Bearer") as ours:
            with pytest.raises(Rejected) as refused:
                await ours.check()
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert refused.value.kind == "auth"
    assert "unable to authenticate" in refused.value.message
    assert refused.value.request_id == "trace-1"


@pytest.mark.parametrize(("decision", "said"), [("allow", "allowed"), ("deny", "denied")])
async def test_a_confirmation_is_asked_and_answered(
    decision: Any, said: str, make_turn: MakeTurn
) -> None:
    server = Server(key=KEY)
    with serving(server.app) as url:
        async with reaching("elastic", url + SPACE) as ours:
            asked = await read(ours.start(make_turn("ask logs")))
            (question,) = questions(asked)
            assert (question.kind, question.text) == ("approval", "Delete?\nIndex logs")
            assert (question.tool, question.tool_input) == ("delete_index", {"index": "logs"})
            given = [Answer(question_id=question.id, decision=decision)]
            events = await read(ours.start(make_turn(answers=given, ref=done(asked).ref)))
    sent = server.bodies("/converse/async")[-1]
    assert sent["prompts"] == {"delete_index": {"allow": decision == "allow"}}
    assert "input" not in sent
    assert texts(events) == [said]


async def test_the_same_permission_twice_is_two_questions(make_turn: MakeTurn) -> None:
    """Kibana calls a prompt by what it asks for, not by when."""
    with serving(Server(key=KEY).app) as url:
        async with reaching("elastic", url + SPACE) as ours:
            first = await read(ours.start(make_turn("ask logs")))
            (one,) = questions(first)
            given = [Answer(question_id=one.id, decision="allow")]
            on = await read(ours.start(make_turn(answers=given, ref=done(first).ref)))
            second = await read(ours.start(make_turn("ask logs", ref=done(on).ref)))
            (two,) = questions(second)
            with pytest.raises(Rejected) as refused:
                await read(ours.start(make_turn(answers=given, ref=done(second).ref)))
    assert one.id != two.id
    assert not refused.value.sent


async def test_signing_in_is_a_question_of_its_kind(make_turn: MakeTurn) -> None:
    server = Server(key=KEY)
    with serving(server.app) as url:
        async with reaching("elastic", url + SPACE) as ours:
            asked = await read(ours.start(make_turn("login Slack")))
            (question,) = questions(asked)
            assert question.kind == "auth"
            assert "Slack" in question.text
            for answer, authorized in (({"text": "done"}, True), ({"decision": "deny"}, False)):
                given = [Answer(question_id=question.id, **answer)]  # type: ignore[arg-type]
                await read(ours.start(make_turn(answers=given, ref=done(asked).ref)))
                sent = server.bodies("/converse/async")[-1]["prompts"]
                assert sent == {"auth1": {"authorized": authorized}}
                asked = await read(ours.start(make_turn("login Slack")))
                (question,) = questions(asked)


async def test_several_questions_are_one_prompt(make_turn: MakeTurn) -> None:
    server = Server(key=KEY)
    with serving(server.app) as url:
        async with reaching("elastic", url + SPACE) as ours:
            asked = await read(ours.start(make_turn("choose red blue")))
            which, why = questions(asked)
            assert (which.kind, which.options, why.options) == ("input", ["red", "blue"], [])
            ref = done(asked).ref
            one = [Answer(question_id=which.id, option="blue")]
            with pytest.raises(Rejected, match="missing") as refused:
                await read(ours.start(make_turn(answers=one, ref=ref)))
            assert not refused.value.sent
            wrong = Answer(question_id=which.id, option="green")
            because = Answer(question_id=why.id, text="x")
            with pytest.raises(Rejected, match="none of the options"):
                await read(ours.start(make_turn(answers=[wrong, because], ref=ref)))
            both = [
                Answer(question_id=why.id, decision="deny"),
                Answer(question_id=which.id, option="blue", text="dark"),
            ]
            await read(ours.start(make_turn(answers=both, ref=ref)))
    sent = server.bodies("/converse/async")[-1]["prompts"]
    assert sent == {"q1": {"answers": [{"choice": [1], "custom": "dark"}, {"skipped": True}]}}


async def test_reasoning_and_tools_have_their_events(make_turn: MakeTurn) -> None:
    with serving(Server(key=KEY).app) as url:
        async with reaching("elastic", url + SPACE) as ours:
            events = await read(ours.start(make_turn("tool")))
    thoughts = [e.text for e in events if isinstance(e, Thinking)]
    assert thoughts == ["I start with a search."], "what is transient is not kept"
    (use,) = [e for e in events if isinstance(e, ToolUse)]
    (result,) = [e for e in events if isinstance(e, ToolResult)]
    assert (use.name, use.input) == ("platform.core.search", {"query": "x"})
    assert (result.tool_use_id, result.text, result.is_error) == (use.id, "no such index", True)
    (used,) = [e for e in events if isinstance(e, Usage)]
    assert (used.input_tokens, used.output_tokens, used.detail["llm_calls"]) == (7, 11, 1)


async def test_a_round_that_is_kept_says_what_was_streamed(make_turn: MakeTurn) -> None:
    settings = {"execution": "task_manager", "poll_interval": 0.02}
    with serving(Server(key=KEY).app) as url:
        async with reaching("elastic", url + SPACE, **settings) as ours:
            for prompt in ("tool", "file a.txt", "choose red blue"):
                live = await read(ours.start(make_turn(prompt)))
                started = next(event for event in live if isinstance(event, Started))
                kept = await read(ours.attach(started.ref, None))
                assert [e.id for e in kept if e.id] == [e.id for e in live if e.id]
                assert texts(kept) == texts(live)
                assert done(kept).ref == done(live).ref


async def test_a_resumed_round_that_was_lost_is_waited_for(make_turn: MakeTurn) -> None:
    """It is in the conversation all the time, waiting for what was answered already."""
    server = Server(key=KEY)
    settings = {"execution": "task_manager", "poll_interval": 0.02}
    with serving(server.app) as url:
        async with reaching("elastic", url + SPACE, **settings) as ours:
            asked = await read(ours.start(make_turn("ask logs")))
            (question,) = questions(asked)
            given = [Answer(question_id=question.id, decision="allow")]
            async with ours.start(make_turn(answers=given, ref=done(asked).ref)) as events:
                started = await anext(events)
            again = await read(ours.attach(started.ref, None))
    assert texts(again) == ["allowed"]
    assert not [e for e in again if isinstance(e, ToolUse)], "steps of the turn before"


async def test_a_stream_on_elastic_cloud_is_called_something_else(make_turn: MakeTurn) -> None:
    with serving(Server(key=KEY, cloud=True).app) as url:
        async with reaching("elastic", url + SPACE) as ours:
            events = await read(ours.start(make_turn("slow 3")))
    assert len([e for e in events if isinstance(e, MessageDelta)]) == 4
    assert done(events).outcome == "completed"


async def test_a_round_ends_when_kibana_has_kept_it(make_turn: MakeTurn) -> None:
    """Some stacks end what their reader leaves: leaving at `round_complete` would lose it."""
    server = Server(key=KEY)
    with serving(server.app) as url:
        async with reaching("elastic", url + SPACE, execution="local") as ours:
            events = await read(ours.start(make_turn("remember apples")))
            again = await read(ours.start(make_turn("recall", ref=done(events).ref)))
    assert texts(again) == ["apples"]
    assert server.aborted == []


async def test_a_conversation_that_was_never_kept_begins_anew(make_turn: MakeTurn) -> None:
    """Its first round was lost, or failed: Kibana does not know it."""
    server = Server(key=KEY)
    with serving(server.app) as url:
        async with reaching("elastic", url + SPACE, execution="local") as ours:
            async with ours.start(make_turn("slow 500")) as events:
                started = await anext(events)
            await eventually_async(lambda: server.aborted)
            assert (started.ref or {})["conversation"]
            again = await read(ours.start(make_turn("hello", ref=started.ref)))
            failed = await read(ours.start(make_turn("fail why")))
            assert "conversation" not in (done(failed).ref or {})
            kept = {"conversation": "gone", "round": "r", "turn": "t"}
            with pytest.raises(Rejected) as refused:
                await read(ours.start(make_turn("hello", ref=kept)))
    assert texts(again) == ["hello"]
    assert (refused.value.kind, refused.value.sent) == ("not_found", False)


async def test_a_failure_says_its_words_and_trace(make_turn: MakeTurn) -> None:
    with serving(Server(key=KEY).app) as url:
        async with reaching("elastic", url + SPACE) as ours:
            first = await read(ours.start(make_turn("remember apples")))
            failed = await read(ours.start(make_turn("fail why", ref=done(first).ref)))
            again = await read(ours.start(make_turn("recall", ref=done(failed).ref)))
    assert done(failed).error == "why (trace trace-2)"
    assert texts(failed) == ["It began well. "]
    assert texts(again) == ["apples"]


async def test_files_go_in_as_attachments_and_only_the_agents_come_out(
    make_turn: MakeTurn,
) -> None:
    async def content() -> bytes:
        return b"a,b"

    server = Server(key=KEY)
    text = PromptFile(name="in.csv", media_type="text/csv", size=3, read=content)
    image = PromptFile(name="in.png", media_type="image/png", size=3, read=content)
    with serving(server.app) as url:
        async with reaching("elastic", url + SPACE) as ours:
            first = await read(ours.start(make_turn("file a.txt", files=[text])))
            second = await read(ours.start(make_turn("hello", ref=done(first).ref)))
            before = len(server.requests)
            with pytest.raises(Unsupported):
                await read(ours.start(make_turn("hello", files=[image])))
    assert len(server.requests) == before
    (sent,) = server.bodies("/converse/async")[0]["attachments"]
    assert sent["data"] == {"content": '<file name="in.csv">\na,b\n</file>'}
    (made,) = files(first)
    assert (made.name, made.media_type, made.data) == ("a.txt", "text/plain", b"content of it")
    assert files(second) == [], "told once"


async def test_a_license_that_is_too_low_is_said(make_turn: MakeTurn) -> None:
    server = Server(key=KEY)
    told = {"statusCode": 403, "error": "Forbidden", "message": "Invalid license level."}
    with serving(server.app) as url:
        async with reaching("elastic", url + SPACE) as ours:
            server.instead("/converse", 403, told)
            with pytest.raises(Rejected, match="Invalid license level") as refused:
                await read(ours.start(make_turn("hello")))
    assert (refused.value.kind, refused.value.status) == ("auth", 403)


async def test_a_credential_that_kibana_echoes_is_not_told(make_turn: MakeTurn) -> None:
    server = Server(key=KEY)
    with serving(server.app) as url:
        async with reaching("elastic", url + SPACE) as ours:
            server.instead("/converse", 400, {"message": f"cannot decode {KEY} as a key"})
            with pytest.raises(Rejected, match=r"cannot decode \[secret\]") as refused:
                await read(ours.start(make_turn("hello")))
    assert KEY not in refused.value.message


async def test_a_rate_limit_of_the_proxy_is_honoured(make_turn: MakeTurn) -> None:
    server = Server(key=KEY)
    with serving(server.app) as url:
        async with reaching("elastic", url + SPACE) as ours:
            server.instead("/converse", 429, {"message": "slow"}, retry_after="2")
            with pytest.raises(Rejected) as refused:
                await read(ours.start(make_turn("hello")))
    assert (refused.value.kind, refused.value.retry_after) == ("rate_limited", 2)


async def test_what_it_has_not_is_refused_before_anything_is_sent(make_turn: MakeTurn) -> None:
    server = Server(key=KEY)
    with serving(server.app) as url:
        async with reaching("elastic", url + SPACE) as ours:
            with pytest.raises(Unsupported):
                await ours.cancel({"conversation": "c"})
            with pytest.raises(Unsupported):
                await read(ours.attach({"conversation": "c"}, None))
        async with reaching("elastic", url + SPACE, execution="task_manager") as ours:
            with pytest.raises(Unsupported):
                await read(ours.attach({"conversation": "c"}, "5"))
            with pytest.raises(Rejected):
                await read(ours.attach({}, None))
            with pytest.raises(Rejected):
                await read(ours.attach({"conversation": ".."}, None))
    assert server.requests == []


async def test_a_round_that_nobody_keeps_is_silent(make_turn: MakeTurn) -> None:
    """The engine's timer for silence ends it; a heartbeat would keep it alive for ever."""
    settings = {"execution": "task_manager", "poll_interval": 0.01}
    server = Server(key=KEY)
    with serving(server.app) as url:
        async with reaching("elastic", url + SPACE, **settings) as ours:
            with anyio.move_on_after(0.5) as scope:
                seen = await read(ours.attach({"conversation": "lost"}, None))
                assert seen == []
    assert scope.cancelled_caught
    assert len(server.requests) > 2


@pytest.mark.parametrize("data", ["nonsense", "[]", "5"])
async def test_what_is_no_round_is_a_protocol_error(data: str, make_turn: MakeTurn) -> None:
    stream = f"event: message_chunk\ndata: {data}\n\n"
    with serving(Deviant({"/converse/async": (stream, SSE, 200)}).app) as url:
        async with reaching("elastic", url) as ours:
            with pytest.raises(ProtocolError):
                await read(ours.start(make_turn("x")))


async def test_a_stream_that_stops_is_lost_not_completed(make_turn: MakeTurn) -> None:
    stream = sse("conversation_id_set", {"data": {"conversation_id": "c"}})
    stream += sse("message_chunk", {"data": {"message_id": "m", "text_chunk": "he"}})
    with serving(Deviant({"/converse/async": (stream, SSE, 200)}).app) as url:
        async with reaching("elastic", url) as ours:
            events = await read(ours.start(make_turn("x")))
    assert [type(event).__name__ for event in events] == ["Started", "MessageDelta"]


def test_an_older_stack_says_less_and_is_understood() -> None:
    """9.2: no conversation id at the beginning, no chunks, one pending prompt, no status."""
    fold = RoundFold({"turn": "t"})
    kept = {"id": "r", "response": {"message": "hi"}}
    frames = [("round_complete", {"round": kept}), ("conversation_created", {"conversation_id": 1})]
    events = [e for name, data in frames for e in fold.feed(name, json.dumps({"data": data}))]
    assert texts(events) == ["hi"]
    assert done(events).ref == {"turn": "t", "conversation": "1", "round": "r"}


def test_a_round_whose_stream_ends_without_a_word_is_complete() -> None:
    fold = RoundFold({"turn": "t", "conversation": "c"})
    round_ = {"id": "r", "status": "completed", "response": {"message": "hi"}}
    events = fold.feed("round_complete", json.dumps({"data": {"round": round_}}))
    assert not fold.finished
    assert done([*events, *fold.end()]).outcome == "completed"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"body": {"agent_id": "x"}}, "agent_id is set by the adapter"),
        ({"execution": "cloud"}, "execution"),
        ({"scheme": "Basic"}, "scheme"),
    ],
)
def test_a_wrong_configuration_names_its_key(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ElasticConfig.model_validate({"url": "https://kibana.example.com", **settings})
