"""What only a real n8n can show: which address and signature a wait has.  Run by `run`."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from lap_runtimes.base import Answer, Answers, Prompt, Turn
from lap_runtimes.n8n import N8nRuntime

from tests.runtimes.vendors import done, questions, read, texts

URL = os.environ.get("LAP_TEST_N8N_URL", "")
KEY = os.environ.get("LAP_TEST_N8N_KEY", "")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.tier2,
    pytest.mark.skipif(not URL, reason="no n8n runs; tests/vendors/n8n/run starts one"),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("path", "answer", "got"),
    [
        ("waits-for-call", {"text": "blue"}, {"text": "blue"}),
        (
            "waits-for-form",
            {"data": {"Why": "it is fine", "Decision": "yes"}},
            {"Decision": "yes", "Why": "it is fine"},
        ),
    ],
)
async def test_a_workflow_that_waits_is_answered(path: str, answer: Any, got: Any) -> None:
    made = {"url": URL, "auth": {"bearer": "env:KEY"}, "stream": False, "waits": True}
    context = {"resolve_secret": lambda reference: KEY}
    runtime = N8nRuntime(N8nRuntime.Config.model_validate(made, context=context))
    session = f"ses_{os.urandom(16).hex()}"

    def turn(given: Any, ref: Any = None) -> Turn:
        return Turn(
            id=f"trn_{os.urandom(16).hex()}",
            session_id=session,
            agent=f"webhook/{path}",
            input=given,
            ref=ref or {},
        )

    try:
        asked = await read(runtime.start(turn(Prompt(text="hello"))))
        (question,) = questions(asked)
        given = Answers(answers=[Answer(question_id=question.id, **answer)])
        events = await read(runtime.start(turn(given, done(asked).ref)))
    finally:
        await runtime.aclose()
    said = json.loads(texts(events)[0])
    assert {key: said[key] for key in got} == got
    assert done(events).outcome == "completed"
