"""The example agent runs as its documentation says."""

from __future__ import annotations

import subprocess
import sys

import pytest
from lap_runtimes.a2a import A2AConfig, A2ARuntime
from lap_runtimes.base import Message

from tests.capabilities import ROOT
from tests.processes import Processes
from tests.runtimes.cases import example_agent
from tests.runtimes.conftest import MakeTurn

pytestmark = pytest.mark.anyio


async def test_it_serves_and_ends_when_its_standard_input_does(
    started: Processes, make_turn: MakeTurn
) -> None:
    command = [sys.executable, ROOT / "examples" / "a2a_agent.py", "--port", "0", "--with-stdin"]
    process = started.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    url = process.stdout.readline().decode().split()[-1]
    runtime = A2ARuntime(A2AConfig(url=url))
    try:
        (agent,) = await runtime.agents()
        assert agent.name == "Example agent"
        assert all(skill in agent.description for skill in example_agent().SKILLS)
        async with runtime.start(make_turn("hello you")) as events:
            texts = [event.text async for event in events if isinstance(event, Message)]
        assert texts == ["[1] hello you"]
    finally:
        await runtime.aclose()
    process.stdin.close()
    assert process.wait(10) == 0
