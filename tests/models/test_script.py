"""The scripted model itself: what it says next, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.models import anthropic, responses
from tests.models.script import Call, Say, ScriptError, Shown, Tool, ToolResult, answer

TOOLS = [Tool(name="mcp__lap__research"), Tool(name="code_interpreter", namespace="mcp__lap")]


def shown(script: Any, *results: ToolResult) -> Shown:
    prompt = f"do %%{json.dumps(script)}%%"
    return Shown(system="", prompts=["hello", prompt], tools=TOOLS, results=results)


def told(text: str, step: int = 0) -> ToolResult:
    return ToolResult(call_id=f"call_{step}_ab", text=text)


@pytest.mark.parametrize("name", ["research", "mcp__lap__research"])
def test_a_step_may_name_a_tool_with_or_without_the_harness_prefix(name: str) -> None:
    say = answer(shown([{"tool": name, "args": {"prompt": "x"}}]))
    assert [(c.tool, c.args) for c in say.calls] == [(TOOLS[0], {"prompt": "x"})]


def test_a_tool_in_a_namespace_is_found() -> None:
    assert answer(shown([{"tool": "code_interpreter"}])).calls[0].tool == TOOLS[1]


def test_the_step_after_an_answered_call_is_next_and_holes_are_filled() -> None:
    script = [{"tool": "research"}, {"text": "it is <<ses_[0-9a-f]+>>"}]
    assert answer(shown(script, told("session ses_1 then ses_2"))) == Say(text="it is ses_2")


def test_a_step_with_until_is_repeated_until_it_hears_it() -> None:
    script = [{"tool": "research", "until": "ready$"}, {"text": "done"}]
    again = answer(shown(script, told("not yet")))
    assert again.repeats
    assert again.calls[0].tool == TOOLS[0]
    assert answer(shown(script, told("not yet"), told("ready"))) == Say(text="done")


@pytest.mark.parametrize(
    ("script", "results", "words"),
    [
        ([{"tool": "absent"}], [], "not offered"),
        ([{"text": "<<ses_.*>>"}], [], "no tool answered"),
        ([{"tool": "research"}], [told("ok")], "asks for more"),
        ([{"tool": "research", "until": "never"}], [told("no")] * 100, "none matches"),
    ],
)
def test_a_script_that_cannot_be_played_is_refused_in_words(
    script: Any, results: list[ToolResult], words: str
) -> None:
    with pytest.raises(ScriptError, match=words):
        answer(shown(script, *results))


def test_a_request_without_a_script_gets_a_title() -> None:
    assert answer(Shown(system="", prompts=["hello"], tools=TOOLS, results=())).text == "A title"


@pytest.mark.parametrize("dialect", [anthropic, responses])
def test_an_answer_is_written_between_a_first_and_a_last_event(dialect: Any) -> None:
    say = Say(text="hm", calls=[Call(id="call_0_x", tool=TOOLS[0], args={"prompt": "x"})])
    events = list(dialect.write(say, "scripted", 1))
    assert events[0][0] in ("message_start", "response.created")
    assert events[-1][0] in ("message_stop", "response.completed")
    assert "mcp__lap__research" in json.dumps(events)


def test_results_before_the_newest_script_are_forgotten() -> None:
    old = {"type": "function_call_output", "call_id": "call_0_a", "output": "old"}
    new = {"type": "function_call_output", "call_id": "call_0_b", "output": "new"}
    prompt = {"type": "message", "role": "user", "content": "%%[]%%"}
    assert [r.text for r in responses.read({"input": [prompt, old, prompt, new]}).results] == [
        "new"
    ]
