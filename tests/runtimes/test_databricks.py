"""What is Databricks' own: tokens by its real SDK, endpoints, conversations that are sent again,
and DurableAgentServer's events."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lap_runtimes.authorizing import Outgoing
from lap_runtimes.base import (
    Answer,
    Asked,
    Done,
    Event,
    Message,
    MessageDelta,
    PastMessage,
    Progress,
    ToolResult,
    ToolUse,
)
from lap_runtimes.databricks import DatabricksRuntime
from lap_runtimes.databricks_auth import DatabricksOAuth, DatabricksToken
from lap_runtimes.databricks_durable_fold import Cursor, InvocationFold
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure, Unsupported
from lap_runtimes.stream import Frame
from pydantic import ValidationError

from tests.canary import canary
from tests.capabilities import ROOT
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.databricks_server import ENDPOINT, Server
from tests.runtimes.serving import serving

pytestmark = pytest.mark.anyio

TOKEN = canary("databricks")
SECRET = canary("databricks-secret")
CONTEXT = {"resolve_secret": {"env:TOKEN": TOKEN, "env:SECRET": SECRET}.__getitem__}
PRINCIPAL = {"client_id": "id", "client_secret": "env:SECRET"}
NOWHERE = Outgoing("GET", "https://x.example/", {}, b"")


@asynccontextmanager
async def reaching(server: Server, **settings: Any) -> AsyncIterator[DatabricksRuntime]:
    with serving(server.app) as url:
        made = {"url": url, "auth": {"bearer": "env:TOKEN"}, **settings}
        if "oauth" in settings:
            del made["auth"]
        kind = DatabricksRuntime
        runtime = kind(kind.Config.model_validate(made, context=CONTEXT))
        try:
            with anyio.fail_after(20):
                yield runtime
        finally:
            await runtime.aclose()


async def read(stream: Any) -> list[Event]:
    async with stream as events:
        return [event async for event in events]


def of(kind: Any, events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


# Signing in


async def test_the_real_sdk_gets_a_token_and_keeps_it_while_it_is_good(
    make_turn: MakeTurn, clean_home: None
) -> None:
    server = Server(token=TOKEN, secret=SECRET)
    async with reaching(server, oauth=PRINCIPAL, endpoint=ENDPOINT) as runtime:
        for _ in range(2):
            await read(runtime.start(make_turn("hello")))
        assert len(server.issued) == 1
        assert [each.name for each in await runtime.agents()] == [ENDPOINT]


async def test_a_token_that_is_no_longer_good_is_renewed(
    make_turn: MakeTurn, clean_home: None
) -> None:
    """Only the newest token is taken by this server."""
    server = Server(token=TOKEN, secret=SECRET)
    server.expires_in = 1
    async with reaching(server, oauth=PRINCIPAL, endpoint=ENDPOINT) as runtime:
        for _ in range(3):
            done = (await read(runtime.start(make_turn("hello"))))[-1]
            assert isinstance(done, Done)
            assert done.outcome == "completed"
    assert len(server.issued) >= 3


async def test_a_secret_that_is_refused_is_an_auth_error_that_does_not_show_it(
    clean_home: None,
) -> None:
    server = Server(token=TOKEN, secret=SECRET)
    server.refuses = True
    async with reaching(server, oauth=PRINCIPAL) as runtime:
        with pytest.raises(RuntimeFailure) as failure:
            await runtime.agents()
    assert not failure.value.sent
    assert SECRET not in str(failure.value)


async def test_a_profile_that_is_not_there_is_said_in_words(clean_home: None) -> None:
    with pytest.raises(Rejected, match="Databricks gave no token") as refusal:
        await DatabricksToken(DatabricksOAuth(profile="nobody")).authorize(NOWHERE)
    assert (refusal.value.kind, refusal.value.sent) == ("auth", False)


BARE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "databricks":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
import anyio
from lap_runtimes.kinds import load
adapter = load("databricks")
made = {"url": "https://w.example", "oauth": {}}
async def sign_in():
    try:
        await adapter(adapter.Config.model_validate(made)).agents()
    except Exception as exc:
        print(type(exc).__name__, exc)
anyio.run(sign_in)
"""


def test_without_the_extra_only_oauth_is_missing_and_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE],
        cwd=ROOT / "runtimes",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'lap-mcp[databricks]'" in done.stdout


@pytest.fixture
def clean_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Nothing of this machine's own sign-ins."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none"))
    for name in ("DATABRICKS_TOKEN", "DATABRICKS_HOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"auth": {"bearer": "env:TOKEN"}, "oauth": {}}, "nobody signs in"),
        ({"surface": "app", "oauth": {}}, "name the workspace"),
        ({"surface": "app", "endpoint": "x"}, "has no endpoints"),
        ({"body": {"input": 1}}, "set by the adapter"),
        ({"body": {"store": True}}, "set by the adapter"),
        ({"oauth": {"client_id": "x"}}, "belong together"),
        ({"oauth": {**PRINCIPAL, "profile": "p"}}, "either a profile"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(
    settings: Mapping[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        DatabricksRuntime.Config.model_validate(
            {"url": "https://x.example", **settings}, context=CONTEXT
        )


def test_the_workspace_is_that_of_the_runtime_where_it_is_not_named() -> None:
    made = {"url": "https://w.example/x", "oauth": PRINCIPAL}
    oauth = DatabricksRuntime.Config.model_validate(made, context=CONTEXT).signed_in()
    assert oauth is not None
    assert oauth.host == "https://w.example:443"


# Responses agents


async def test_only_endpoints_that_are_agents_and_ready_are_listed() -> None:
    async with reaching(Server(token=TOKEN)) as runtime:
        (agent,) = await runtime.agents()
        assert (agent.ref, agent.description) == (ENDPOINT, "says words")
        assert "1 agent endpoints" in await runtime.check()


async def test_without_a_conversation_at_the_agent_everything_is_sent_again(
    make_turn: MakeTurn,
) -> None:
    server = Server(token=TOKEN)
    async with reaching(server, endpoint=ENDPOINT) as runtime:
        assert runtime.capabilities.conversation == "caller"
        first = await read(runtime.start(make_turn("remember apples")))
        again = make_turn("recall", ref=first[-1].ref)
        with pytest.raises(Unsupported, match="history"):
            await read(runtime.start(again))
        server.notes.clear()
        past = [PastMessage(role="user", text="remember apples")]
        second = await read(runtime.start(replace(again, history=past)))
        assert of(Message, second)[0].text == "apples"
        with pytest.raises(Unsupported, match='conversation = "context"'):
            await read(runtime.start(make_turn(answers=[Answer(question_id="q")])))
    assert [len(body["input"]) for body in server.requests] == [1, 2]


async def test_a_conversation_at_the_agent_is_named_and_sent_what_is_new(
    make_turn: MakeTurn,
) -> None:
    server = Server(token=TOKEN)
    settings = {"surface": "app", "conversation": "context", "body": {"custom_inputs": {"a": 1}}}
    async with reaching(server, **settings) as runtime:
        turn = make_turn("hello")
        first = await read(runtime.start(turn))
        await read(runtime.start(make_turn("again", ref=first[-1].ref)))
    one, two = server.requests
    assert one["context"] == two["context"] == {"conversation_id": turn.session_id}
    assert [each["content"] for each in two["input"]] == ["again"]
    assert one["custom_inputs"] == {"a": 1}


async def test_an_endpoint_that_is_not_there_is_said_in_the_workspace_s_words(
    make_turn: MakeTurn,
) -> None:
    async with reaching(Server(token=TOKEN)) as runtime:
        with pytest.raises(Rejected, match="no such endpoint") as refusal:
            await read(runtime.start(make_turn("hello", agent="other")))
    assert refusal.value.kind == "not_found"


async def test_a_token_that_is_echoed_is_not_shown(make_turn: MakeTurn) -> None:
    async with reaching(Server(token="another"), endpoint=ENDPOINT) as runtime:
        with pytest.raises(Rejected) as refusal:
            await read(runtime.start(make_turn("hello")))
    assert refusal.value.kind == "auth"
    assert TOKEN not in str(refusal.value)


# DurableAgentServer


async def test_the_same_start_twice_is_one_invocation(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    async with reaching(server, surface="durable") as runtime:
        turn = make_turn("remember apples")
        one, two = [await read(runtime.start(turn)) for _ in range(2)]
        assert [event.id for event in of(Message, one)] == [event.id for event in of(Message, two)]
        assert list(server.invocations) == [str(uuid.UUID(turn.id.removeprefix("trn_")))]
        assert server.notes[turn.session_id] == ["apples"]
        with pytest.raises(Rejected, match="already used") as refusal:
            await read(runtime.start(make_turn("other", turn_id=turn.id)))
    assert refusal.value.kind == "conflict"


async def test_an_agent_that_says_nothing_gives_its_output(make_turn: MakeTurn) -> None:
    async with reaching(Server(token=TOKEN), surface="durable") as runtime:
        events = await read(runtime.start(make_turn("quiet 42")))
    (said,) = of(Message, events)
    assert (said.text, said.data) == ("42", {"answer": "42"})


async def test_a_denied_approval_reaches_the_agent(make_turn: MakeTurn) -> None:
    async with reaching(Server(token=TOKEN), surface="durable") as runtime:
        asked = await read(runtime.start(make_turn("ask /etc")))
        (question,) = [event.question for event in of(Asked, asked)]
        assert (question.tool, question.tool_input) == ("delete_file", {"path": "/etc"})
        answer = Answer(question_id=question.id, decision="deny", text="no")
        done = await read(runtime.start(make_turn(answers=[answer], ref=asked[-1].ref)))
    assert "reject" in of(Message, done)[0].text


async def test_what_answers_404_in_other_words_is_no_durable_server() -> None:
    async with reaching(Server(token=TOKEN), surface="durable") as runtime:
        assert await runtime.check() == "DurableAgentServer"
    with serving(Server(token=TOKEN).app) as url:
        made = {"url": f"{url}/elsewhere", "surface": "durable"}
        runtime = DatabricksRuntime(DatabricksRuntime.Config.model_validate(made))
        with pytest.raises(Rejected):
            await runtime.check()
        await runtime.aclose()


def fold(*bodies: Any, output: Any = None) -> list[Event]:
    made = InvocationFold("trn_1", {"invocation": "i"})
    events: list[Event] = []
    for number, body in enumerate(bodies):
        events += made.feed(Frame(json.dumps(body), str(body.get("type", "")), str(number)))
    return events + (made.end(output) if made.ended else [])


END = {"type": "run.completed"}


def test_messages_of_both_official_templates_close_their_deltas() -> None:
    delta = {"type": "delta", "content": "hi", "id": "m1"}
    openai = {"type": "message", "message": {"role": "assistant", "content": "hi"}}
    langgraph = {"type": "message", "message": {"type": "ai", "content": "hi", "id": "m1"}}
    for message in (openai, langgraph):
        events = fold(delta, message, END)
        (said,) = of(Message, events)
        assert said.message_id == of(MessageDelta, events)[0].message_id


def test_tools_of_the_templates_are_seen() -> None:
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"name": "search", "args": {"q": 1}}],
    }
    result = {"role": "tool", "name": "search", "content": "found"}
    human = {"type": "human", "content": "hi"}
    events = fold(*({"type": "message", "message": each} for each in (human, call, result)), END)
    assert [(use.name, use.input) for use in of(ToolUse, events)] == [("search", {"q": 1})]
    assert [result.text for result in of(ToolResult, events)] == ["found"]
    assert not of(Message, events)


def test_a_second_attempt_begins_a_new_message() -> None:
    delta = {"type": "delta", "content": "half"}
    events = fold({"type": "run.started"}, delta, {"type": "run.started"}, delta, END)
    assert len({event.message_id for event in of(Message, events)}) == 2
    assert of(Progress, events)


def test_a_failure_without_words_says_that_there_are_none() -> None:
    (done,) = of(Done, fold({"type": "run.failed"}))
    assert done.error == "the agent failed, and does not say why"


def test_a_cursor_knows_whether_something_was_said() -> None:
    message = {"type": "message", "message": {"role": "assistant", "content": "hi"}}
    (said,) = of(Message, fold({"type": "run.started"}, message))
    again = InvocationFold("trn_1", {"invocation": "i"}, after=Cursor.decode(said.cursor))
    again.feed(Frame(json.dumps(END), "run.completed", "9"))
    assert not again.wants_output


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(
                    ["delta", "message", "interrupt", "error", "run.started", "x"]
                )
            },
            optional={
                "content": st.text(max_size=3) | st.lists(st.integers(), max_size=2),
                "id": st.sampled_from(["m1", "m2", None]),
                "message": st.sampled_from(
                    [{"role": "assistant", "content": "a"}, {"type": "ai", "id": "m1"}, "words", 3]
                ),
                "value": st.sampled_from(["which?", {"action_requests": [{}, 3]}, None]),
            },
        ),
        max_size=10,
    )
)
def test_whatever_an_agent_sends_opens_nothing_that_stays_open(bodies: Any) -> None:
    try:
        events = fold(*bodies, END)
    except ProtocolError:
        return
    assert len(of(Done, events)) == 1
    opened = {event.message_id for event in of(MessageDelta, events)}
    assert opened <= {event.message_id for event in of(Message, events)}
