"""The real Claude Code uses the real server: what its model is shown, call by call."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harnesses import claude_code
from tests.harnesses.pictures import DRAW, drawn
from tests.harnesses.surroundings import Surroundings
from tests.waiting import eventually

pytestmark = pytest.mark.harness

LOAD_RESEARCH = {"tool": "ToolSearch", "args": {"query": "select:mcp__lap__research"}}


def test_its_model_is_offered_the_core_tools_at_once(around: Surroundings) -> None:
    answer = claude_code.run(around, [{"text": "I have seen them"}])

    assert answer == "I have seen them"
    offered = {tool.name for tool in around.shown()[0].tools}
    assert {"mcp__lap__code_interpreter", "mcp__lap__get_session", "ToolSearch"} <= (offered)


def test_it_calls_an_agent_and_continues_the_session(around: Surroundings) -> None:
    answer = claude_code.run(
        around,
        [
            LOAD_RESEARCH,
            {"tool": "research", "args": {"prompt": "remember heron"}},
            {
                "tool": "research",
                "args": {"prompt": "recall", "session": "<<ses_[0-9a-f]{32}>>"},
            },
            {"text": "both in <<ses_[0-9a-f]{32}>>"},
        ],
    )

    first, second = around.shown()[-1].results[-2:]
    assert not first.is_error, first.text
    assert not second.is_error, second.text
    session = re.findall("ses_[0-9a-f]{32}", first.text)[-1]
    assert answer == f"both in {session}"
    assert session in second.text
    assert "heron" in second.text, "the agent did not get the second prompt in the same context"


@pytest.mark.docker
def test_it_runs_code_and_its_model_sees_the_picture(around: Surroundings) -> None:
    claude_code.run(
        around,
        [{"tool": "code_interpreter", "args": {"code": DRAW}, "until": "· ok"}, {"text": "seen"}],
    )

    result = around.shown()[-1].results[-1]
    assert not result.is_error, result.text
    assert [drawn(image) for image in result.images] == [True], result.text


def test_it_notices_an_agent_that_is_added_while_it_runs(around: Surroundings) -> None:
    script = [
        LOAD_RESEARCH,
        {"tool": "research", "args": {"prompt": "echo one"}},
        {
            "tool": "ToolSearch",
            "args": {"query": "select:mcp__lap__latecomer"},
            "until": "mcp__lap__latecomer",
        },
        {"tool": "latecomer", "args": {"prompt": "echo two"}},
        {"text": "welcome"},
    ]
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(claude_code.run, around, script)
        eventually(lambda: run.done() or _asked_for_latecomer(around))
        assert not run.done(), run.result()
        around.add_agent("latecomer")
        assert run.result() == "welcome"

    result = around.shown()[-1].results[-1]
    assert not result.is_error, result.text
    assert "ses_" in result.text


def _asked_for_latecomer(around: Surroundings) -> bool:
    """It looked for the agent once and was told that there is none."""
    return any("No matching" in r.text for request in around.shown() for r in request.results)
