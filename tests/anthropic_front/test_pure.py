"""Without I/O: for any cut of the upstream's bytes the client gets the same bytes; what is passed
on of a tool's input breaks no client; the programs for bash and the editor, run by a Python."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from anthropic.types.beta import BetaTextEditorCodeExecutionToolResultBlock
from hypothesis import given, settings
from hypothesis import strategies as st
from jiter import from_json
from lap_sandbox.base import Execution

from lap_mcp.anthropic_front.exchange import MessageExchange, Setting
from lap_mcp.anthropic_front.history import upstream_messages
from lap_mcp.anthropic_front.partial_json import PartialJson
from lap_mcp.anthropic_front.programs import bash_program, editor_program
from lap_mcp.anthropic_front.results import Outcome, block_of
from lap_mcp.anthropic_front.tools import plan_of
from lap_mcp.anthropic_front.wire import event_bytes
from lap_mcp.front_parts.objects import Objects
from lap_mcp.front_parts.steps import Ask, Failure, Finish, Run, Send
from tests.anthropic_front.upstream import Say, Think, Turn, Upstream, bash, framed, python

ALL = {"type": "code_execution_20260120", "name": "code_execution"}
TURNS: list[Turn] = [
    [Think("hm"), python('print("a\n\u20ac\U0001f600")'), bash("ls")],
    [Say("see")],
]
RAN = Execution(id="", status="ok", stdout="out\n", value="0")


def exchange() -> MessageExchange:
    body = {"model": "m", "messages": [], "tools": [ALL]}
    setting = Setting(plan=plan_of(body), messages=[], model="m", max_rounds=9, images=False)
    return MessageExchange(setting)


def client_bytes(streams: Sequence[bytes], sizes: Sequence[int]) -> tuple[bytes, Any]:
    """What the client gets where the upstream's bytes come in pieces of these sizes."""
    machine, told, result = exchange(), b"", None
    waiting, steps = list(streams), machine.begin()
    while steps:
        step = steps.pop(0)
        if isinstance(step, Send):
            told += event_bytes(step.event)
        elif isinstance(step, Run):
            steps = machine.ran(step, Outcome(execution=RAN)) + steps
        elif isinstance(step, Finish):
            result = step.result
        elif isinstance(step, Ask):
            stream, objects, at, turn = waiting.pop(0), Objects(), 0, 0
            while at < len(stream):
                size = sizes[turn % len(sizes)]
                for value in objects.feed(stream[at : at + size]):
                    steps += machine.upstream(value)
                at, turn = at + size, turn + 1
            for value in objects.close():
                steps += machine.upstream(value)
            steps += machine.over()
    return told, result


STREAMS = [
    b"".join(map(framed, up.events(turn)))
    for up in [Upstream()]
    for turn in TURNS
    if not isinstance(turn, int) and isinstance(turn, list)
]
WHOLE = client_bytes(STREAMS, [1 << 20])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_any_cut_of_the_bytes_gives_the_client_the_same(sizes: list[int]) -> None:
    assert client_bytes(STREAMS, sizes) == WHOLE


def test_every_object_of_the_input_is_shown_whole() -> None:
    kinds = [block["type"] for block in WHOLE[1]["content"]]
    results = ["code_execution_tool_result", "bash_code_execution_tool_result"]
    assert kinds == ["thinking", "server_tool_use", "server_tool_use", *results, "text"]
    assert WHOLE[1]["content"][1]["input"] == {"code": 'print("a\n\u20ac\U0001f600")'}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(JSON, st.integers(1, 7), st.booleans())
def test_valid_json_is_passed_on_whole(value: Any, piece: int, ascii_only: bool) -> None:
    text = json.dumps({"a": value}, ensure_ascii=ascii_only)
    reader = PartialJson()
    passed = "".join(reader.feed(text[at : at + piece]) for at in range(0, len(text), piece))
    assert (passed, reader.complete) == (text, True)
    assert reader.shown() == json.loads(text)


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.sampled_from('{}[]":,\\u0d8aCDe1.-+tnlr \n\x01x\U0001f600'), max_size=40)
    | JSON.map(lambda value: json.dumps(value)[:-1] + "}"),
    st.integers(1, 5),
)
def test_whatever_a_model_writes_a_client_can_parse_what_is_passed_on(
    text: str, piece: int
) -> None:
    reader, passed = PartialJson(), ""
    for at in range(0, len(text), piece):
        passed += reader.feed(text[at : at + piece])
        if passed.strip():
            from_json(passed.encode(), partial_mode=True)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(JSON, st.dictionaries(st.sampled_from(
    ["type", "index", "delta", "content_block", "usage", "message", "error"]), JSON))))  # fmt: skip
def test_no_event_breaks_the_interception(values: list[Any]) -> None:
    machine = exchange()
    machine.begin()
    for value in values:
        if isinstance(value, dict):
            machine.upstream(value)
    machine.broke(Failure(message="over"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["role", "content", "type"]), JSON)))
def test_no_history_breaks_the_rewriting(messages: list[Any]) -> None:
    upstream_messages(messages, {})


def test_an_event_cannot_break_out_of_its_line() -> None:
    assert event_bytes({"type": "a\n\ndata: x"}).startswith(b"event: message\ndata: {")


def ran(program: str, *before: str) -> tuple[str, str, str]:
    """Run by a real Python: both streams, and the value of the last expression."""
    code = ";".join([*before, f"v = {program}", "import sys", "sys.stdout.flush()", "print(v)"])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    out, _, value = done.stdout.removesuffix("\n").rpartition("\n")
    return out, done.stderr, value


@pytest.mark.parametrize(
    ("command", "out", "err", "code"),
    [
        ("echo a; echo b >&2; exit 3", "a", "b\n", "3"),
        ("kill -9 $$", "", "", "137"),
        ("""printf '%s\\n' "it's" '\u20ac'""", "it's\n\u20ac", "", "0"),
    ],
)
def test_bash_gives_its_streams_and_its_code(
    command: str, out: str, err: str, code: str, tmp_path: Path
) -> None:
    assert ran(bash_program(command, str(tmp_path))) == (out, err, code)


def test_a_background_process_does_not_hold_a_command_up(tmp_path: Path) -> None:
    out, _, code = ran(bash_program("sleep 20 & echo $!; kill $!", str(tmp_path)))
    assert (out.isdigit(), code) == (True, "0")


def edited(folder: Path, command: str, path: str = "a.txt", **more: Any) -> dict[str, Any]:
    """The result block's content, held to the official types."""
    asked = {"command": command, "path": path, **more}
    out, _, _ = ran(editor_program(asked, str(folder)))
    execution = Execution(id="", status="ok", stdout=out)
    block = block_of("text_editor_code_execution", "c", Outcome(execution=execution))
    BetaTextEditorCodeExecutionToolResultBlock.model_validate(block)
    content: dict[str, Any] = block["content"]
    return {**content, "type": content["type"].removeprefix("text_editor_code_execution_")}


def test_the_editor_creates_views_and_changes(tmp_path: Path) -> None:
    text = "one\ntwo\nthree\n"
    assert edited(tmp_path, "create", file_text=text)["is_file_update"] is False
    assert edited(tmp_path, "create", file_text=text)["is_file_update"] is True
    assert edited(tmp_path, "view", view_range=[2, -1]) == {
        "type": "view_result", "file_type": "text", "content": "two\nthree",
        "start_line": 2, "num_lines": 2, "total_lines": 3,
    }  # fmt: skip
    assert edited(tmp_path, "str_replace", old_str="two", new_str="2") == {
        "type": "str_replace_result", "lines": ["-two", "+2"],
        "old_start": 2, "old_lines": 1, "new_start": 2, "new_lines": 1,
    }  # fmt: skip
    inserted = edited(tmp_path, "insert", insert_line=0, insert_text="zero")
    assert (inserted["lines"], inserted["new_start"]) == (["+zero"], 1)
    assert edited(tmp_path, "insert", insert_line=4, insert_text="end")["lines"] == ["+end"]
    assert (tmp_path / "a.txt").read_text() == "zero\none\n2\nthree\nend\n"
    assert "a.txt" in edited(tmp_path, "view", ".")["content"]


@pytest.mark.parametrize(
    ("command", "more", "code"),
    [
        ("view", {}, "file_not_found"),
        ("str_replace", {"old_str": "x", "new_str": ""}, "file_not_found"),
        ("str_replace", {"path": "b", "old_str": "b", "new_str": ""}, "invalid_tool_input"),
        ("view", {"path": "b", "view_range": [9, 10]}, "invalid_tool_input"),
        ("view", {"path": "b", "view_range": "x"}, "invalid_tool_input"),
        ("insert", {"path": "b", "insert_line": 99}, "invalid_tool_input"),
        ("create", {"path": "/proc/none/x"}, "invalid_tool_input"),
        ("undo", {}, "invalid_tool_input"),
        ("view", {"path": "bin"}, "invalid_tool_input"),
    ],
)
def test_the_editor_says_what_is_wrong(
    command: str, more: dict[str, Any], code: str, tmp_path: Path
) -> None:
    (tmp_path / "b").write_text("b b\n")
    (tmp_path / "bin").write_bytes(b"\xff\xfe\x00")
    content = edited(tmp_path, command, **more)
    assert (content["type"], content["error_code"]) == ("tool_result_error", code)
    assert content["error_message"]


def test_what_the_editor_prints_is_not_trusted() -> None:
    for said in ("", "[]", '{"lines": 3}', '{"error_code": "made_up"}', "[" * 5000):
        outcome = Outcome(execution=Execution(id="", status="ok", stdout=said))
        content = block_of("text_editor_code_execution", "c", outcome)["content"]
        assert content["error_code"] == "unavailable"
