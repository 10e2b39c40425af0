"""Tools of other MCP servers as agents: eras, questions, tasks, and servers that misbehave."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from lap_runtimes.base import Answer, Asked, Done, Event, File, Message, Progress, Prompt, Started
from lap_runtimes.content import file_of
from lap_runtimes.elicitation import question_of, result_of
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure, Unavailable, Unsupported
from lap_runtimes.mcp_fold import agent_of, arguments_of, result_events
from lap_runtimes.mcp_tool import MCPRuntime
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.canary import canary
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.mcp_server import WordsServer, application
from tests.runtimes.programs import Processes, program
from tests.runtimes.serving import address, listening, serving
from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
SECONDS = 60
ERAS = ["2026-07-28", "handshake"]


def configured(**settings: Any) -> MCPRuntime:
    context = {"resolve_secret": lambda name: canary("mcp"), "read_variable": os.environ.get}
    settings = {"tool": "agent", **settings}
    return MCPRuntime(MCPRuntime.Config.model_validate(settings, context=context))


@asynccontextmanager
async def over_http(
    server: WordsServer, **settings: Any
) -> AsyncIterator[tuple[MCPRuntime, Callable[[], MCPRuntime]]]:
    """A runtime, and what makes another one to the same server."""
    made: list[MCPRuntime] = []
    with serving(application(server, canary("mcp"))) as url:

        def another() -> MCPRuntime:
            auth = {"bearer": "env:KEY"}
            made.append(configured(**{"url": f"{url}/mcp", "auth": auth, **settings}))
            return made[-1]

        try:
            with anyio.fail_after(SECONDS):
                yield another(), another
        finally:
            for runtime in made:
                await runtime.aclose()


@asynccontextmanager
async def over_stdio(folder: Path, *manner: str, **settings: Any) -> AsyncIterator[MCPRuntime]:
    command = [program(folder, HERE / "rough_server.py", *manner)]
    runtime = configured(command=command, stop_seconds=0.5, **settings)
    try:
        with anyio.fail_after(SECONDS):
            yield runtime
    finally:
        await runtime.aclose()
    assert Processes(folder).alive == []


async def read(stream: Any) -> list[Event]:
    async with stream as events:
        return [event async for event in events]


def texts(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Message))


def done(events: list[Event]) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


# Servers over HTTP


@pytest.mark.parametrize("era", ERAS)
async def test_calls_at_once_get_their_own_answers(era: str, make_turn: MakeTurn) -> None:
    """In the handshake's era a server asks on the connection, not on the call."""
    server = WordsServer(lambda: None)
    found: dict[str, str] = {}
    async with over_http(server, protocol=era) as (runtime, _):
        asked = 0
        all_asked = anyio.Event()

        async def turn(color: str) -> None:
            nonlocal asked
            seen: list[Event] = []
            async with runtime.start(make_turn(f"ask for {color}")) as events:
                async for event in events:
                    seen.append(event)
                    if isinstance(event, Asked):
                        assert event.question.text == f"for {color}"
                        asked += 1
                        if asked == 3:
                            all_asked.set()
                        await all_asked.wait()
                        answer = Answer(question_id=event.question.id, text=color)
                        await runtime.answer({"turn": seen_turn(seen)}, answer)
            found[color] = texts(seen)

        async with anyio.create_task_group() as tasks:
            for color in ("red", "green", "blue"):
                tasks.start_soon(turn, color)
    assert found == {color: f"the color is {color}" for color in ("red", "green", "blue")}


def seen_turn(seen: list[Event]) -> str:
    return next(str(event.ref["turn"]) for event in seen if event.ref is not None)


@pytest.mark.parametrize("era", ERAS)
async def test_a_question_can_be_declined_in_both_eras(era: str, make_turn: MakeTurn) -> None:
    seen: list[Event] = []
    async with (
        over_http(WordsServer(lambda: None), protocol=era) as (runtime, _),
        runtime.start(make_turn("ask why?")) as events,
    ):
        async for event in events:
            seen.append(event)
            if isinstance(event, Asked):
                answer = Answer(question_id=event.question.id, decision="deny")
                await runtime.answer({"turn": seen_turn(seen)}, answer)
    assert texts(seen) == "you decline it"


async def test_a_call_says_which_turn_it_is(make_turn: MakeTurn) -> None:
    server = WordsServer(lambda: None)
    async with over_http(server) as (runtime, _):
        turn = make_turn("hello")
        await read(runtime.start(turn))
    assert server.metas[-1]["lap-mcp/turn"] == turn.id


async def test_pictures_and_links_become_files_and_only_the_server_is_asked_for_them(
    make_turn: MakeTurn,
) -> None:
    async with over_http(WordsServer(lambda: None)) as (runtime, _):
        events = await read(runtime.start(make_turn("picture")))
    (file,) = [event for event in events if isinstance(event, File)]
    assert (file.name, file.data) == ("image.png", b"body of a picture")
    (message, link) = [event for event in events if isinstance(event, Message)]
    assert (message.text, message.data) == ("look:", {"n": 1})
    assert link.text == "gone: file:///etc/passwd (not fetched)"


async def test_an_error_of_the_protocol_fails_the_turn_in_its_words(make_turn: MakeTurn) -> None:
    async with over_http(WordsServer(lambda: None)) as (runtime, _):
        refused = done(await read(runtime.start(make_turn("refuse that was wrong"))))
        assert (refused.outcome, refused.error_kind) == ("failed", "invalid")
        assert "that was wrong" in (refused.error or "")
        sampled = done(await read(runtime.start(make_turn("sample"))))
        assert "roots/list, which is not offered" in (sampled.error or "")
        with pytest.raises(Rejected, match="has no tool 'nothing'") as failure:
            await read(runtime.start(make_turn("hello", agent="nothing")))
        assert (failure.value.kind, failure.value.sent) == ("not_found", False)


@pytest.mark.parametrize("era", ["auto", *ERAS])
async def test_a_wrong_credential_is_said_and_nothing_was_sent(
    era: str, make_turn: MakeTurn
) -> None:
    auth = {"header": {"Authorization": "env:KEY"}}
    async with over_http(WordsServer(lambda: None), protocol=era, auth=auth) as (runtime, _):
        with pytest.raises(Rejected, match="who are you") as failure:
            await read(runtime.start(make_turn("hello")))
    assert (failure.value.kind, failure.value.status) == ("auth", 401)
    assert not failure.value.sent
    assert canary("mcp") not in failure.value.message


async def test_a_redirect_to_another_origin_gets_neither_prompt_nor_credential(
    make_turn: MakeTurn,
) -> None:
    met: list[dict[str, str]] = []
    other = listening()

    async def elsewhere(request: Request) -> Response:
        met.append(dict(request.headers))
        return HTMLResponse("caught")

    async def redirect(request: Request) -> Response:
        return RedirectResponse(f"{address(other)}/mcp", status_code=307)

    routes = [Route("/mcp", redirect, methods=["GET", "POST", "DELETE"])]
    catcher = Starlette(routes=[Route("/{rest:path}", elsewhere, methods=["GET", "POST"])])
    with serving(catcher, other), serving(Starlette(routes=routes)) as url:
        runtime = configured(url=f"{url}/mcp", auth={"bearer": "env:KEY"})
        with anyio.fail_after(SECONDS), pytest.raises(Rejected) as failure:
            await read(runtime.start(make_turn("hello")))
        await runtime.aclose()
        assert url in failure.value.message
        assert address(other) in failure.value.message
    assert met == []


async def test_what_is_no_mcp_server_is_said_to_be_none(make_turn: MakeTurn) -> None:
    async def page(request: Request) -> Response:
        return HTMLResponse("<h1>hello</h1>")

    with serving(Starlette(routes=[Route("/mcp", page, methods=["GET", "POST"])])) as url:
        runtime = configured(url=f"{url}/mcp")
        with anyio.fail_after(SECONDS), pytest.raises(RuntimeFailure, match="content type") as it:
            await read(runtime.start(make_turn("hello")))
        await runtime.aclose()
    assert not it.value.sent


# Tasks


async def test_a_task_is_attached_to_by_another_process_and_asks_there(
    make_turn: MakeTurn,
) -> None:
    """The first reader is gone: the second one gets the question, answers it, and hears the end."""
    async with over_http(WordsServer(lambda: None, tasks=True), tasks=True) as (runtime, another):
        async with runtime.start(make_turn("ask which?")) as events:
            started = await anext(events)
        assert isinstance(started, Started)
        assert started.ref is not None
        assert started.ref["task"]
        await runtime.aclose()
        second, seen = another(), []
        async with second.attach(started.ref, None) as events:
            async for event in events:
                seen.append(event)
                if isinstance(event, Asked):
                    answer = Answer(question_id=event.question.id, data={"color": "blue"})
                    await second.answer(started.ref, answer)
        assert texts(seen) == "the color is blue"
        gone = {**started.ref, "task": "no-such-task"}
        with pytest.raises(Rejected, match="no such task"):
            await read(second.attach(gone, None))
        with pytest.raises(Rejected) as failure:
            await read(second.attach({"turn": "t"}, None))
        assert failure.value.kind == "gone"


async def test_leaving_a_task_does_not_end_it(make_turn: MakeTurn) -> None:
    ended: list[None] = []
    server = WordsServer(lambda: ended.append(None), tasks=True)
    async with over_http(server, tasks=True) as (runtime, _):
        async with runtime.start(make_turn("slow 5")) as events:
            await anext(events)
        (task,) = server.tasks.values()
        await eventually_async(lambda: task.status == "completed")
    assert ended == []


async def test_leaving_a_call_that_is_no_task_ends_it(make_turn: MakeTurn) -> None:
    ended: list[None] = []
    async with over_http(WordsServer(lambda: ended.append(None))) as (runtime, _):
        async with runtime.start(make_turn("slow 5000")) as events:
            async for event in events:
                if isinstance(event, Progress):
                    break
        await eventually_async(lambda: ended == [None])


# Programs that misbehave


async def test_a_program_that_dies_says_how_and_the_next_call_starts_another(
    tmp_path: Path, make_turn: MakeTurn
) -> None:
    async with over_stdio(tmp_path, env={"KEY": "env:SECRET"}) as runtime:
        with pytest.raises(Unavailable, match="exit code 4: no more") as failure:
            await read(runtime.start(make_turn("die")))
        assert failure.value.sent
        assert canary("mcp") not in failure.value.message
        assert texts(await read(runtime.start(make_turn("hello")))) == "fine"
        assert Processes(tmp_path).accepted == 2


@pytest.mark.parametrize("word", ["noise", "endless line"])
async def test_output_that_is_no_protocol_is_the_end(
    tmp_path: Path, make_turn: MakeTurn, word: str
) -> None:
    async with over_stdio(tmp_path) as runtime:
        with pytest.raises(ProtocolError):
            await read(runtime.start(make_turn(word)))


async def test_an_unknown_version_is_refused_before_anything_is_called(
    tmp_path: Path, make_turn: MakeTurn
) -> None:
    async with over_stdio(tmp_path, "another version") as runtime:
        with pytest.raises(RuntimeFailure, match="1999-01-01") as failure:
            await read(runtime.start(make_turn("hello")))
        assert not failure.value.sent


async def test_a_list_without_end_is_cut(tmp_path: Path) -> None:
    async with over_stdio(tmp_path, "endless list") as runtime:
        assert len(await runtime.agents()) == 1


async def test_content_of_an_unknown_type_breaks_nothing(
    tmp_path: Path, make_turn: MakeTurn
) -> None:
    async with over_stdio(tmp_path) as runtime:
        with pytest.raises(ProtocolError, match="does not keep to MCP"):
            await read(runtime.start(make_turn("strange")))
        assert texts(await read(runtime.start(make_turn("hello")))) == "fine"


async def test_leaving_a_deaf_program_ends_it(tmp_path: Path, make_turn: MakeTurn) -> None:
    async with over_stdio(tmp_path) as runtime:
        with anyio.move_on_after(3):
            await read(runtime.start(make_turn("wait")))
        assert Processes(tmp_path).accepted == 1


async def test_a_question_that_is_left_is_cancelled(tmp_path: Path, make_turn: MakeTurn) -> None:
    async with over_stdio(tmp_path) as runtime, runtime.start(make_turn("ask nobody")) as events:
        async for event in events:
            if isinstance(event, Asked):
                await runtime.cancel({"turn": event.question.id.partition("/")[0]})
            last = event
    assert isinstance(last, Done)
    assert last.outcome == "cancelled"


# What is made of a prompt and of a result


def tool(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"name": "x", "inputSchema": schema}


TEXT, NUMBER = {"type": "string"}, {"type": "number"}


@pytest.mark.parametrize(
    ("properties", "required", "prompt", "arguments"),
    [
        ({"prompt": TEXT}, ["prompt"], Prompt(text="hi"), {"prompt": "hi"}),
        ({"city": TEXT, "query": TEXT}, [], Prompt(text="hi"), {"query": "hi"}),
        ({"city": TEXT, "days": NUMBER}, [], Prompt(text="Oslo"), {"city": "Oslo"}),
        ({"a": TEXT, "b": TEXT}, ["b"], Prompt(text="hi"), {"b": "hi"}),
        ({"a": NUMBER}, ["a"], Prompt(text='{"a": 1}'), {"a": 1}),
        ({}, [], Prompt(text="go"), {}),
        ({"a": NUMBER}, ["a"], Prompt(text="add", input={"a": 2}), {"a": 2}),
        ({"prompt": TEXT, "a": NUMBER}, [], Prompt(text="hi", input={"a": 2}),
         {"prompt": "hi", "a": 2}),
        ({"prompt": TEXT}, [], Prompt(text="hi", input={"prompt": "own"}), {"prompt": "own"}),
    ],
)  # fmt: skip
def test_a_prompt_becomes_arguments(
    properties: dict[str, Any], required: list[str], prompt: Prompt, arguments: dict[str, Any]
) -> None:
    assert arguments_of(prompt, tool(properties, *required)) == arguments


def test_arguments_that_cannot_be_made_are_asked_for() -> None:
    with pytest.raises(Rejected, match=r"as input \(a\)") as failure:
        arguments_of(Prompt(text="add it"), tool({"a": NUMBER}, "a"))
    assert not failure.value.sent
    assert arguments_of(Prompt(text="x"), tool({"a": TEXT, "b": TEXT}), "b") == {"b": "x"}


def test_an_agent_has_a_schema_where_text_is_not_enough() -> None:
    assert agent_of(tool({"prompt": TEXT})).input_schema is None
    assert agent_of(tool({"prompt": TEXT, "n": NUMBER})).input_schema is not None
    assert agent_of({"name": "x", "inputSchema": None, "outputSchema": 3}).output_schema is None


@pytest.mark.parametrize(
    "result",
    [{}, {"content": None}, {"content": [None, 3, {}]}, {"content": [{"type": "image"}]},
     {"content": [{"type": "text"}], "isError": True}, {"structuredContent": [1]},
     {"content": [{"type": "resource", "resource": {"blob": "%"}}], "isError": 1}],
)  # fmt: skip
def test_nothing_in_a_result_breaks_the_fold(result: dict[str, Any]) -> None:
    *_, last = result_events("t", result)
    assert isinstance(last, Done)


def test_a_long_error_is_kept_whole() -> None:
    long = "word " * 500
    content = [{"type": "text", "text": long}]
    message, last = result_events("t", {"content": content, "isError": True})
    assert isinstance(message, Message)
    assert message.text == long
    assert isinstance(last, Done)
    assert len(last.error or "") <= 500


def test_a_resource_with_a_path_for_a_name_is_a_plain_file() -> None:
    block = {"type": "resource", "resource": {"uri": "file:///a/../.ssh", "text": "x"}}
    file = file_of(block, "f")
    assert file is not None
    assert file.name == "ssh"


def test_an_address_to_sign_in_is_a_question_of_its_own_kind() -> None:
    question = question_of({"mode": "url", "url": "https://a.example", "message": "sign in"}, "q")
    assert (question.kind, question.url) == ("auth", "https://a.example")
    assert result_of(question, Answer(question_id="q", text="done")) == {"action": "accept"}
    form = {"properties": {"a": TEXT, "b": {"type": "boolean"}}, "required": ["b"]}
    question = question_of({"message": "?", "requestedSchema": form}, "q")
    assert result_of(question, Answer(question_id="q", text="Yes"))["content"] == {"b": True}
    both = {"properties": {"a": TEXT, "b": TEXT}}
    question = question_of({"message": "?", "requestedSchema": both}, "q")
    with pytest.raises(Rejected, match="data for a, b"):
        result_of(question, Answer(question_id="q", text="Yes"))


def test_an_address_or_a_command_and_not_both() -> None:
    config = MCPRuntime.Config
    for settings in ({}, {"url": "https://a.example", "command": ["x"]}):
        with pytest.raises(ValidationError, match="give the url"):
            config.model_validate(settings)
    with pytest.raises(ValidationError, match="there are none"):
        config.model_validate({"command": ["x"], "tasks": True, "protocol": "handshake"})
    assert config.model_validate({"command": ["x"]}).starts_process
    assert not config.model_validate({"url": "https://a.example"}).starts_process
    for strange in ({"headers": {"a": "b"}}, {"auth": {}}):
        with pytest.raises(ValidationError, match="means nothing for a command"):
            config.model_validate({"command": ["x"], **strange})
    with pytest.raises(ValidationError, match="folder: means nothing for a url"):
        config.model_validate({"url": "https://a.example", "folder": "/tmp"})


async def test_a_second_turn_and_files_are_refused_before_anything_is_sent(
    make_turn: MakeTurn,
) -> None:
    runtime = configured(url="http://127.0.0.1:9/mcp")
    with pytest.raises(Unsupported, match="start a new session"):
        await read(runtime.start(make_turn("hello", ref={"turn": "t"})))
