"""What is AgentCore's own: the test server against boto3, signatures on the wire, payloads of the
usual frameworks, the harness's loop, and AWS's errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from lap_runtimes.agentcore_fold import PayloadFold
from lap_runtimes.agentcore_harness_fold import HarnessFold
from lap_runtimes.aws_eventstream import EventMessage
from lap_runtimes.base import (
    Answer,
    Asked,
    Done,
    Event,
    Message,
    MessageDelta,
    Thinking,
    ToolResult,
    ToolUse,
    Usage,
)
from lap_runtimes.bedrock_agentcore import BedrockAgentCoreRuntime
from lap_runtimes.errors import ProtocolError, Rejected, Unsupported
from pydantic import ValidationError

from tests.canary import canary
from tests.runtimes.agentcore_server import ARN, HARNESS, REGION, Server, message
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.serving import serving

pytestmark = pytest.mark.anyio

KEY = canary("bedrock_agentcore")
SIGNED = {"aws": {"access_key_id": "env:ID", "secret_access_key": "env:KEY"}}
HARNESSES = {**SIGNED, "surface": "harness", "agent": HARNESS}


@asynccontextmanager
async def reaching(server: Server, **settings: Any) -> AsyncIterator[BedrockAgentCoreRuntime]:
    with serving(server.app) as url:
        runtime = made(url=url, **(settings or {**SIGNED, "agent": ARN}))
        try:
            with anyio.fail_after(15):
                yield runtime
        finally:
            await runtime.aclose()


def made(**settings: Any) -> BedrockAgentCoreRuntime:
    context = {"resolve_secret": lambda reference: KEY}
    kind = BedrockAgentCoreRuntime
    return kind(kind.Config.model_validate({"region": REGION, **settings}, context=context))


async def read(stream: Any) -> list[Event]:
    async with stream as events:
        return [event async for event in events]


def of(kind: Any, events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


# The test server is what AWS's own client expects.


@contextmanager
def aws(service: str) -> Iterator[Any]:
    with serving(Server(key=KEY).app) as url:
        client = boto3.client(
            service,
            region_name=REGION,
            endpoint_url=url,
            aws_access_key_id=KEY,
            aws_secret_access_key=KEY,
            config=Config(retries={"max_attempts": 1}),
        )
        try:
            yield client
        finally:
            client.close()


SESSION = "ses_" + "0" * 32


def test_boto3_calls_the_agent_and_stops_its_session() -> None:
    with aws("bedrock-agentcore") as client:
        payload = json.dumps({"prompt": "hello"}).encode()
        named = {"agentRuntimeArn": ARN, "runtimeSessionId": SESSION, "qualifier": "DEFAULT"}
        answer = client.invoke_agent_runtime(**named, payload=payload)
        assert answer["response"].read() == b'data: "you said: hello"\n\n'
        stopped = client.stop_runtime_session(**named)
        assert stopped["runtimeSessionId"] == SESSION
        with pytest.raises(ClientError) as refusal:
            client.stop_runtime_session(**named)
        assert refusal.value.response["Error"]["Code"] == "ResourceNotFoundException"


def test_boto3_reads_the_harness() -> None:
    """Each event is one of the service model's, and has what the model requires."""
    with aws("bedrock-agentcore") as client:
        said = {"role": "user", "content": [{"text": "tool search"}]}
        named = {"harnessArn": HARNESS, "runtimeSessionId": SESSION}
        events = list(client.invoke_harness(**named, messages=[said])["stream"])
        kinds = [next(iter(event)) for event in events]
        assert "SDK_UNKNOWN_MEMBER" not in kinds
        assert {"messageStart", "contentBlockDelta", "messageStop", "metadata"} <= set(kinds)
        results = [e for e in events if "toolResult" in str(e)]
        assert results[0]["contentBlockStart"]["start"]["toolResult"]["toolUseId"] == "t1"


def test_boto3_lists_the_agents() -> None:
    with aws("bedrock-agentcore-control") as client:
        pages = client.get_paginator("list_agent_runtimes").paginate()
        assert [a["status"] for page in pages for a in page["agentRuntimes"]] == [
            "READY",
            "READY",
            "DELETING",
        ]
        assert client.list_harnesses()["harnesses"][0]["arn"] == HARNESS


# Requests


async def test_agents_that_speak_another_protocol_or_are_being_deleted_are_not_listed() -> None:
    async with reaching(Server(key=KEY)) as runtime:
        (agent,) = await runtime.agents()
        assert (agent.ref, agent.name, agent.description) == (ARN, "words", "says words")


async def test_an_oauth_token_never_reaches_the_control_plane() -> None:
    server = Server(token=KEY)
    async with reaching(server, auth={"bearer": "env:T"}, agent=ARN) as runtime:
        assert [each.name for each in await runtime.agents()] == ["words"]
        assert "token" in await runtime.check()
    assert server.requests == []
    with pytest.raises(Unsupported, match="ARN"):
        await made(auth={"bearer": "env:T"}).agents()


async def test_a_wrong_key_is_refused_in_aws_words_and_never_shown(make_turn: MakeTurn) -> None:
    async with reaching(Server(key="another")) as runtime:
        with pytest.raises(Rejected) as refusal:
            await read(runtime.start(make_turn("hello")))
    assert (refusal.value.kind, refusal.value.status) == ("auth", 403)
    assert refusal.value.request_id == "req-1"
    assert not refusal.value.sent
    assert KEY not in str(refusal.value)


async def test_the_session_id_is_ours_and_the_input_beside_the_prompt(make_turn: MakeTurn) -> None:
    server = Server(key=KEY)
    settings = {**SIGNED, "agent": ARN, "body": {"mode": "fast"}, "user_id": "u1"}
    async with reaching(server, **settings) as runtime:
        turn = make_turn("hello", input={"city": "Oslo"})
        await read(runtime.start(turn))
    (call,) = server.requests
    assert call[1]["x-amzn-bedrock-agentcore-runtime-session-id"] == turn.session_id
    assert call[1]["x-amzn-bedrock-agentcore-runtime-user-id"] == "u1"
    assert json.loads(call[2]) == {"mode": "fast", "city": "Oslo", "prompt": "hello"}


async def test_what_is_no_arn_is_refused_before_anything_is_sent(make_turn: MakeTurn) -> None:
    server = Server()
    async with reaching(server) as runtime:
        for agent in ("words", f"{ARN}/../x?y", f"{ARN}\n", "https://evil.example/"):
            with pytest.raises(Rejected) as refusal:
                await read(runtime.start(make_turn("hello", agent=agent)))
            assert not refusal.value.sent
    assert server.requests == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"region": ""}, "name the AWS region"),
        ({"region": "us-east-1.evil.example/"}, "name the AWS region"),
        ({"auth": {"bearer": "env:T"}, **SIGNED}, "nothing is signed"),
        ({"body": {"prompt": "x"}}, "set by the adapter"),
        ({"surface": "harness", "stream": False}, "always streams"),
        ({"control_url": "https://user:pw@x.example"}, "user name"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        made(**settings)


def test_the_addresses_follow_from_the_region() -> None:
    config = made(region="eu-west-1")._config
    assert config.url == "https://bedrock-agentcore.eu-west-1.amazonaws.com"
    assert config.control_url == "https://bedrock-agentcore-control.eu-west-1.amazonaws.com"
    named = made(region="", url="https://bedrock-agentcore.eu-west-2.amazonaws.com")._config
    assert named.region == "eu-west-2"


# Payloads


def folded(*values: Any, text: str | None = None) -> list[Event]:
    fold = PayloadFold("trn_1", {"session": "s"}, text=text)
    events = [event for value in values for event in fold.feed(json.dumps(value))]
    return events + fold.end()


@pytest.mark.parametrize(
    "values",
    [
        ["it ", "rains"],
        [{"data": "it "}, {"data": "rains"}, {"result": {"content": [{"text": "it rains"}]}}],
        [
            {"init_event_loop": True},
            {"event": {"contentBlockDelta": {"delta": {"text": "it "}}}},
            {"event": {"contentBlockDelta": {"delta": {"text": "rains"}}}},
        ],
        [
            {"event": {"contentBlockDelta": {"delta": {"text": "it "}}}},
            {"data": "it "},
            {"event": {"contentBlockDelta": {"delta": {"text": "rains"}}}},
            {"data": "rains"},
        ],
        [{"result": {"role": "assistant", "content": [{"text": "it "}, {"text": "rains"}]}}],
    ],
)
def test_streams_of_the_usual_frameworks_give_their_text_once(values: list[Any]) -> None:
    (said,) = of(Message, folded(*values))
    assert said.text == "it rains"


def test_a_path_says_where_the_text_is() -> None:
    events = folded({"a": {"b": "x"}, "text": "no"}, text="a.b")
    assert [event.text for event in of(MessageDelta, events)] == ["x"]


@pytest.mark.parametrize(
    ("body", "text", "data"),
    [
        ('"plain"', "plain", None),
        ("no json", "no json", None),
        ('{"result": "r"}', "r", {"result": "r"}),
        ('{"result": {"content": [{"text": "t"}]}}', "t", {"result": {"content": [{"text": "t"}]}}),
        ('{"sum": 3}', '{\n "sum": 3\n}', {"sum": 3}),
        ("[1]", "[\n 1\n]", [1]),
    ],
)
def test_whole_answers_give_text_and_data(body: str, text: str, data: Any) -> None:
    (said,) = of(Message, PayloadFold("trn_1", {}, text=None).whole(body))
    assert (said.text, said.data) == (text, data)


async def test_an_agent_that_fails_before_it_answers_ends_the_turn(make_turn: MakeTurn) -> None:
    """AWS says 424; it was called, so this is no refusal."""
    async with reaching(Server(key=KEY, streams=False)) as runtime:
        events = await read(runtime.start(make_turn("fail no ink")))
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.outcome, done.error_kind) == ("failed", "failed")
    assert "no ink" in (done.error or "")


@given(st.lists(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)))
def test_any_json_ends_with_one_done(values: list[Any]) -> None:
    assert len(of(Done, folded(*values))) == 1


# The harness


async def test_the_harness_s_own_tools_thoughts_and_all_tokens_are_seen(
    make_turn: MakeTurn,
) -> None:
    async with reaching(Server(key=KEY), **HARNESSES) as runtime:
        events = await read(runtime.start(make_turn("tool search")))
    (use,), (result,) = of(ToolUse, events), of(ToolResult, events)
    (thought,) = of(Thinking, events)
    assert (use.name, use.input, use.tool_use_id) == ("search", {"q": 1}, "t1")
    assert (result.text, result.tool_use_id, result.is_error) == ("found", "t1", False)
    assert thought.text == "hm"
    assert events.index(use) < events.index(result)
    last = of(Usage, events)[-1]
    assert (last.input_tokens, last.output_tokens) == (6, 8)


async def test_an_inline_function_is_asked_back_with_its_input(make_turn: MakeTurn) -> None:
    async with reaching(Server(key=KEY), **HARNESSES) as runtime:
        asked = await read(runtime.start(make_turn("ask color")))
        (question,) = [event.question for event in of(Asked, asked)]
        assert (question.tool, question.tool_input) == ("pick", {"what": "color"})
        ref = asked[-1].ref
        other = make_turn(answers=[Answer(question_id="other", text="x")], ref=ref)
        with pytest.raises(Rejected, match=question.id) as refusal:
            await read(runtime.start(other))
        assert not refusal.value.sent


def feed(*events: tuple[str, Any], kind: str = "event") -> list[Event]:
    fold = HarnessFold("trn_1", {"session": "s"})
    out: list[Event] = []
    for name, body in events:
        headers = {":message-type": kind, f":{kind}-type": name}
        out += fold.feed(EventMessage(headers, json.dumps(body).encode()))
    return out + fold.end()


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [("end_turn", "completed"), ("interrupted", "cancelled"), ("max_tokens", "failed")],
)
def test_how_a_harness_stops_is_how_the_turn_ends(reason: str, outcome: str) -> None:
    done = feed(("messageStart", {"role": "assistant"}), ("messageStop", {"stopReason": reason}))
    assert isinstance(done[-1], Done)
    assert done[-1].outcome == outcome


def test_a_stream_that_ends_inside_a_message_is_lost() -> None:
    delta = {"contentBlockIndex": 0, "delta": {"text": "a"}}
    events = feed(("messageStart", {"role": "assistant"}), ("contentBlockDelta", delta))
    assert not of(Done, events)


@pytest.mark.parametrize("name", ["validationException", "internalServerException"])
def test_an_exception_in_the_stream_ends_the_turn_in_its_words(name: str) -> None:
    (done,) = of(Done, feed((name, {"message": "out of ink"}), kind="exception"))
    assert (done.outcome, done.error) == ("failed", f"{name}: out of ink")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "messageStart",
                    "contentBlockStart",
                    "contentBlockDelta",
                    "contentBlockStop",
                    "messageStop",
                    "metadata",
                    "hookEvent",
                    "newEvent",
                ]
            ),
            st.fixed_dictionaries(
                {},
                optional={
                    "contentBlockIndex": st.integers(0, 2) | st.text(max_size=2),
                    "start": st.sampled_from([{}, {"toolUse": {}}, {"toolResult": {}}, 3]),
                    "delta": st.sampled_from(
                        [{"text": "a"}, {"toolUse": {"input": "{"}}, {"toolResult": [{}]}, {}, []]
                    ),
                    "stopReason": st.sampled_from(["end_turn", "tool_use", "new_reason", 5]),
                    "usage": st.sampled_from([{"inputTokens": 1}, {"inputTokens": "x"}, None]),
                },
            ),
        ),
        max_size=20,
    )
)
def test_any_order_of_events_closes_what_it_opens_or_is_a_protocol_error(events: Any) -> None:
    try:
        out = feed(*events)
    except ProtocolError:
        return
    assert len(of(Done, out)) <= 1
    if of(Done, out):
        opened = {event.message_id for event in of(MessageDelta, out)}
        assert opened <= {event.message_id for event in of(Message, out)}


async def test_a_broken_event_stream_is_a_protocol_error(make_turn: MakeTurn) -> None:
    server = Server(key=KEY)

    async def broken(content: Any, session: str) -> AsyncIterator[bytes]:
        yield message({":event-type": "messageStart", ":message-type": "event"}, b"{}")[:-1] + b"x"

    server._loop = broken  # type: ignore[method-assign]
    async with reaching(server, **HARNESSES) as runtime:
        with pytest.raises(ProtocolError, match="checksum"):
            await read(runtime.start(make_turn("hello")))
