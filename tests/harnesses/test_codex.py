"""The real Codex uses the real server: what its model is shown, call by call."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.harnesses import codex
from tests.harnesses.pictures import DRAW, drawn
from tests.harnesses.surroundings import Surroundings

pytestmark = pytest.mark.harness


def test_its_model_is_offered_our_tools_in_their_namespace(
    around: Surroundings, codex_home: Path
) -> None:
    answer = codex.run(around, codex_home, [{"text": "I have seen them"}])

    assert answer == "I have seen them"
    offered = {tool.name for tool in around.shown()[0].tools if tool.namespace == "mcp__lap"}
    assert {"code_interpreter", "get_session", "lap_status", "research"} <= offered


def test_it_calls_an_agent_and_continues_the_session(
    around: Surroundings, codex_home: Path
) -> None:
    answer = codex.run(
        around,
        codex_home,
        [
            {"tool": "research", "args": {"prompt": "remember heron"}},
            {
                "tool": "research",
                "args": {"prompt": "recall", "session": "<<ses_[0-9a-f]{32}>>"},
            },
            {"text": "both in <<ses_[0-9a-f]{32}>>"},
        ],
    )

    first, second = around.shown()[-1].results[-2:]
    session = re.findall("ses_[0-9a-f]{32}", first.text)[-1]
    assert answer == f"both in {session}"
    assert session in second.text
    assert "heron" in second.text, "the agent did not get the second prompt in the same context"


@pytest.mark.docker
def test_it_runs_code_and_its_model_sees_the_picture(
    around: Surroundings, codex_home: Path
) -> None:
    codex.run(
        around,
        codex_home,
        [{"tool": "code_interpreter", "args": {"code": DRAW}, "until": "· ok"}, {"text": "seen"}],
    )

    result = around.shown()[-1].results[-1]
    assert [drawn(image) for image in result.images] == [True], result.text
