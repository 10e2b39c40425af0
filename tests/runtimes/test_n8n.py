"""What is n8n's own: triggers and their addresses, two credentials that do not meet, executions
that are found by what triggered them, answers of every form."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from lap_runtimes.base import Answer, Heartbeat, MessageDelta, Progress, PromptFile
from lap_runtimes.errors import Rejected, RuntimeFailure, Unsupported
from lap_runtimes.n8n_config import N8nConfig, Trigger, triggers_of
from lap_runtimes.n8n_fold import AnswerFold
from pydantic import ValidationError

from tests.canary import canary
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.n8n_server import Server
from tests.runtimes.serving import serving
from tests.runtimes.vendors import JSON, Deviant, done, files, questions, reaching, read, texts

pytestmark = pytest.mark.anyio

KEY = canary("n8n")
CHAT: dict[str, Any] = {"agent": "chat/hook-1", "poll_interval": 0.02}
HOOK: dict[str, Any] = {"agent": "webhook/words", "stream": False, "poll_interval": 0.02}


def server(*, streaming: bool = True, **more: Any) -> Server:
    return Server(key=KEY, streaming=streaming, **more)


async def test_workflows_that_can_be_called_are_agents(make_turn: MakeTurn) -> None:
    """Two pages of workflows: without a trigger, private, disabled, and one that can be called."""
    with serving(server().app) as url:
        async with reaching("n8n", url) as ours:
            (agent,) = await ours.agents()
            assert (agent.ref, agent.name) == ("chat/hook-1@wf1", "Words")
            assert texts(await read(ours.start(make_turn("hi", agent=agent.ref)))) == ["hi"]
            assert await ours.check() == "n8n, with 1 workflows that can be called"


async def test_a_chat_trigger_and_a_webhook_get_what_they_expect(make_turn: MakeTurn) -> None:
    chat, hook = server(), server(streaming=False)
    with serving(chat.app) as url:
        async with reaching("n8n", url, **CHAT, body={"extra": 1}) as ours:
            turn = make_turn("hello", input={"a": 1})
            await read(ours.start(turn))
    with serving(hook.app) as url:
        async with reaching("n8n", url, **HOOK) as ours:
            await read(ours.start(make_turn("hello", input={"a": 1})))
    (sent,) = chat.bodies("/webhook/hook-1/chat")
    ours_of_it = {"sessionId": turn.session_id, "turnId": turn.id, "extra": 1}
    assert sent == {**ours_of_it, "action": "sendMessage", "chatInput": 'hello\n\n{"a": 1}'}
    (sent,) = hook.bodies("/webhook/words")
    assert (sent["prompt"], sent["input"]) == ("hello", {"a": 1})


async def test_a_workflow_never_sees_the_key_of_the_management_api(make_turn: MakeTurn) -> None:
    """It would be in its data, for everybody who may look at its executions."""
    made = server(trigger_key=KEY)
    with serving(made.app) as url:
        settings = {**CHAT, "trigger_auth": {"header": {"X-Trigger": "env:T"}}}
        async with reaching("n8n", url, **settings) as ours:
            await read(ours.start(make_turn("hello")))
            await ours.agents()
    chat, api = made.headers[0], made.headers[-1]
    assert chat["x-trigger"] == KEY
    assert "x-n8n-api-key" not in chat
    assert "authorization" not in chat
    assert api["x-n8n-api-key"] == KEY
    assert "x-trigger" not in api


async def test_triggers_may_be_elsewhere(make_turn: MakeTurn) -> None:
    editor, hooks = server(), server()
    with serving(editor.app) as url, serving(hooks.app) as elsewhere:
        async with reaching("n8n", url, **CHAT, trigger_url=elsewhere) as ours:
            await read(ours.start(make_turn("hello")))
            await ours.agents()
    assert editor.bodies("/chat") == []
    assert len(hooks.bodies("/chat")) == 1


@pytest.mark.parametrize("settings", [CHAT, HOOK], ids=["chat", "webhook"])
async def test_a_failure_has_its_reason_and_without_the_key_what_n8n_says(
    settings: dict[str, Any], make_turn: MakeTurn
) -> None:
    made = server(streaming=settings is CHAT)
    with serving(made.app) as url:
        async with reaching("n8n", url, **settings) as ours:
            known = await read(ours.start(make_turn("fail out of ink")))
            again = await read(ours.attach(done(known).ref, None))
        async with reaching("n8n", url, **settings, auth={}) as ours:
            unknown = await read(ours.start(make_turn("fail out of ink")))
    assert done(known).error == done(again).error == "out of ink"
    assert done(unknown).outcome == "failed"
    assert ("Error in workflow" in (done(unknown).error or "")) == (settings is HOOK)


async def test_a_lost_answer_is_found_among_those_that_run_and_those_that_ended(
    make_turn: MakeTurn,
) -> None:
    with serving(server().app) as url:
        async with reaching("n8n", url, **CHAT) as ours:
            await read(ours.start(make_turn("another")))
            async with ours.start(make_turn("slow 20")) as events:
                started = await anext(events)
            await read(ours.start(make_turn("yet another")))
            running = await read(ours.attach(started.ref, None))
            ended = await read(ours.attach(started.ref, None))
    assert any(isinstance(event, Heartbeat) for event in running)
    assert texts(running) == texts(ended)
    assert texts(running)[0].endswith("chunk 20 of 20\n")


async def test_executions_that_cannot_be_read_are_somebody_elses(make_turn: MakeTurn) -> None:
    made = server()
    with serving(made.app) as url:
        async with reaching("n8n", url, **CHAT) as ours:
            mine = await read(ours.start(make_turn("mine")))
            await read(ours.start(make_turn("other")))
            made.instead("/executions/2", 200, ["no object"])
            again = await read(ours.attach(done(mine).ref, None))
            await ours.cancel({})
    assert texts(again) == ["mine"]
    assert made.stopped == []


async def test_an_execution_that_is_not_found_is_gone(make_turn: MakeTurn) -> None:
    with serving(server().app) as url:
        async with reaching("n8n", url, **CHAT) as ours:
            with pytest.raises(Rejected) as refused:
                await read(ours.attach({"agent": "chat/hook-1", "turn": "trn_none"}, None))
    assert refused.value.kind == "gone"


async def test_the_right_one_of_two_executions_is_stopped(make_turn: MakeTurn) -> None:
    made = server()
    with serving(made.app) as url:
        async with reaching("n8n", url, **CHAT) as ours:
            async with ours.start(make_turn("slow 30")) as first:
                started = await anext(first)
                async with ours.start(make_turn("slow 500")) as second:
                    other = await anext(second)
                    await ours.cancel(other.ref)
                    rest = [event async for event in second]
                kept = [event async for event in first]
            assert started.ref is not None
            await ours.cancel(started.ref)
    assert done(rest).outcome == "cancelled"
    assert done(kept).outcome == "completed"
    assert made.stopped == ["2"]


async def test_being_stopped_is_no_failure(make_turn: MakeTurn) -> None:
    """An agent that is stopped says an error in its stream, before the stop is answered."""
    with serving(server().app) as url:
        async with reaching("n8n", url, **CHAT) as ours:
            seen: list[Any] = []

            async def follow() -> None:
                seen.extend(await read(ours.start(turn)))

            turn = make_turn("slow 500")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                await ours.cancel({"agent": "chat/hook-1", "turn": turn.id})
                while not seen:
                    await anyio.sleep(0.05)
                    await ours.cancel({"agent": "chat/hook-1", "turn": turn.id})
    assert done(seen).outcome == "cancelled"


async def test_what_cannot_be_told_apart_is_not_stopped(make_turn: MakeTurn) -> None:
    made = server()
    made.hides_data = True
    with serving(made.app) as url:
        async with reaching("n8n", url, **CHAT) as ours:
            one_turn, other_turn = make_turn("slow 500"), make_turn("slow 500")
            async with ours.start(one_turn) as first, ours.start(other_turn) as second:
                one = await anext(first)
                await anext(second)
                with pytest.raises(Rejected, match="which of them") as refused:
                    await ours.cancel(one.ref)
                made.executions[1].outcome = "success"
                await ours.cancel(one.ref)
    assert not refused.value.sent
    assert made.stopped == ["1"], "the only one that runs"


async def test_files_go_in_as_a_form(make_turn: MakeTurn) -> None:
    async def content() -> bytes:
        return b"\x00\r\n--x"

    made = server()
    file = PromptFile(name='a"b.bin', media_type="application/x-y", size=6, read=content)
    with serving(made.app) as url:
        async with reaching("n8n", url, **CHAT, body={"extra": {"a": 1}}) as ours:
            events = await read(ours.start(make_turn("hello", files=[file])))
    assert texts(events) == ["hello"]
    assert made.files == [("a%22b.bin", "application/x-y", b"\x00\r\n--x")]
    given = made.executions[0].given
    assert (given["action"], given["extra"]) == ("sendMessage", '{"a": 1}')


async def test_an_answer_that_is_a_file_is_one(make_turn: MakeTurn) -> None:
    with serving(server(streaming=False).app) as url:
        async with reaching("n8n", url, **HOOK) as ours:
            events = await read(ours.start(make_turn("file ../report.pdf")))
    (file,) = files(events)
    assert (file.name, file.media_type) == ("report.pdf", "application/pdf")
    assert file.data == b"content of it"


async def test_a_workflow_that_remembers_nothing_is_not_continued(make_turn: MakeTurn) -> None:
    made = server(streaming=False)
    with serving(made.app) as url:
        async with reaching("n8n", url, **HOOK, remembers=False) as ours:
            assert ours.capabilities.conversation == "none"
            first = await read(ours.start(make_turn("hello")))
            with pytest.raises(Unsupported):
                await read(ours.start(make_turn("again", ref=done(first).ref)))
    assert len(made.bodies("/webhook/words")) == 1


async def test_a_trigger_that_is_not_there_says_so(make_turn: MakeTurn) -> None:
    with serving(server().app) as url:
        async with reaching("n8n", url, agent="webhook/nope") as ours:
            with pytest.raises(Rejected, match="is not registered") as refused:
                await read(ours.start(make_turn("hello")))
            with pytest.raises(Rejected) as unknown:
                await read(ours.attach({"agent": "webhook/nope", "turn": "t"}, None))
    assert (refused.value.kind, refused.value.sent) == ("not_found", False)
    assert unknown.value.kind == "not_found"


async def test_a_rate_limit_says_how_long_to_wait(make_turn: MakeTurn) -> None:
    made = server()
    with serving(made.app) as url:
        async with reaching("n8n", url, **CHAT) as ours:
            made.instead("/chat", 429, {"message": "slow down"}, retry_after="4")
            with pytest.raises(Rejected) as refused:
                await read(ours.start(make_turn("hello")))
            made.instead("/workflows", 401, {"message": "Unauthorized"})
            with pytest.raises(Rejected) as wrong:
                await ours.check()
    assert (refused.value.kind, refused.value.retry_after) == ("rate_limited", 4)
    assert wrong.value.kind == "auth"


@pytest.mark.parametrize(
    ("body", "media_type", "said"),
    [
        ('{"output": "one"}', JSON, ["one"]),
        ('[{"output": "one"}]', JSON, ["one"]),
        ('{\n  "text": "one",\n\n  "more": 1\n}', JSON, ["one"]),
        ('{"a": 1}', JSON, ['{"a": 1}']),
        ("[1, 2]", JSON, ["[1, 2]"]),
        ("", JSON, []),
        ("no json at all", JSON, ["no json at all"]),
        ("one\n\ntwo\n", "text/plain", ["one\n\ntwo\n"]),
        ("<p>one</p>", "text/html", ["<p>one</p>"]),
        ('{"message": "Workflow was started"}', JSON, ["Workflow was started"]),
    ],
)
async def test_an_answer_of_any_form_is_read(
    body: str, media_type: str, said: list[str], make_turn: MakeTurn
) -> None:
    with serving(Deviant({"/words": (body, media_type, 200)}).app) as url:
        async with reaching("n8n", url, **HOOK, auth={}) as ours:
            events = await read(ours.start(make_turn("x")))
    assert texts(events) == said
    assert done(events).outcome == "completed"


async def test_a_chat_over_a_websocket_says_what_to_set(make_turn: MakeTurn) -> None:
    body = '{"executionStarted": true, "executionId": "7", "resumeToken": "x"}'
    with serving(Deviant({"/chat": (body, JSON, 200)}).app) as url:
        async with reaching("n8n", url, **CHAT, auth={}) as ours:
            events = await read(ours.start(make_turn("x")))
    assert (done(events).outcome, done(events).error_kind) == ("failed", "unsupported")
    assert "response mode" in (done(events).error or "")


async def test_several_nodes_make_several_messages(make_turn: MakeTurn) -> None:
    with serving(server().app) as url:
        async with reaching("n8n", url, **CHAT) as ours:
            events = await read(ours.start(make_turn("two")))
    assert texts(events) == ["one", "two"]
    deltas = [e for e in events if isinstance(e, MessageDelta)]
    assert len({delta.message_id for delta in deltas}) == 2


WAITS: dict[str, Any] = {**HOOK, "waits": True}


async def test_a_form_is_filled_in_by_its_labels(make_turn: MakeTurn) -> None:
    made = server(streaming=False)
    with serving(made.app) as url:
        async with reaching("n8n", url, **WAITS) as ours:
            asked = await read(ours.start(make_turn("ask two")))
            (question,) = questions(asked)
            assert (question.kind, question.text) == ("input", "Colour\n?")
            assert question.schema == {
                "type": "object",
                "properties": {"Colour": {"type": "string"}, "Why": {"type": "string"}},
                "required": ["Colour"],
            }
            assert texts(asked) == [], "what the webhook saw is no answer"
            given = [Answer(question_id=question.id, data={"Why": "it is", "Colour": "blue"})]
            events = await read(ours.start(make_turn(answers=given, ref=done(asked).ref)))
    assert json.loads(texts(events)[0]) == {"Why": "it is", "Colour": "blue"}


@pytest.mark.parametrize(
    "answer", [{"option": "blue"}, {"text": "blue"}, {"data": {"Colour": "blue"}}]
)
async def test_a_form_of_one_field_takes_a_word(answer: Any, make_turn: MakeTurn) -> None:
    with serving(server(streaming=False).app) as url:
        async with reaching("n8n", url, **WAITS) as ours:
            asked = await read(ours.start(make_turn("ask choice")))
            (question,) = questions(asked)
            assert question.options == ["blue", "red"]
            given = [Answer(question_id=question.id, **answer)]
            events = await read(ours.start(make_turn(answers=given, ref=done(asked).ref)))
    assert json.loads(texts(events)[0]) == {"Colour": "blue"}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_wait_for_a_call_is_called(method: str, make_turn: MakeTurn) -> None:
    made = server(streaming=False)
    with serving(made.app) as url:
        async with reaching("n8n", url, **WAITS) as ours:
            asked = await read(ours.start(make_turn(f"call {method}")))
            (question,) = questions(asked)
            given = [Answer(question_id=question.id, decision="deny", text="too risky")]
            events = await read(ours.start(make_turn(answers=given, ref=done(asked).ref)))
    assert json.loads(texts(events)[0]) == {"text": "too risky", "decision": "deny"}
    assert any("/webhook-waiting/1/go-on?" in path for _, path, _ in made.requests)


async def test_one_wait_after_another_is_two_questions(make_turn: MakeTurn) -> None:
    with serving(server(streaming=False).app) as url:
        async with reaching("n8n", url, **WAITS) as ours:
            first = await read(ours.start(make_turn("again")))
            (one,) = questions(first)
            given = [Answer(question_id=one.id, text="x")]
            second = await read(ours.start(make_turn(answers=given, ref=done(first).ref)))
            (two,) = questions(second)
            with pytest.raises(Rejected) as stale:
                await read(ours.start(make_turn(answers=given, ref=done(first).ref)))
            given = [Answer(question_id=two.id, text="blue")]
            events = await read(ours.start(make_turn(answers=given, ref=done(second).ref)))
    assert one.id != two.id
    assert (stale.value.kind, stale.value.sent) == ("conflict", False)
    assert "blue" in texts(events)[0]


@pytest.mark.parametrize(
    "answer",
    [
        {"question_id": "other", "text": "x"},
        {"decision": "deny"},
        {"data": {"Size": "1"}},
        {},
    ],
)
async def test_an_answer_that_is_none_is_refused_before_anything_is_sent(
    answer: dict[str, Any], make_turn: MakeTurn
) -> None:
    made = server(streaming=False)
    with serving(made.app) as url:
        async with reaching("n8n", url, **WAITS) as ours:
            asked = await read(ours.start(make_turn("ask colour")))
            (question,) = questions(asked)
            before = len(made.requests)
            given = [Answer(**{"question_id": question.id, **answer})]
            with pytest.raises(Rejected) as refused:
                await read(ours.start(make_turn(answers=given, ref=done(asked).ref)))
    assert not refused.value.sent
    assert len(made.requests) == before


async def test_cancelling_a_question_stops_what_waits_for_it(make_turn: MakeTurn) -> None:
    made = server(streaming=False)
    with serving(made.app) as url:
        async with reaching("n8n", url, **{**WAITS, "stream": True}) as ours:
            asked = await read(ours.start(make_turn("ask colour")))
            await ours.cancel(done(asked).ref)
            await ours.cancel(done(asked).ref)
    assert made.stopped == ["1"]
    assert made.executions[0].status == "canceled"


async def test_a_wait_for_time_to_pass_is_waited_out(make_turn: MakeTurn) -> None:
    made = server(streaming=False)
    with serving(made.app) as url:
        async with reaching("n8n", url, **WAITS) as ours:
            seen: list[Any] = []
            async with ours.start(make_turn("sleep")) as events:
                async for event in events:
                    seen.append(event)
                    if isinstance(event, Progress):
                        made.executions[0].made = {"output": "awake"}
                        made.executions[0].outcome = "success"
    assert texts(seen) == ["awake"]


async def test_what_it_has_not_is_refused_before_anything_is_sent(make_turn: MakeTurn) -> None:
    made = server()
    with serving(made.app) as url:
        async with reaching("n8n", url, **CHAT, auth={}) as ours:
            with pytest.raises(Unsupported):
                await ours.agents()
            with pytest.raises(Unsupported):
                await ours.cancel({"agent": "chat/hook-1", "turn": "t"})
            with pytest.raises(Unsupported):
                await read(ours.attach({"agent": "chat/hook-1", "turn": "t"}, None))
            with pytest.raises(Unsupported):
                await read(ours.start(make_turn(answers=[Answer(question_id="q")])))
            for agent in ("nothing", "chat/", "form/x", "chat/../x", "chat/a\nb"):
                with pytest.raises(RuntimeFailure) as refused:
                    await read(ours.start(make_turn("x", agent=agent)))
                assert not refused.value.sent
    assert made.requests == []


def fed(*lines: Any) -> list[Any]:
    fold = AnswerFold("t", {})
    return [event for line in lines for event in fold.feed(json.dumps(line))] + fold.end()


def test_a_stream_that_ends_in_the_middle_is_lost_not_completed() -> None:
    events = fed({"type": "begin"}, {"type": "item", "content": "he"})
    assert [type(event).__name__ for event in events] == ["Heartbeat", "MessageDelta"]


def test_two_nodes_that_speak_at_once_are_kept_apart() -> None:
    one, two = {"metadata": {"nodeId": "1"}}, {"metadata": {"nodeId": "2"}}
    events = fed(
        {"type": "begin", **one},
        {"type": "begin", **two},
        {"type": "item", "content": "a", **one},
        {"type": "item", "content": "b", **two},
        {"type": "end", **one},
        {"type": "end", **two},
    )
    assert texts(events) == ["a", "b"]
    assert done(events).outcome == "completed"


@pytest.mark.parametrize(
    ("agent", "parsed", "address"),
    [
        ("chat/abc", Trigger("chat", "abc"), "webhook/abc/chat"),
        ("chat/abc@wf1", Trigger("chat", "abc", "wf1"), "webhook/abc/chat"),
        ("webhook/a/b c", Trigger("webhook", "a/b c"), "webhook/a/b%20c"),
        ("webhook/a@b.c", Trigger("webhook", "a@b.c"), "webhook/a%40b.c"),
    ],
)
def test_a_trigger_is_written_in_one_word(agent: str, parsed: Trigger, address: str) -> None:
    assert Trigger.parse(agent) == parsed
    assert str(parsed) == agent
    assert parsed.address == address


def test_webhooks_with_variables_or_another_method_are_no_agents() -> None:
    hook = "n8n-nodes-base.webhook"
    given: list[dict[str, Any]] = [{"path": "a"}, {"path": ":id/x", "httpMethod": "POST"}, {}]
    nodes = [{"type": hook, "parameters": parameters} for parameters in given]
    assert list(triggers_of({"id": "w", "nodes": [*nodes, {"type": hook}, "nonsense"]})) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"body": {"sessionId": "x"}}, "sessionId is set by the adapter"),
        ({"agnet": "x"}, "agnet"),
        ({"waits": True}, "only a key"),
    ],
)
def test_a_wrong_configuration_names_its_key(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        N8nConfig.model_validate({"url": "https://n8n.example.com", **settings})
