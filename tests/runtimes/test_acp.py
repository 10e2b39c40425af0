"""ACP agents: what they ask and give, and programs that speak the protocol badly."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from lap_runtimes import acp_client
from lap_runtimes.acp import ACPRuntime
from lap_runtimes.acp_fold import PromptFold, chosen, permission
from lap_runtimes.base import (
    Answer,
    Asked,
    Done,
    Event,
    File,
    Heartbeat,
    Message,
    MessageDelta,
    Progress,
    PromptFile,
    Started,
    Thinking,
    ThinkingDelta,
    ToolResult,
    ToolUse,
    Usage,
)
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure, Unavailable
from lap_runtimes.process import LineReader
from pydantic import ValidationError

from tests.canary import canary
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.programs import Processes, is_alive, program
from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
SECONDS = 60


@asynccontextmanager
async def running(
    folder: Path, script: str = "rough_agent.py", *manner: str, **settings: Any
) -> AsyncIterator[ACPRuntime]:
    """A runtime over a script; afterwards nothing of its program is left."""
    context = {"resolve_secret": lambda name: canary("acp"), "read_variable": os.environ.get}
    command = [program(folder, HERE / script, *manner)]
    config = ACPRuntime.Config.model_validate(
        {"command": command, "stop_seconds": 0.5, **settings}, context=context
    )
    runtime = ACPRuntime(config)
    try:
        with anyio.fail_after(SECONDS):
            yield runtime
    finally:
        await runtime.aclose()
    assert Processes(folder).alive == []


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def is_there(path: str) -> bool:
    return Path(path).exists()


async def read(stream: Any, seen: list[Event] | None = None) -> list[Event]:
    """All of it; what came before a failure is in `seen`."""
    seen = [] if seen is None else seen
    async with stream as events:
        async for event in events:
            seen.append(event)
    return seen


def texts(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Message))


def done(events: list[Event]) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


async def until_asked(events: AsyncIterator[Event]) -> tuple[Any, Asked]:
    ref = None
    async for event in events:
        ref = event.ref or ref
        if isinstance(event, Asked):
            return ref, event
    raise AssertionError("it did not ask")


# Real agents


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"decision": "allow"}, "allowed by o"),
        ({"decision": "deny"}, "denied by n"),
        ({"option": "Always"}, "allowed by a"),
    ],
)
async def test_a_permission_is_given_by_decision_or_option(
    tmp_path: Path, make_turn: MakeTurn, answer: dict[str, Any], said: str
) -> None:
    """Of several options that allow, a decision takes the one that allows least."""
    async with (
        running(tmp_path, "acp_agent.py") as runtime,
        runtime.start(make_turn("ask /etc/passwd")) as events,
    ):
        ref, asked = await until_asked(events)
        question = asked.question
        assert (question.kind, question.tool) == ("approval", "rm /etc/passwd")
        assert question.tool_input == {"path": "/etc/passwd"}
        assert question.options == ("Always", "Once", "No")
        with pytest.raises(Rejected, match="Always, Once, No"):
            await runtime.answer(ref, Answer(question_id=question.id, option="Maybe"))
        await runtime.answer(ref, Answer(question_id=question.id, **answer))
        rest = [event async for event in events]
    assert texts(rest) == said
    (result,) = [event for event in rest if isinstance(event, ToolResult)]
    assert result.is_error == (said[0] == "d")


async def test_cancelling_answers_the_open_question_as_cancelled(
    tmp_path: Path, make_turn: MakeTurn
) -> None:
    async with (
        running(tmp_path, "acp_agent.py") as runtime,
        runtime.start(make_turn("ask /etc/passwd")) as events,
    ):
        ref, _ = await until_asked(events)
        await runtime.cancel(ref)
        rest = [event async for event in events]
    assert done(rest).outcome == "cancelled"
    assert texts(rest) == "nobody chose"


async def test_a_stream_that_is_left_is_cancelled_and_its_session_goes_on(
    tmp_path: Path, make_turn: MakeTurn
) -> None:
    async with running(tmp_path, "acp_agent.py") as runtime:
        async with runtime.start(make_turn("slow 5000")) as events:
            started = await anext(events)
        await eventually_async(lambda: list(tmp_path.glob("cancelled-*")))
        assert texts(await read(runtime.start(make_turn("again", ref=started.ref)))) == "again"


async def test_a_session_is_loaded_into_a_new_process_without_saying_it_again(
    tmp_path: Path, make_turn: MakeTurn
) -> None:
    async with running(tmp_path, "acp_agent.py") as runtime:
        first = await read(runtime.start(make_turn("remember apples")))
        Processes(tmp_path).cut()
        while Processes(tmp_path).accepted == 1:
            # Until it is seen to have ended, a check is a question to it.
            await runtime.check()
            await anyio.sleep(0.02)
        events = await read(runtime.start(make_turn("recall", ref=done(first).ref)))
        assert texts(events) == "apples"
        assert Processes(tmp_path).accepted == 2


async def test_a_session_of_an_agent_that_cannot_load_is_gone_with_its_process(
    tmp_path: Path, make_turn: MakeTurn
) -> None:
    async with running(tmp_path) as runtime:
        first = await read(runtime.start(make_turn("hello")))
        await runtime.aclose()
        with pytest.raises(Rejected, match="start a new session") as failure:
            await read(runtime.start(make_turn("again", ref=done(first).ref)))
        assert (failure.value.kind, failure.value.sent) == ("gone", False)


async def test_the_configured_login_and_mode_are_used(tmp_path: Path, make_turn: MakeTurn) -> None:
    async with running(tmp_path, auth_method="key", mode="plan") as runtime:
        first = await read(runtime.start(make_turn("hello")))
        await read(runtime.start(make_turn("again", ref=done(first).ref)))
    assert json.loads((tmp_path / "authenticate").read_text()) == {"methodId": "key"}
    mode = json.loads((tmp_path / "session-set_mode").read_text())
    assert mode == {"sessionId": "s1", "modeId": "plan"}


async def test_two_sessions_stream_at_once_through_one_process(
    tmp_path: Path, make_turn: MakeTurn
) -> None:
    found: dict[str, str] = {}
    async with running(tmp_path, "acp_agent.py") as runtime:

        async def turn(words: str) -> None:
            found[words] = texts(await read(runtime.start(make_turn(words))))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(turn, "slow 7")
            tasks.start_soon(turn, "slow 9")
        assert Processes(tmp_path).accepted == 1
    assert found["slow 7"] == "".join(f"chunk {n} of 7\n" for n in range(1, 8))
    assert found["slow 9"] == "".join(f"chunk {n} of 9\n" for n in range(1, 10))


async def test_files_and_terminals_are_neither_offered_nor_served(
    tmp_path: Path, make_turn: MakeTurn
) -> None:
    async with running(tmp_path, "acp_agent.py") as runtime:
        said = texts(await read(runtime.start(make_turn("methods"))))
    offered = json.loads((tmp_path / "offered.json").read_text())
    assert not offered["terminal"]
    assert set(offered["fs"].values()) <= {False, None}
    assert said.splitlines() == [
        "fs/read_text_file: -32601",
        "terminal/create: -32601",
        "_vendor/thing: -32601",
    ]


async def test_files_go_in_as_what_the_agent_takes(tmp_path: Path, make_turn: MakeTurn) -> None:
    """A picture as a picture; anything else as a link to a copy, gone when the program ends."""

    def given(name: str, media_type: str) -> PromptFile:
        async def data() -> bytes:
            return b"bytes of it"

        return PromptFile(name=name, media_type=media_type, size=11, read=data)

    files = [given("a.png", "image/png"), given("../b.txt", "text/plain")]
    async with running(tmp_path, "acp_agent.py") as runtime:
        said = texts(await read(runtime.start(make_turn("look", files=files))))
    assert said == "got image image/png got resource_link ../b.txt: bytes of it look"


async def test_the_program_gets_what_its_configuration_lists_and_nothing_else(
    tmp_path: Path, make_turn: MakeTurn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAIN", "one")
    monkeypatch.setenv("UNLISTED", "two")
    script = tmp_path / "environment.py"
    script.write_text(
        "import json, os, sys\n"
        "open(os.path.join(sys.argv[1], 'seen'), 'w').write(json.dumps("
        "[dict(os.environ), os.getcwd(), os.getpgid(0) == os.getpid(), "
        "os.listdir('/proc/self/fd')]))"
    )
    env = {"KEY": "env:SECRET", "MODE": "quiet"}
    async with running(tmp_path, str(script), env=env, inherit=["PLAIN", "MISSING"]) as runtime:
        with pytest.raises(Unavailable, match="exit code 0") as failure:
            await read(runtime.start(make_turn("hello")))
        assert not failure.value.sent
    written = tmp_path / "seen"
    seen, folder, leads, descriptors = json.loads(written.read_text())
    seen = {name: value for name, value in seen.items() if name not in ("LC_CTYPE", "PWD", "_")}
    assert seen == {"KEY": canary("acp"), "MODE": "quiet", "PLAIN": "one"}
    assert leads, "a group of its own"
    assert not is_there(folder), "its folder was its own and is gone"
    assert len(descriptors) <= 5, "no descriptor of ours"
    written.unlink()


async def test_nothing_is_added_to_an_empty_environment(
    tmp_path: Path, make_turn: MakeTurn
) -> None:
    """Python adds a locale to its own, and the guard is Python."""
    seen = tmp_path / "seen"
    command = ["/bin/sh", "-c", f"/usr/bin/env > {seen}"]
    runtime = ACPRuntime(ACPRuntime.Config(command=command, stop_seconds=0.5))
    with pytest.raises(Unavailable, match="exit code 0"):
        await read(runtime.start(make_turn("hello")))
    await runtime.aclose()
    names = {line.partition("=")[0] for line in lines_of(seen)}
    assert names <= {"PWD", "_", "OLDPWD", "SHLVL"}, "what the shell itself sets"


def test_a_secret_is_not_inherited_in_plain() -> None:
    settings = {"command": ["x"], "inherit": ["OPENAI_API_KEY"]}
    with pytest.raises(ValidationError, match='OPENAI_API_KEY = "env:OPENAI_API_KEY"'):
        ACPRuntime.Config.model_validate(settings, context={"read_variable": lambda name: "x"})
    with pytest.raises(ValidationError, match="name the program"):
        ACPRuntime.Config.model_validate({})


# Programs that misbehave


async def test_a_program_that_dies_half_way_says_how_without_its_secret(
    tmp_path: Path, make_turn: MakeTurn
) -> None:
    seen: list[Event] = []
    async with running(tmp_path, env={"KEY": "env:SECRET"}) as runtime:
        with pytest.raises(Unavailable, match="exit code 3: fatal: out of memory") as failure:
            await read(runtime.start(make_turn("die")), seen)
        assert failure.value.sent
        assert canary("acp") not in failure.value.message
        assert [type(event) for event in seen] == [Started, MessageDelta]
        assert texts(await read(runtime.start(make_turn("hello")))) == ""


@pytest.mark.parametrize("word", ["half", "noise", "endless line"])
async def test_output_that_is_no_protocol_is_the_end(
    tmp_path: Path, make_turn: MakeTurn, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as runtime:
        with pytest.raises((ProtocolError, Unavailable)) as failure:
            await read(runtime.start(make_turn(word)))
        assert failure.value.sent
    assert isinstance(failure.value, Unavailable) == (word == "half")


@pytest.mark.parametrize("word", ["stderr", "little noise"])
async def test_noise_within_limits_is_passed_over(
    tmp_path: Path, make_turn: MakeTurn, word: str
) -> None:
    async with running(tmp_path) as runtime:
        events = await read(runtime.start(make_turn(word)))
    assert texts(events) == "still here"
    assert done(events).outcome == "completed"


async def test_more_questions_than_anybody_answers_are_declined(
    tmp_path: Path, make_turn: MakeTurn
) -> None:
    asked = 0
    async with running(tmp_path) as runtime, runtime.start(make_turn("many questions")) as events:
        async for event in events:
            asked += isinstance(event, Asked)
            if isinstance(event, Done):
                assert event.error == "the agent stopped: it reached its limit of tokens"
    assert asked == 64
    declined = json.loads((tmp_path / "answer-1099").read_text())
    assert declined["result"] == {"outcome": {"outcome": "cancelled"}}


@pytest.mark.parametrize(
    ("answer", "wire"),
    [
        ({"text": "7"}, {"action": "accept", "content": {"n": 7}}),
        ({"data": {"n": 8}}, {"action": "accept", "content": {"n": 8}}),
        ({"decision": "deny"}, {"action": "decline"}),
    ],
)
async def test_a_form_is_an_input_question(
    tmp_path: Path, make_turn: MakeTurn, answer: dict[str, Any], wire: Mapping[str, Any]
) -> None:
    async with running(tmp_path) as runtime, runtime.start(make_turn("ask form")) as events:
        ref, asked = await until_asked(events)
        assert (asked.question.kind, asked.question.text) == ("input", "how many?")
        with pytest.raises(Rejected, match="integer"):
            await runtime.answer(ref, Answer(question_id=asked.question.id, text="a few"))
        await runtime.answer(ref, Answer(question_id=asked.question.id, **answer))
        rest = [event async for event in events]
    assert json.loads(texts(rest)) == wire
    assert (done(rest).outcome, done(rest).error) == ("failed", "the agent refused to go on")


@pytest.mark.parametrize(
    ("manner", "kind", "words"),
    [
        ("another version", "unsupported", "speaks version 7"),
        ("wants a login", "auth", "auth_method"),
        ("never answers", "unreachable", "has not answered initialize"),
    ],
)
async def test_an_agent_that_cannot_begin_was_sent_nothing(
    tmp_path: Path, make_turn: MakeTurn, manner: str, kind: str, words: str
) -> None:
    seconds = 1.5 if manner == "never answers" else 30
    async with running(tmp_path, "rough_agent.py", manner, start_seconds=seconds) as runtime:
        with pytest.raises(RuntimeFailure, match=words) as failure:
            await read(runtime.start(make_turn("hello")))
    assert (failure.value.kind, failure.value.sent) == (kind, False)


@pytest.mark.parametrize("word", ["fork", "deaf"])
async def test_all_that_a_program_started_ends_with_it(
    tmp_path: Path, make_turn: MakeTurn, word: str
) -> None:
    """One that ignores SIGTERM, its children, and those that left its group."""
    async with running(tmp_path, "rough_agent.py", "ignores TERM") as runtime:
        with anyio.move_on_after(3):
            await read(runtime.start(make_turn(word)))
        assert len(Processes(tmp_path).alive) == (3 if word == "fork" else 1)


async def test_all_of_it_ends_when_we_are_killed(tmp_path: Path) -> None:
    """SIGKILL leaves us no time for anything: the guard sees the end of its lifeline."""
    command = program(tmp_path, HERE / "rough_agent.py", "ignores TERM")
    code = (
        "import asyncio\n"
        "from lap_runtimes.acp import ACPRuntime\n"
        "from lap_runtimes.base import Prompt, Turn\n"
        "async def main():\n"
        f"    config = ACPRuntime.Config(command=[{command!r}], stop_seconds=0.5)\n"
        "    runtime = ACPRuntime(config)\n"
        "    turn = Turn(id='t', session_id='s', agent='', input=Prompt(text='fork'))\n"
        "    async with runtime.start(turn) as events:\n"
        "        async for event in events:\n"
        "            pass\n"
        "    print('ready', flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    path = str(Path(acp_client.__file__).parents[1])
    async with await anyio.open_process(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, stderr=None
    ) as process:
        assert process.stdout is not None
        with anyio.fail_after(SECONDS):
            said = BufferedByteReceiveStream(process.stdout)
            assert await said.receive_until(b"\n", 100) == b"ready"
        pids = Processes(tmp_path).pids
        assert len(pids) == 3
        process.send_signal(signal.SIGKILL)
        await process.wait()
    await eventually_async(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["no-such-program"], 'write its absolute path, or inherit = \\["PATH"\\]'),
        (["/no/such/program"], "is the path right"),
    ],
)
async def test_a_program_that_is_not_there_is_said_in_words(
    make_turn: MakeTurn, command: list[str], words: str
) -> None:
    runtime = ACPRuntime(ACPRuntime.Config(command=command))
    with pytest.raises(Unavailable, match=words) as failure:
        await read(runtime.start(make_turn("hello")))
    assert not failure.value.sent
    config = ACPRuntime.Config(command=["/bin/true"], folder="/no/such/folder")
    with pytest.raises(Unavailable, match="working folder /no/such/folder"):
        await read(ACPRuntime(config).start(make_turn("hello")))


# The fold


def chunk(text: str, *, kind: str = "agent_message_chunk", message: str = "") -> dict[str, Any]:
    content = {"type": "text", "text": text}
    return {
        "sessionUpdate": kind,
        "content": content,
        **({"messageId": message} if message else {}),
    }


def folded(*updates: Any, end: Mapping[str, Any] | None = None) -> list[Event]:
    fold = PromptFold("t", 0.25)
    events = [event for update in updates for event in fold.feed(update)]
    return [*events, *fold.end(end or {"stopReason": "end_turn"})]


def kinds(events: list[Event]) -> list[Callable[..., Event]]:
    return [type(event) for event in events if not isinstance(event, Heartbeat)]


def test_a_message_ends_where_something_else_comes() -> None:
    events = folded(
        chunk("hm", kind="agent_thought_chunk"),
        chunk("one "),
        chunk("two"),
        chunk("three", message="m2"),
        {"sessionUpdate": "tool_call", "toolCallId": "c", "title": "bash", "status": "pending"},
        {"sessionUpdate": "tool_call_update", "toolCallId": "c", "rawInput": {"command": "ls"}},
        {
            "sessionUpdate": "tool_call_update",
            "toolCallId": "c",
            "status": "completed",
            "content": [{"type": "content", "content": {"type": "text", "text": "a.txt"}}],
        },
        chunk("four"),
    )
    stored = [e for e in events if isinstance(e, (Message, Thinking, ToolUse, ToolResult))]
    said = [getattr(event, "text", None) or getattr(event, "input", None) for event in stored]
    assert said == ["hm", "one two", "three", {"command": "ls"}, "a.txt", "four"]
    assert len({event.id for event in stored}) == 6
    opened = {e.message_id for e in events if isinstance(e, (MessageDelta, ThinkingDelta))}
    assert opened == {e.message_id for e in stored if isinstance(e, (Message, Thinking))}


def test_pictures_resources_links_plans_and_costs() -> None:
    events = folded(
        {"sessionUpdate": "plan", "entries": [{"content": "x", "status": "in_progress"}]},
        {
            "sessionUpdate": "agent_message_chunk",
            "content": {"type": "image", "data": "aGk=", "mimeType": "image/png"},
        },
        {
            "sessionUpdate": "agent_message_chunk",
            "content": {"type": "resource_link", "uri": "file:///a", "name": "a"},
        },
        {"sessionUpdate": "usage_update", "cost": {"amount": 0.75, "currency": "USD"}},
        end={"stopReason": "end_turn", "usage": {"inputTokens": 3, "outputTokens": 4}},
    )
    assert kinds(events) == [Progress, File, Message, Usage, Done]
    file = next(event for event in events if isinstance(event, File))
    assert (file.name, file.data) == ("image.png", b"hi")
    used = next(event for event in events if isinstance(event, Usage))
    assert (used.input_tokens, used.output_tokens, used.cost_usd) == (3, 4, 0.5)


@pytest.mark.parametrize(
    "update",
    [None, 7, "x", [], {}, {"sessionUpdate": "agent_message_chunk"}, {"sessionUpdate": "tool_call"},
     {"sessionUpdate": "plan", "entries": {"a": 1}}, {"sessionUpdate": "usage_update", "cost": 3},
     {"sessionUpdate": "tool_call_update", "status": "failed", "content": [3, {"content": []}]},
     {"sessionUpdate": "agent_message_chunk", "content": {"type": "image", "data": "%%"}}],
)  # fmt: skip
def test_nothing_that_an_agent_sends_breaks_the_fold(update: Any) -> None:
    assert isinstance(folded(update)[-1], Done)


def test_options_of_one_name_stay_apart() -> None:
    options = [{"optionId": str(n), "name": "Yes", "kind": "allow_once"} for n in range(2)]
    params = {"toolCall": {"title": "x"}, "options": options}
    assert permission(params, "q").options == ("Yes", "Yes (1)")
    assert chosen(params, "Yes (1)", None) == "1"
    assert chosen(params, None, "deny") is None


def test_lines_of_any_cut_are_lines() -> None:
    reader = LineReader(limit=5)
    assert [line for byte in b"one\n\ntwo\n" for line in reader.feed(bytes([byte]))] == [
        b"one",
        b"",
        b"two",
    ]
    with pytest.raises(ProtocolError):
        reader.feed(b"123456")
