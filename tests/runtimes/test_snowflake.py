"""What is Snowflake's own: threads, permission decisions, client tools, parts of an answer, runs
that are read again, and errors that come with status 200."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lap_runtimes.base import (
    Answer,
    PromptFile,
    QuestionKind,
    Thinking,
    ToolResult,
    ToolUse,
    Usage,
)
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure, Unsupported
from lap_runtimes.snowflake import SnowflakeConfig, parts_of
from lap_runtimes.snowflake_fold import RunFold
from pydantic import ValidationError

from tests.canary import canary
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.jobs import sse
from tests.runtimes.serving import serving
from tests.runtimes.snowflake_server import REQUEST_ID, Server
from tests.runtimes.vendors import (
    JSON,
    SSE,
    Deviant,
    done,
    files,
    questions,
    reaching,
    read,
    texts,
)

pytestmark = pytest.mark.anyio

TOKEN = canary("snowflake")
HERE: dict[str, Any] = {"schemas": ["DB.SCH"], "agent": "SALES"}


async def test_agents_are_those_of_each_schema(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("snowflake", url, schemas=["DB.SCH", 'DB."my.schema"']) as ours:
            first, second = await ours.agents()
            assert first.ref == "DB.SCH.SALES"
            assert first.description == "Sales. Answers questions about revenue."
            assert second.ref == 'DB."my.schema".SALES'
            assert texts(await read(ours.start(make_turn("hello", agent=first.ref)))) == ["hello"]
            await read(ours.start(make_turn("hello", agent=second.ref)))
    paths = [path for method, path, _ in server.requests if path.endswith(":run")]
    assert paths == [
        "/api/v2/databases/DB/schemas/SCH/agents/SALES:run",
        '/api/v2/databases/DB/schemas/"my.schema"/agents/SALES:run',
    ]


async def test_a_turn_continues_from_the_agents_last_message(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("snowflake", url, **HERE, body={"tool_choice": {"type": "auto"}}) as us:
            first = await read(us.start(make_turn("hello")))
            await read(us.start(make_turn("again", ref=done(first).ref)))
    one, two = server.bodies(":run")
    assert (one["parent_message_id"], one["stream"], one["background"]) == (0, True, True)
    assert two["thread_id"] == one["thread_id"]
    assert two["parent_message_id"] == (done(first).ref or {})["parent"] == 83473
    assert two["tool_choice"] == {"type": "auto"}
    assert server.bodies("/threads") == [{"origin_application": "lap_mcp"}]


async def test_a_failed_turn_is_not_what_the_next_one_continues(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("snowflake", url, **HERE) as ours:
            first = await read(ours.start(make_turn("remember apples")))
            failed = await read(ours.start(make_turn("fail why", ref=done(first).ref)))
            again = await read(ours.start(make_turn("recall", ref=done(failed).ref)))
    assert texts(failed) == ["It began well. "]
    assert f"request {REQUEST_ID}" in (done(failed).error or "")
    assert texts(again) == ["apples"]


@pytest.mark.parametrize(
    ("answer", "sent"),
    [
        ({"decision": "allow"}, {"decision": "Allow Once"}),
        ({"decision": "allow", "text": "go"}, {"decision": "Allow Once"}),
        ({"decision": "deny", "text": "too risky"}, {"decision": "Deny", "reason": "too risky"}),
        ({"option": "Allow for this session"}, {"decision": "Allow for this session"}),
    ],
)
async def test_a_permission_is_decided_with_one_of_its_options(
    answer: Any, sent: Any, make_turn: MakeTurn
) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("snowflake", url, **HERE) as ours:
            asked = await read(ours.start(make_turn("ask rm -r")))
            (question,) = questions(asked)
            assert question.options == ["Allow Once", "Allow for this session", "Deny"]
            assert (question.tool, question.tool_input) == ("bash", {"command": "rm -r"})
            given = [Answer(question_id=question.id, **answer)]
            events = await read(ours.start(make_turn(answers=given, ref=done(asked).ref)))
    (part,) = server.bodies(":run")[-1]["messages"][0]["content"]
    decided = {"tool_use_id": question.id, **sent}
    assert part == {"type": "permission_decision", "permission_decision": decided}
    if answer.get("decision"):
        assert texts(events) == ["denied too risky" if "reason" in sent else "allowed"]
    assert not [e for e in asked if isinstance(e, ToolUse)], "a tool that has not run yet"


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [Answer(question_id="other", decision="allow")],
        [Answer(question_id="QUESTION", option="Maybe")],
        [Answer(question_id="QUESTION", text="hm")],
    ],
)
async def test_an_answer_that_is_none_is_refused_before_anything_is_sent(
    answers: list[Answer], make_turn: MakeTurn
) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("snowflake", url, **HERE) as ours:
            asked = await read(ours.start(make_turn("ask rm")))
            (question,) = questions(asked)
            named = [
                Answer(
                    question_id=question.id if each.question_id == "QUESTION" else each.question_id,
                    option=each.option,
                    decision=each.decision,
                    text=each.text,
                )
                for each in answers
            ]
            before = len(server.requests)
            with pytest.raises(Rejected) as refused:
                await read(ours.start(make_turn(answers=named, ref=done(asked).ref)))
    assert not refused.value.sent
    assert len(server.requests) == before


async def test_a_tool_of_the_clients_is_asked_back(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("snowflake", url, **HERE) as ours:
            asked = await read(ours.start(make_turn("call lookup")))
            (question,) = questions(asked)
            assert (question.kind, question.tool_input) == ("tool_result", {"key": 1})
            for answer, status, content in (
                ({"text": "found"}, "success", [{"type": "text", "text": "found"}]),
                ({"data": {"a": 1}}, "success", [{"type": "json", "json": {"a": 1}}]),
                ({"text": "no", "is_error": True}, "error", [{"type": "text", "text": "no"}]),
            ):
                given = [Answer(question_id=question.id, **answer)]  # type: ignore[arg-type]
                await read(ours.start(make_turn(answers=given, ref=done(asked).ref)))
                (part,) = server.bodies(":run")[-1]["messages"][0]["content"]
                result = part["tool_result"]
                assert (result["status"], result["content"]) == (status, content)
                assert result["name"] == "lookup"


async def test_a_clarifying_question_is_a_question(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("snowflake", url, **HERE) as ours:
            asked = await read(ours.start(make_turn("elicit Which year?")))
            (question,) = questions(asked)
            assert (question.kind, question.text) == ("input", "Which year?")
            given = [Answer(question_id=question.id, text="2023")]
            events = await read(ours.start(make_turn(answers=given, ref=done(asked).ref)))
    assert texts(events) == ["2023"]


async def test_every_part_of_an_answer_has_its_event(make_turn: MakeTurn) -> None:
    with serving(Server(token=TOKEN).app) as url:
        async with reaching("snowflake", url, **HERE) as ours:
            used = await read(ours.start(make_turn("tool")))
            table = await read(ours.start(make_turn("file Revenue/by month")))
            chart = await read(ours.start(make_turn("chart")))
    assert [e.text for e in used if isinstance(e, Thinking)] == ["I look it up."]
    (use,) = [e for e in used if isinstance(e, ToolUse)]
    (result,) = [e for e in used if isinstance(e, ToolResult)]
    assert (use.name, use.input, use.tool_use_id) == ("docs", {"q": "x"}, result.tool_use_id)
    assert (result.text, result.is_error) == ('{"answer": 42}\nfound', False)
    (used_up,) = [e for e in used if isinstance(e, Usage)]
    assert (used_up.input_tokens, used_up.output_tokens) == (7, 11)
    assert used_up.detail["models"][0]["model_name"] == "words-1"
    (rows,) = files(table)
    assert (rows.name, rows.media_type) == ("Revenue-by month.csv", "text/csv")
    assert rows.data == b'content of it,n\n"a, b",1\n'
    (spec,) = files(chart)
    assert (spec.name, json.loads(spec.data)) == ("chart.vl.json", {"mark": "bar"})
    (told,) = texts(chart)
    assert "@~/si/reports/summary.md" in told


async def test_every_cursor_leads_to_the_rest_and_to_nothing_twice(make_turn: MakeTurn) -> None:
    with serving(Server(token=TOKEN).app) as url:
        async with reaching("snowflake", url, **HERE) as ours:
            for prompt in ("tool", "ask rm", "elicit Which?"):
                events = await read(ours.start(make_turn(prompt)))
                marked = [place for place, event in enumerate(events) if event.cursor]
                assert len(marked) >= 3
                ref: Any = None
                for place, event in enumerate(events[:-1]):
                    ref = event.ref or ref
                    if not event.cursor:
                        continue
                    rest = await read(ours.attach(ref, event.cursor))
                    wanted = [e.id for e in events[place + 1 :] if e.id]
                    assert [e.id for e in rest if e.id] == wanted
                    assert done(rest).outcome == done(events).outcome
                    assert (done(rest).ref or {}).get("open") == (done(events).ref or {}).get(
                        "open"
                    )


async def test_a_run_that_is_no_longer_kept_is_read_in_its_thread(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("snowflake", url, **HERE) as ours:
            events = await read(ours.start(make_turn("tool")))
            server.forgotten = True
            again = await read(ours.attach(done(events).ref, None))
            with pytest.raises(Rejected) as refused:
                await read(ours.attach({**(done(events).ref or {}), "run": "4264-1"}, None))
    assert texts(again) == texts(events)
    assert [type(e) for e in again if isinstance(e, ToolUse)] == [ToolUse]
    assert done(again).ref == done(events).ref
    assert refused.value.kind == "not_found"


async def test_cancelled_is_what_it_said_so_far(make_turn: MakeTurn) -> None:
    with serving(Server(token=TOKEN).app) as url:
        async with reaching("snowflake", url, **HERE) as ours:
            async with ours.start(make_turn("slow 500")) as events:
                started = await anext(events)
                while started.ref is None:
                    started = await anext(events)
                await ours.cancel(started.ref)
                rest = [event async for event in events]
            assert done(rest).outcome == "cancelled"
            assert (done(rest).ref or {})["parent"] == 83473
            again = await read(ours.start(make_turn("hello", ref=done(rest).ref)))
    assert texts(again) == ["hello"]


async def test_images_and_text_files_go_in(make_turn: MakeTurn) -> None:
    async def content() -> bytes:
        return b"a,b"

    server = Server(token=TOKEN)
    text = PromptFile(name="in.csv", media_type="text/csv", size=3, read=content)
    image = PromptFile(name="in.png", media_type="image/png", size=3, read=content)
    other = PromptFile(name="in.pdf", media_type="application/pdf", size=3, read=content)
    with serving(server.app) as url:
        async with reaching("snowflake", url, **HERE) as ours:
            await read(ours.start(make_turn("hello", files=[text, image])))
            before = len(server.requests)
            with pytest.raises(Unsupported):
                await read(ours.start(make_turn("hello", files=[other])))
    assert len(server.requests) == before
    _, inlined, picture = server.bodies(":run")[0]["messages"][0]["content"]
    assert inlined == {"type": "text", "text": '<file name="in.csv">\na,b\n</file>'}
    assert picture["image"] == {"type": "base64", "media_type": "image/png", "data": "YSxi"}


async def test_the_token_says_what_it_is(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN, token_type="KEYPAIR_JWT")
    with serving(server.app) as url:
        async with reaching("snowflake", url, **HERE, token_type="KEYPAIR_JWT") as ours:
            assert await ours.check()
        async with reaching("snowflake", url, **HERE) as ours:
            with pytest.raises(Rejected) as refused:
                await ours.check()
    assert (refused.value.kind, refused.value.request_id) == ("auth", REQUEST_ID)


async def test_an_expired_session_comes_with_status_200(make_turn: MakeTurn) -> None:
    told = {"code": "390112", "message": "Your session has expired.", "success": False}
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("snowflake", url, **HERE) as ours:
            for path in ("/threads", ":run", "/agents"):
                server.instead(path, 200, told)
                asked = ours.agents() if path == "/agents" else read(ours.start(make_turn("x")))
                with pytest.raises(Rejected, match="session has expired") as refused:
                    await asked
                assert (refused.value.kind, refused.value.sent) == ("auth", False)


async def test_a_rate_limit_says_how_long_to_wait(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    told = {"message": "Too many requests", "code": "390999", "request_id": "r-1"}
    with serving(server.app) as url:
        async with reaching("snowflake", url, **HERE) as ours:
            server.instead(":run", 429, told, retry_after="3")
            with pytest.raises(Rejected) as refused:
                await read(ours.start(make_turn("hello")))
    limited = refused.value
    assert (limited.kind, limited.retry_after, limited.request_id) == ("rate_limited", 3, "r-1")
    assert limited.safe_to_retry


RUN_PATHS = {"/threads": ('{"thread_id": "7"}', JSON, 200)}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"role": "assistant", "content": [{"type": "text", "text": "whole"}]}, ["whole"]),
        ({"status": "in_progress", "metadata": {"run_id": "7-8"}}, ["streamed"]),
    ],
)
async def test_an_answer_that_is_no_stream_is_understood(
    body: Any, said: list[str], make_turn: MakeTurn
) -> None:
    """The API answers like this where it does not stream, or only begins."""
    content = [{"type": "text", "text": "streamed"}]
    stream = sse("response", {"role": "assistant", "content": content, "run_id": "7-8"})
    paths = {**RUN_PATHS, ":run": (json.dumps(body), JSON, 200), "/runs/7-8": (stream, SSE, 200)}
    with serving(Deviant(paths).app) as url:
        async with reaching("snowflake", url, **HERE) as ours:
            events = await read(ours.start(make_turn("x")))
    assert texts(events) == said
    assert (done(events).ref or {})["thread"] == 7


@pytest.mark.parametrize("data", ["nonsense", "[]", "5"])
async def test_what_is_no_run_is_a_protocol_error(data: str, make_turn: MakeTurn) -> None:
    stream = f"event: response.text\ndata: {data}\n\n"
    with serving(Deviant({**RUN_PATHS, ":run": (stream, SSE, 200)}).app) as url:
        async with reaching("snowflake", url, **HERE) as ours:
            with pytest.raises(ProtocolError):
                await read(ours.start(make_turn("x")))


async def test_a_stream_that_stops_is_lost_not_completed(make_turn: MakeTurn) -> None:
    begun = sse("metadata", {"metadata": {"role": "user", "run_id": "7-8"}})
    stream = begun + sse("response.text.delta", {"content_index": 0, "text": "he"})
    with serving(Deviant({**RUN_PATHS, ":run": (stream, SSE, 200)}).app) as url:
        async with reaching("snowflake", url, **HERE) as ours:
            events = await read(ours.start(make_turn("x")))
    assert [type(event).__name__ for event in events] == ["Started", "MessageDelta"]


def fed(*frames: tuple[str, Any]) -> list[Any]:
    fold = RunFold({"turn": "t", "thread": 7, "run": "7-8"})
    return [event for name, data in frames for event in fold.feed(name, json.dumps(data))]


@pytest.mark.parametrize(
    ("permission", "kinds"),
    [
        ({"options": ["Allow Once", "Deny"]}, ["approval"]),
        ({"options": ["Allow Once", "Deny"], "verdict": "allow"}, []),
        ({"options": []}, []),
        ({"grant_options": [{"id": "g1", "label": "Once"}], "options": ["Once"]}, ["approval"]),
        (None, []),
        ("nonsense", []),
    ],
)
def test_a_permission_with_a_verdict_is_no_question(
    permission: Any, kinds: list[QuestionKind]
) -> None:
    use = {"content_index": 0, "tool_use_id": "u", "name": "bash", "permission": permission}
    events = fed(("response.tool_use", {**use, "input": {}}))
    assert [q.kind for q in questions(events)] == kinds
    assert bool([e for e in events if isinstance(e, ToolUse)]) == (not kinds)


def test_what_is_no_longer_asked_is_not_kept() -> None:
    asked = {"turn": "t", "run": "7-8", "open": {"u": {"kind": "input"}}}
    events = RunFold(asked).feed("response", json.dumps({"status": "cancelled"}))
    assert "open" not in (done(events).ref or {})


def test_the_last_event_gives_only_what_was_not_given() -> None:
    content = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    events = fed(
        ("response.text", {"content_index": 0, "text": "one"}),
        ("response", {"content": content, "status": "completed"}),
    )
    assert texts(events) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("A", ["A"]),
        ("DB.SCH.A", ["DB", "SCH", "A"]),
        ('"a.b".C', ['"a.b"', "C"]),
        ("A..B", []),
        ("", []),
    ],
)
def test_a_name_has_parts_between_its_dots(name: str, parts: list[str]) -> None:
    assert parts_of(name) == parts


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"schemas": ["DB"]}, "no DATABASE.SCHEMA"),
        ({"schemas": []}, "schemas"),
        ({"schemas": ["A.B"], "body": {"stream": False}}, "stream is set by the adapter"),
        ({"schemas": ["A.B"], "token_type": "PASSWORD"}, "token_type"),
    ],
)
def test_a_wrong_configuration_names_its_key(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SnowflakeConfig.model_validate({"url": "https://x.snowflakecomputing.com", **settings})


async def test_places_that_cannot_be_are_refused_before_anything_is_sent(
    make_turn: MakeTurn,
) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("snowflake", url, **HERE) as ours:
            for agent in ("A.B", "A.B.C.D", "DB.SCH..", "DB.SCH.\n"):
                with pytest.raises(RuntimeFailure) as refused:
                    await read(ours.start(make_turn("x", agent=agent)))
                assert not refused.value.sent
            for ref, cursor in (({}, None), ({"run": "1-2"}, "nonsense"), ({"run": ".."}, None)):
                with pytest.raises(RuntimeFailure) as refused:
                    await read(ours.attach(ref, cursor))
                assert not refused.value.sent
    assert server.requests == []
