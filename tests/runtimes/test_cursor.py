"""What is Cursor's own: runs and their streams, artifacts behind signed links, its error codes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lap_runtimes.base import Answer, PromptFile, Thinking, ToolResult, ToolUse, Usage
from lap_runtimes.cursor_config import CursorConfig
from lap_runtimes.cursor_fold import Cursor, RunFold
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure, Unsupported
from pydantic import ValidationError

from tests.canary import canary
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.cursor_server import Server
from tests.runtimes.jobs import sse
from tests.runtimes.serving import serving
from tests.runtimes.vendors import JSON, SSE, Deviant, done, files, reaching, read, texts

pytestmark = pytest.mark.anyio

TOKEN = canary("cursor")
REPO = "https://github.com/acme/app"
RUN = {"id": "run-1", "agentId": "bc-1", "status": "RUNNING", "createdAt": "2026-01-01T00:00:00Z"}
CREATED = json.dumps({"agent": {"id": "bc-1"}, "run": RUN})


def png(name: str = "a.png", *, kind: str = "image/png", data: bytes = b"\x89PNG") -> PromptFile:
    async def content() -> bytes:
        return data

    return PromptFile(name=name, media_type=kind, size=len(data), read=content)


async def test_a_first_turn_makes_an_agent_as_configured(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    settings = {
        "repos": [{"url": REPO, "ref": "main"}],
        "model": "composer-2",
        "mode": "plan",
        "auto_create_pr": True,
        "body": {"mcpServers": []},
    }
    with serving(server.app) as url:
        async with reaching("cursor", url, **settings) as ours:
            turn = make_turn("hello", input={"city": "Oslo"}, files=[png()])
            await read(ours.start(turn))
    (sent,) = server.bodies("/v1/agents")
    assert sent["agentId"] == f"bc-{sent['agentId'][3:]}"
    assert sent["agentId"].replace("-", "").endswith(turn.id.partition("_")[2])
    assert sent["repos"] == [{"url": REPO, "startingRef": "main"}]
    assert (sent["model"], sent["mode"], sent["autoCreatePR"]) == (
        {"id": "composer-2"}, "plan", True,
    )  # fmt: skip
    assert sent["prompt"]["text"] == 'hello\n\n{"city": "Oslo"}'
    assert sent["prompt"]["images"] == [{"data": "iVBORw==", "mimeType": "image/png"}]


async def test_every_repository_of_the_key_is_an_agent(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("cursor", url) as ours:
            (agent,) = await ours.agents()
            assert (agent.ref, agent.name) == (REPO, "acme/app")
            await read(ours.start(make_turn("hello", agent=agent.ref)))
        async with reaching("cursor", url, repos=[]) as ours:
            assert [each.name for each in await ours.agents()] == ["cursor"]
    assert server.bodies("/v1/agents")[0]["repos"] == [{"url": REPO}]


async def test_an_agent_that_exists_is_gone_on_with(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("cursor", url) as ours:
            first = await read(ours.start(make_turn("remember apples")))
            agent = (done(first).ref or {})["agent"]
            other = await read(ours.start(make_turn("recall", agent=agent)))
    assert texts(other) == ["apples"]
    assert len(server.agents) == 1


async def test_the_same_first_turn_again_is_the_same_start(make_turn: MakeTurn) -> None:
    """Cursor refuses the id that it knows; the run that it began is followed."""
    server = Server(token=TOKEN)
    turn = make_turn("remember apples")
    with serving(server.app) as url:
        async with reaching("cursor", url) as ours:
            once = await read(ours.start(turn))
            again = await read(ours.start(turn))
    assert texts(again) == texts(once)
    assert [len(agent.runs) for agent in server.agents.values()] == [1]


async def test_thoughts_and_tools_have_their_events(make_turn: MakeTurn) -> None:
    with serving(Server(token=TOKEN).app) as url:
        async with reaching("cursor", url) as ours:
            events = await read(ours.start(make_turn("tool")))
    assert [e.text for e in events if isinstance(e, Thinking)] == ["I should read it."]
    (use,) = [e for e in events if isinstance(e, ToolUse)]
    (result,) = [e for e in events if isinstance(e, ToolResult)]
    assert (use.name, use.input) == ("read_file", {"path": "README.md"})
    assert (result.tool_use_id, result.is_error) == (use.tool_use_id, False)
    assert json.loads(result.text) == {"success": {"content": "# Project"}}
    assert texts(events) == ["Reading.", "Done reading."]


async def test_every_cursor_leads_to_the_rest_and_to_nothing_twice(make_turn: MakeTurn) -> None:
    with serving(Server(token=TOKEN).app) as url:
        async with reaching("cursor", url) as ours:
            events = await read(ours.start(make_turn("tool")))
            ref = done(events).ref
            marked = [place for place, event in enumerate(events) if event.cursor]
            assert len(marked) >= 4
            for place in marked[:-1]:
                rest = await read(ours.attach(ref, events[place].cursor))
                wanted = [e.id for e in events[place + 1 :] if e.id]
                assert [e.id for e in rest if e.id] == wanted


async def test_what_was_pushed_is_told_once(make_turn: MakeTurn) -> None:
    with serving(Server(token=TOKEN).app) as url:
        async with reaching("cursor", url) as ours:
            first = await read(ours.start(make_turn("push fix-1")))
            second = await read(ours.start(make_turn("hello", ref=done(first).ref)))
    assert texts(first)[-1] == "Pushed:\ngithub.com/acme/app fix-1"
    assert texts(second) == ["hello"]


async def test_artifacts_elsewhere_are_fetched_without_the_credential(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url, serving(server.app) as bucket:
        server.bucket = bucket
        async with reaching("cursor", url, allow_origins=[bucket]) as ours:
            first = await read(ours.start(make_turn("file x/y/a.txt")))
            second = await read(ours.start(make_turn("hello", ref=done(first).ref)))
    (file,) = files(first)
    assert (file.name, file.data) == ("a.txt", b"content of it")
    assert files(second) == [], "an artifact of an earlier run"
    (headers,) = server.fetched
    assert "authorization" not in headers


async def test_an_artifact_that_may_not_be_fetched_is_told_without_its_link(
    make_turn: MakeTurn,
) -> None:
    """The link is signed: who has it has the file."""
    server = Server(token=TOKEN)
    with serving(server.app) as url, serving(server.app) as bucket:
        server.bucket = bucket
        async with reaching("cursor", url) as ours:
            events = await read(ours.start(make_turn("file a.txt")))
    assert done(events).outcome == "completed"
    (told,) = [text for text in texts(events) if "not fetched" in text]
    assert bucket in told
    assert "allow_origins" in told
    assert "Signature" not in told
    assert server.fetched == []


async def test_usage_is_asked_for_and_may_be_refused(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("cursor", url, usage=True) as ours:
            events = await read(ours.start(make_turn("hello")))
            server.usage_enabled = False
            without = await read(ours.start(make_turn("hello")))
    (used,) = [e for e in events if isinstance(e, Usage)]
    assert (used.input_tokens, used.output_tokens) == (7, 11)
    assert used.detail["cacheReadTokens"] == 2
    assert not [e for e in without if isinstance(e, Usage)]
    assert done(without).outcome == "completed"


async def test_a_run_whose_stream_is_gone_is_looked_at(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("cursor", url, poll_interval=0.02) as ours:
            events = await read(ours.start(make_turn("slow 3")))
            server.expired = True
            later = await read(ours.attach(done(events).ref, None))
            vanished = await read(ours.start(make_turn("vanish all good")))
    assert texts(later) == texts(events)
    assert done(later).outcome == "completed"
    assert texts(vanished) == ["all good"]


async def test_a_recoverable_error_of_the_stream_is_got_over(make_turn: MakeTurn) -> None:
    """Observed right after a follow-up: status, `stream_unavailable`, done."""
    with serving(Server(token=TOKEN).app) as url:
        async with reaching("cursor", url, poll_interval=0.02) as ours:
            events = await read(ours.start(make_turn("vanish all good")))
    assert texts(events) == ["all good"]
    assert done(events).outcome == "completed"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "unauthorized", "auth"),
        (403, "plan_required", "auth"),
        (403, "usage_limit_exceeded", "rate_limited"),
        (403, "feature_unavailable", "unsupported"),
        (404, "agent_not_found", "not_found"),
        (409, "agent_busy", "conflict"),
        (409, "agent_archived", "gone"),
        (400, "invalid_model", "invalid"),
        (500, "internal_error", "failed"),
    ],
)
async def test_its_codes_have_their_kinds(
    status: int, code: str, kind: str, make_turn: MakeTurn
) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("cursor", url) as ours:
            body = {"error": {"code": code, "message": "the reason"}}
            server.instead("/v1/agents", status, body, x_request_id="req-7")
            with pytest.raises(Rejected, match="the reason") as refused:
                await read(ours.start(make_turn("hello")))
    told = refused.value
    assert (told.kind, told.status, told.request_id) == (kind, status, "req-7")
    assert code in told.message
    assert told.sent == (status >= 500)


async def test_a_rate_limit_says_how_long_to_wait(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    body = {"error": {"code": "rate_limit_exceeded", "message": "slow down"}}
    with serving(server.app) as url:
        async with reaching("cursor", url) as ours:
            server.instead("/v1/agents", 429, body, retry_after="17")
            with pytest.raises(Rejected) as refused:
                await read(ours.start(make_turn("hello")))
    assert (refused.value.kind, refused.value.retry_after) == ("rate_limited", 17)
    assert refused.value.safe_to_retry
    assert len(server.requests) == 1, "a start was repeated"


async def test_an_archived_agent_and_a_busy_one_are_refused(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("cursor", url) as ours:
            events = await read(ours.start(make_turn("hello")))
            ref = done(events).ref
            async with ours.start(make_turn("slow 500", ref=ref)) as running:
                await anext(running)
                with pytest.raises(Rejected) as busy:
                    await read(ours.start(make_turn("again", ref=ref)))
            next(iter(server.agents.values())).archived = True
            with pytest.raises(Rejected) as gone:
                await read(ours.start(make_turn("again", ref=ref)))
    assert (busy.value.kind, gone.value.kind) == ("conflict", "gone")


async def test_what_it_has_not_is_refused_before_anything_is_sent(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("cursor", url) as ours:
            turns = [
                make_turn("x", files=[png("a.pdf", kind="application/pdf")]),
                make_turn("x", files=[png("a.txt", kind="text/plain", data=b"\xff\xfe")]),
                make_turn("x", files=[png() for _ in range(6)]),
                make_turn(answers=[Answer(question_id="q")]),
            ]
            for turn in turns:
                with pytest.raises(Unsupported):
                    await read(ours.start(turn))
            for ref, cursor in (({}, None), ({"agent": "a", "run": ".."}, None), ({}, "nonsense")):
                with pytest.raises(RuntimeFailure) as refused:
                    await read(ours.attach(ref, cursor))
                assert not refused.value.sent
    assert server.requests == []


async def test_text_files_become_part_of_the_prompt(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("cursor", url) as ours:
            file = png('a"b.csv', kind="text/csv", data=b"x,y")
            await read(ours.start(make_turn("hello", files=[file])))
    (sent,) = server.bodies("/v1/agents")
    assert sent["prompt"]["text"] == 'hello\n\n<file name="a&quot;b.csv">\nx,y\n</file>'


async def test_secrets_for_its_shell_leave_the_id_to_cursor(make_turn: MakeTurn) -> None:
    server = Server(token=TOKEN)
    with serving(server.app) as url:
        async with reaching("cursor", url, env_vars={"NPM_TOKEN": "env:NPM"}) as ours:
            events = await read(ours.start(make_turn("hello")))
    (sent,) = server.bodies("/v1/agents")
    assert sent["envVars"] == {"NPM_TOKEN": TOKEN}
    assert "agentId" not in sent
    assert (done(events).ref or {})["agent"].startswith("bc-")


@pytest.mark.parametrize(
    "stream",
    [
        sse("status", {"status": "RUNNING"}) + sse("assistant", {"text": "he"}, event_id="1"),
        sse("status", {"status": "RUNNING"}),
        "",
    ],
)
async def test_a_stream_that_stops_is_lost_not_completed(stream: str, make_turn: MakeTurn) -> None:
    server = Deviant({"/v1/agents": (CREATED, JSON, 201), "/stream": (stream, SSE, 200)})
    with serving(server.app) as url:
        async with reaching("cursor", url) as ours:
            events = await read(ours.start(make_turn("x")))
    assert not any(type(event).__name__ == "Done" for event in events)


@pytest.mark.parametrize("data", ["nonsense", "[]", "5", "[" * 100_000])
async def test_what_is_no_run_is_a_protocol_error(data: str, make_turn: MakeTurn) -> None:
    stream = f"event: assistant\ndata: {data}\n\n"
    server = Deviant({"/v1/agents": (CREATED, JSON, 201), "/stream": (stream, SSE, 200)})
    with serving(server.app) as url:
        async with reaching("cursor", url) as ours:
            with pytest.raises(ProtocolError):
                await read(ours.start(make_turn("x")))


def fed(*frames: tuple[str, str, Any], after: Cursor | None = None) -> list[Any]:
    fold = RunFold({"agent": "bc-1", "run": "r"}, after=after)
    return [e for name, i, data in frames for e in fold.feed(name, i, json.dumps(data))]


def test_events_without_ids_make_messages_that_differ() -> None:
    events = fed(
        ("assistant", "", {"text": "a"}),
        ("tool_call", "", {"callId": "c", "name": "t", "status": "completed", "result": {"x": 1}}),
        ("assistant", "", {"text": "b"}),
        ("result", "", {"status": "FINISHED", "text": "b"}),
    )
    assert texts(events) == ["a", "b"]
    assert len({e.id for e in events if e.id}) == len([e for e in events if e.id])


@pytest.mark.parametrize(
    ("result", "outcome", "said"),
    [
        ({"status": "ERROR", "text": "no disk"}, "failed", "no disk"),
        ({"status": "EXPIRED"}, "failed", "expired"),
        ({"status": "CANCELLED"}, "cancelled", ""),
        ({"status": "FINISHED", "text": "only here"}, "completed", ""),
    ],
)
def test_a_result_says_how_the_run_ended(result: Any, outcome: str, said: str) -> None:
    events = fed(("result", "1", {"runId": "r", **result}))
    assert done(events).outcome == outcome
    assert said in (done(events).error or "")
    assert texts(events) == (["only here"] if outcome == "completed" else [])


def test_a_result_after_a_replay_does_not_repeat_what_was_said() -> None:
    events = fed(("assistant", "1", {"text": "hello"}), ("thinking", "2", {"text": "hm"}))
    marked = [e.cursor for e in events if e.cursor]
    rest = fed(
        ("thinking", "2", {"text": "hm"}),
        ("result", "3", {"status": "FINISHED", "text": "hello"}),
        after=Cursor.decode(marked[-1]),
    )
    assert texts(rest) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"body": {"agentId": "x"}}, "agentId is set by the adapter"),
        ({"repos": [{"url": REPO}], "environment": {"name": "x"}}, "named environment"),
        ({"mode": "fast"}, "mode"),
    ],
)
def test_a_wrong_configuration_names_its_key(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        CursorConfig.model_validate({"url": "https://api.cursor.com", **settings})
