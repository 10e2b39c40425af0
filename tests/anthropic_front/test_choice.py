"""What a fresh reader looked for in this face: forced tools, mixed turns, upstreams that differ in
how they begin and end a call, names that two uploads share, an editor that loses nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lap_mcp.anthropic_front.programs import editor_program
from tests.anthropic_front.messaging import ALL, PYTHON, SHELL, Served, serving
from tests.anthropic_front.upstream import Call, Json, Say, Stop, Upstream, bash, python

pytestmark = pytest.mark.anyio

WEATHER = {"name": "get_weather", "input_schema": {"type": "object"}}


async def ask(f: Served, *tools: Any, **more: Any) -> Any:
    asked = [{"role": "user", "content": "go"}]
    values: dict[str, Any] = {"model": "claude-test", "max_tokens": 100, "messages": asked}
    return await f.client().beta.messages.create(**{**values, "tools": list(tools), **more})


@pytest.mark.parametrize(
    ("tool", "choice", "first"),
    [
        (PYTHON, {"type": "tool", "name": "code_execution"}, "code_execution"),
        (SHELL, {"type": "tool", "name": "code_execution"}, "bash_code_execution"),
        (ALL, {"type": "tool", "name": "bash_code_execution"}, "bash_code_execution"),
    ],
)
async def test_a_forced_tool_of_ours_is_forced_once(
    tmp_path: Path, tool: Any, choice: Any, first: str
) -> None:
    call = python("say 1") if first == "code_execution" else bash("ls")
    upstream = Upstream([call], [Say("done")])
    async with serving(upstream, tmp_path) as f:
        answer = await ask(f, tool, tool_choice=choice)
    assert answer.content[-1].text == "done"
    assert [each["tool_choice"] for each in upstream.asked] == [
        {"type": "tool", "name": first},
        {"type": "auto"},
    ]


async def test_a_mixed_turn_names_the_container(tmp_path: Path) -> None:
    """Whoever goes on needs it."""
    upstream = Upstream([python("say 1"), Call("get_weather", {})], [Say("sunny")])
    async with serving(upstream, tmp_path) as f:
        answer = await ask(f, PYTHON, WEATHER)
    assert answer.stop_reason == "tool_use"
    assert answer.container.id.startswith("cntr_")
    assert answer.container.expires_at


class Odd(Upstream):
    """Begins a call as others than Anthropic do."""

    def __init__(self, *script: Any, begin: Any) -> None:
        super().__init__(*script)
        self.begin = begin

    def _block_events(self, part: Any, index: int) -> Iterator[Json]:
        if not isinstance(part, Call):
            yield from super()._block_events(part, index)
            return
        start, *deltas, stop = super()._block_events(part, index)
        block = start["content_block"]
        del block["input"]
        if self.begin == "whole":
            block["input"], deltas = part.input, []
        elif self.begin == "text":
            block["input"], deltas = json.dumps(part.input), []
        elif self.begin is not None:
            block["input"] = self.begin
        yield from [start, *deltas, stop]


@pytest.mark.parametrize("begin", [None, "", "whole", "text", 0])
async def test_however_an_upstream_begins_a_call_it_is_run(tmp_path: Path, begin: Any) -> None:
    upstream = Odd([python("say one")], [Say("done")], begin=begin)
    async with serving(upstream, tmp_path) as f:
        answer = await ask(f, PYTHON)
        assert f.launcher.sandboxes[0].executed == ["say one"]
    use, result, text = answer.content
    assert use.input == {"code": "say one"}
    assert result.content.stdout == "one\n"
    assert text.text == "done"


async def test_a_call_at_the_end_of_a_turn_is_run_also_where_the_server_calls_it_the_end(
    tmp_path: Path,
) -> None:
    upstream = Upstream([python("say one"), Stop("end_turn")], [Say("done")])
    async with serving(upstream, tmp_path) as f:
        answer = await ask(f, PYTHON)
    assert [block.type for block in answer.content][1:] == ["code_execution_tool_result", "text"]


async def test_two_uploads_of_one_name_are_both_there_and_the_model_knows_which(
    tmp_path: Path,
) -> None:
    upstream = Upstream([python("say 1")], [Say("done")])
    async with serving(upstream, tmp_path) as f:
        files = f.client().beta.files
        one = await files.upload(file=("data.csv", b"first"))
        two = await files.upload(file=("data.csv", b"second"))
        content = [{"type": "container_upload", "file_id": each.id} for each in (one, two, one)]
        await ask(f, PYTHON, messages=[{"role": "user", "content": content}])
        placed = f.launcher.sandboxes[0].files
    assert placed["data.csv"][0] == b"first"
    assert placed[f"{two.id}-data.csv"][0] == b"second"
    told = [block["text"] for block in upstream.asked[0]["messages"][0]["content"]]
    assert told == [
        f"(The user put a file into the sandbox: /mnt/data/{name})"
        for name in ("data.csv", f"{two.id}-data.csv", "data.csv")
    ]


@pytest.mark.parametrize("text", [5, None, ["x"], "\ud800"])
def test_a_text_that_cannot_be_written_leaves_the_old_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: Any
) -> None:
    (tmp_path / "a.txt").write_text("old")
    asked = {"command": "create", "path": "a.txt", "file_text": text}
    exec(editor_program(asked, str(tmp_path)), {})
    assert json.loads(capsys.readouterr().out)["error_code"] == "invalid_tool_input"
    assert (tmp_path / "a.txt").read_text() == "old"
