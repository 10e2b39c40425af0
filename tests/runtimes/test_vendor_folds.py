"""What a vendor may send in place of what it should: any JSON under any of its event names.  A fold
gives events, or says that this is not its protocol; nothing else may come of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lap_runtimes.base import MAX_REF_BYTES, Done, Event
from lap_runtimes.cursor_fold import RunFold as CursorFold
from lap_runtimes.elastic_fold import RoundFold
from lap_runtimes.errors import ProtocolError, Rejected
from lap_runtimes.n8n_fold import AnswerFold
from lap_runtimes.n8n_waits import question
from lap_runtimes.snowflake_fold import RunFold as SnowflakeFold

KEYS = [
    "text", "status", "result", "git", "branches", "callId", "name", "args", "data", "round",
    "response", "message", "steps", "type", "id", "content", "content_index",
    "sequence_number", "metadata", "run_id", "message_id", "usage", "tokens_consumed",
    "tool_use_id", "permission", "options", "grant_options", "verdict", "is_elicitation",
    "result_set", "resultSetMetaData", "rowType", "chart_spec", "path", "prompt", "source",
    "questions", "pending_prompts", "attachments", "versions", "current_version",
    "model_usage", "reasoning", "tool_call_id", "tool_id", "params", "results", "error",
    "code", "meta", "conversation_id", "nodeId", "runData", "resultData", "lastNodeExecuted",
    "main", "json", "nodes", "parameters", "formFields", "values", "workflowData",
]  # fmt: skip
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
plain |= st.sampled_from(["running", "completed", "awaiting_prompt", "tool_call", "begin", "form"])
anything = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=12,
)
NAMES = {
    "cursor": "assistant thinking tool_call result status error done heartbeat other",
    "elastic": "message_chunk message_complete reasoning tool_call tool_result prompt_request "
    "round_complete conversation_created conversation_id_set error other",
    "snowflake": "response response.text response.text.delta response.thinking.delta metadata "
    "error response.tool_use response.tool_result response.table response.chart response.asset x",
}


def check(events: list[Event]) -> None:
    assert sum(isinstance(event, Done) for event in events) <= 1
    assert not [e for e in events[:-1] if isinstance(e, Done)]
    for event in events:
        if event.ref is not None:
            assert len(json.dumps(event.ref)) <= MAX_REF_BYTES


@pytest.mark.parametrize("kind", ["cursor", "elastic", "snowflake"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_fold_survives_whatever_comes(kind: str, data: Any) -> None:
    names = st.sampled_from(NAMES[kind].split())
    frames = data.draw(st.lists(st.tuples(names, anything), max_size=6))
    fold: Any = {
        "cursor": lambda: CursorFold({"agent": "a", "run": "r"}),
        "elastic": lambda: RoundFold({"turn": "t"}),
        "snowflake": lambda: SnowflakeFold({"turn": "t", "thread": 1}),
    }[kind]()
    events: list[Event] = []
    try:
        for name, body in frames:
            if fold.finished:
                break
            told = json.dumps(body)
            events += fold.feed(name, "1", told) if kind == "cursor" else fold.feed(name, told)
    except ProtocolError:
        return
    check(events)


@settings(max_examples=150, deadline=None)
@given(lines=st.lists(anything, max_size=6), found=st.dictionaries(st.sampled_from(KEYS), anything))
def test_an_answer_and_an_execution_of_n8n_survive_too(lines: list[Any], found: Any) -> None:
    fold = AnswerFold("t", {"turn": "t"})
    events: list[Event] = []
    for line in lines:
        if not fold.finished:
            events += fold.feed(json.dumps(line))
    check(events + fold.end())
    try:
        check(AnswerFold("t", {}).execution({**found, "status": "success"}))
        question(found)
    except (ProtocolError, Rejected):
        return


LONG = [f"option {number} " + "x" * 100 for number in range(100)]


def test_questions_that_a_ref_cannot_hold_fail_the_turn() -> None:
    snowflake, elastic = SnowflakeFold({"turn": "t", "run": "1-2"}), RoundFold({"turn": "t"})
    use = {"tool_use_id": "u", "name": "bash", "permission": {"options": LONG}, "content_index": 0}
    asked = snowflake.feed("response.tool_use", json.dumps({**use, "sequence_number": 1}))
    asked += snowflake.feed("response", json.dumps({"status": "completed"}))
    options = [{"label": label} for label in LONG]
    prompt = {"type": "ask_user_question", "id": "p", "questions": [{"options": options}]}
    kept = {"id": "r", "status": "awaiting_prompt", "pending_prompts": [prompt]}
    waits = elastic.feed("round_complete", json.dumps({"data": {"round": kept}})) + elastic.end()
    for events in (asked, waits):
        check(events)
        assert isinstance(events[-1], Done)
        assert events[-1].outcome == "failed"
        assert "more than can be kept" in (events[-1].error or "")
