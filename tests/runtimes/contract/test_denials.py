"""Every kind of question that an adapter passes on, answered with yes and with no.

`ASKED` says what the agent hears of a no.  Where a runtime has none for a kind of question, the
answer is refused before anything is sent, in words that say what to do instead."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import pytest
from lap_runtimes.base import Answer, Asked, Done, Event, Question, Runtime
from lap_runtimes.errors import RuntimeFailure

from tests.runtimes.bench import Case
from tests.runtimes.cases import CASES
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.reading import last_ref, questions, read, texts

pytestmark = pytest.mark.anyio

SECONDS = 60
REASON = "not on my machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    prompt: str
    kind: str
    yes: str
    """In what the agent says after a yes, which is the text `blue` where a text is asked for."""
    no: str
    """The same after a no, whose reason is `REASON`."""
    refused: tuple[str, ...] = ()
    """`yes` or `no`: the runtime has no such answer, and that field holds the words of the
    refusal."""


_APPROVAL = {"kind": "approval", "yes": "allowed"}
_TOOL = {"kind": "tool_result", "yes": "blue", "no": f"The call was declined. {REASON}"}
_TEXT = {"kind": "input", "yes": "blue", "no": f"The question was declined. {REASON}"}
_DENIED = {**_APPROVAL, "no": "denied"}

_A2A = (
    Row(prompt="ask color?", **_TEXT),
    Row(prompt="login", **{**_TEXT, "kind": "auth"}),
)
_RESPONSES = (Row(prompt="ask /etc/passwd", **_DENIED), Row(prompt="call lookup", **_TOOL))
_AGENTS = (
    Row(prompt="ask /etc/passwd", **_DENIED),
    Row(prompt="call lookup", **_TOOL),
    Row(prompt="browse https://a.example", kind="approval", yes="approve", no="deny"),
    Row(
        prompt="browse login",
        kind="auth",
        yes="sign in at the vendor's own page",
        no="cancel",
        refused=("yes",),
    ),
)
_ELASTIC = (
    Row(prompt="ask logs-2024", **_DENIED),
    Row(prompt="login jira", kind="auth", yes='"authorized": true', no='"authorized": false'),
    Row(prompt="choose", kind="input", yes='"custom": "blue"', no='"skipped": true'),
)
_LANGGRAPH = (
    Row(prompt="ask color?", **_TEXT),
    Row(prompt="allow x", **_APPROVAL, no=f"'message': '{REASON}'"),
)
_MCP = (Row(prompt="ask which color?", kind="input", yes="the color is blue", no="you decline it"),)
_MLFLOW = (Row(prompt="ask /etc/passwd", **_DENIED),)

ASKED: dict[str, tuple[Row, ...]] = {
    "a2a": _A2A,
    "acp": (Row(prompt="ask /etc/passwd", **_DENIED),),
    "agentcore-harness": (Row(prompt="ask color?", **_TOOL),),
    "claude_managed_agents": (
        Row(prompt="ask /etc/passwd", **_APPROVAL, no=f"denied: {REASON}"),
        Row(prompt="call lookup", **_TOOL),
    ),
    "databricks": _MLFLOW,
    "databricks-durable": (Row(prompt="ask /etc/passwd", **_APPROVAL, no=REASON),),
    "elastic": _ELASTIC,
    "gemini": (Row(prompt="ask lookup", **_TOOL),),
    "langgraph": _LANGGRAPH,
    "litellm": _A2A,
    "litellm_agent_platform": (Row(prompt="ask /etc/passwd", **_APPROVAL, no=f"denied: {REASON}"),),
    "mcp": _MCP,
    "n8n-webhook": (
        Row(prompt="call POST", kind="input", yes='"text": "blue"', no='"decision": "deny"'),
        Row(
            prompt="ask colour",
            kind="input",
            yes="blue",
            no="a form cannot be declined; cancel instead",
            refused=("no",),
        ),
    ),
    "openai_agents": _AGENTS,
    "openai_responses": _RESPONSES,
    "opencode": (
        Row(prompt="ask rm -rf", **_DENIED),
        Row(prompt="choose color?", kind="input", yes="you chose blue", no="you chose nothing"),
    ),
    "snowflake": (
        Row(prompt="ask rm", **_APPROVAL, no=f"denied {REASON}"),
        Row(prompt="call lookup", **_TOOL),
        Row(prompt="elicit color?", kind="input", yes="blue", no=f"I decline to answer.\n{REASON}"),
    ),
}
"""By kind, or by case where only one of its configurations asks."""

SILENT = ("databricks-resend", "responses-resend")
"""What keeps nothing cannot be answered."""


def rows_of(case: Case) -> tuple[Row, ...]:
    return () if case.id in SILENT else ASKED.get(case.id, ASKED.get(case.kind, ()))


EVERY = [
    pytest.param(case, row, id=f"{case.id}-{row.prompt.replace(' ', '-')}")
    for case in CASES
    for row in rows_of(case)
]


async def test_every_adapter_that_claims_answers_has_rows(make_turn: MakeTurn) -> None:
    having = {parameters.values[0].id for parameters in EVERY}  # type: ignore[attr-defined]
    for case in CASES:
        async with case.bench() as bench:
            claims = bench.runtime.capabilities.answer != "none"
        assert claims == (case.id in having), case.id
        rows = rows_of(case)
        assert case.ask is None or case.ask_kind in {row.kind for row in rows}


async def asked_and_answered(
    runtime: Runtime, make_turn: MakeTurn, row: Row, decision: str
) -> list[Event]:
    """What comes after the answer, which is given to every question at once."""

    def answer(question: Question) -> Answer:
        text = "blue" if decision == "allow" else REASON
        return Answer(question_id=question.id, decision=decision, text=text)  # type: ignore[arg-type]

    if runtime.capabilities.answer == "resume":
        first = await read(runtime.start(make_turn(row.prompt)))
        found = questions(first)
        assert found
        assert {question.kind for question in found} == {row.kind}
        answers = [answer(question) for question in found]
        return await read(runtime.start(make_turn(answers=answers, ref=last_ref(first))))
    seen: list[Event] = []
    async with runtime.start(make_turn(row.prompt)) as events:
        async for event in events:
            seen.append(event)
            if isinstance(event, Asked):
                assert event.question.kind == row.kind
                await runtime.answer(last_ref(seen), answer(event.question))
    assert questions(seen)
    return seen


@pytest.mark.parametrize("decision", ["allow", "deny"])
@pytest.mark.parametrize(("case", "row"), EVERY)
async def test_yes_and_no_reach_the_agent_or_are_refused_in_words(
    case: Case, row: Row, decision: str, make_turn: MakeTurn
) -> None:
    yes = decision == "allow"
    async with case.bench() as bench:
        with anyio.fail_after(SECONDS):
            if ("yes" if yes else "no") in row.refused:
                with pytest.raises(RuntimeFailure) as failure:
                    await asked_and_answered(bench.runtime, make_turn, row, decision)
                assert (row.yes if yes else row.no) in failure.value.message
                assert not failure.value.sent
                return
            events = await asked_and_answered(bench.runtime, make_turn, row, decision)
    done = events[-1]
    assert isinstance(done, Done)
    assert done.outcome == "completed"
    said = "\n".join(texts(events))
    assert (row.yes if yes else row.no) in said
    if row.kind == "approval" and not yes:
        assert "allowed" not in said
