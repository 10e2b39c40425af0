"""Questions of agents: asked where the client can ask a person, worded where it cannot."""

from __future__ import annotations

from typing import Any

import mcp.types as t
import pytest
from mcp.shared.exceptions import MCPError

from lap_mcp.control.services import NewAnswer
from tests.mcp.scripted import Stage, World
from tests.mcp.serving import ALICE, BOB_KEY, MODES, Mode, last_line, served, session_of, text

pytestmark = pytest.mark.anyio
both_eras = pytest.mark.parametrize("mode", MODES)


class Person:
    """Answers what the client is asked, and remembers it."""

    def __init__(self, action: Any = "accept", **content: Any) -> None:
        self.action = action
        self.content = content
        self.asked: list[Any] = []

    async def __call__(self, context: Any, params: Any) -> t.ElicitResult:
        self.asked.append(params)
        content = self.content if self.action == "accept" else None
        return t.ElicitResult(action=self.action, content=content)


@both_eras
@pytest.mark.parametrize("decision", ["allow", "deny"])
async def test_an_approval_is_put_to_a_person_and_the_same_turn_goes_on(
    mode: Mode, decision: str
) -> None:
    person = Person(decision=decision)
    async with served() as s, s.client(mode, elicitation_callback=person) as client:
        result = await client.call_tool("careful", {"prompt": "x"})
        assert f"Decision: {decision}" in text(result)
        assert len(s.world.sessions.prompts) == 1
        assert list(s.world.sessions.answered_by.values()) == ["person"]
        (asked,) = person.asked
        assert "May I delete it?" in asked.message
        assert "rm" in asked.message
        assert "title" not in asked.requested_schema
        assert asked.requested_schema["properties"]["decision"]["enum"] == ["allow", "deny"]


@both_eras
@pytest.mark.parametrize("action", ["decline", "cancel", "accept"])
async def test_whatever_is_no_explicit_accept_leaves_the_approval_open(
    mode: Mode, action: str
) -> None:
    """An `accept` without a decision is none either."""
    person = Person(action)
    async with served() as s, s.client(mode, elicitation_callback=person) as client:
        result = await client.call_tool("careful", {"prompt": "x"})
        assert "requires_action" in last_line(result)
        assert "lap-mcp questions allow qst_" in text(result)
        assert not result.is_error
        assert len(await s.world.sessions.questions(ALICE)) == 1
        assert s.world.sessions.answers == {}
        assert len(s.world.sessions.prompts) == 1


@both_eras
async def test_a_client_that_cannot_ask_is_told_who_may_answer_and_how(mode: Mode) -> None:
    async with served() as s, s.client(mode) as client:
        approval = await client.call_tool("careful", {"prompt": "x"})
        assert "Only a person may decide this" in text(approval)
        asked = await client.call_tool("curious", {"prompt": "x"})
        assert "Which colour?" in text(asked)
        assert "Answer with answer_question" in text(asked)


@both_eras
async def test_an_input_is_answered_by_the_person_with_text(mode: Mode) -> None:
    async with (
        served() as s,
        s.client(mode, elicitation_callback=Person(answer="green")) as client,
    ):
        assert "Colour: green" in text(await client.call_tool("curious", {"prompt": "x"}))


async def test_a_form_follows_the_schema_of_the_question_and_options_are_choices() -> None:
    world = World()
    schema = {
        "title": "Trip",
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    }

    async def planner(stage: Stage) -> None:
        answers = await stage.ask_all(
            [
                {"text": "Where?", "kind": "input", "schema": schema},
                {"text": "How?", "options": ["by train", "by\u202e plane"]},
            ]
        )
        await stage.message(f"{answers[0].data} {answers[1].option!r}")

    world.registry.add("planner", planner)
    person = Person(city="Rome", days=2, decision="allow", option="by plane")
    async with served(world) as s, s.client(elicitation_callback=person) as client:
        result = await client.call_tool("planner", {"prompt": "x"})
        first, second = sorted(person.asked, key=lambda params: "How?" in params.message)
        assert set(first.requested_schema["properties"]) == {"city", "days"}
        assert "title" not in first.requested_schema
        assert second.requested_schema["properties"]["option"]["enum"] == ["by train", "by plane"]
        answers = [s.world.sessions.answers[q] for q in s.world.sessions.open_questions]
        assert answers[0].data is not None
        assert answers[0].data["city"] == "Rome"
        assert answers[1].decision == "allow"
        assert answers[1].option == "by\u202e plane"
        assert "Rome" in text(result)


async def test_signing_in_is_an_address_to_visit_and_is_never_put_into_a_form() -> None:
    world = World()

    async def guarded(stage: Stage) -> None:
        answer = await stage.ask("Sign in.", kind="auth", url="https://login.example/x")
        await stage.message(f"Went on after: {answer.text}")

    world.registry.add("guarded", guarded)
    person = Person()
    async with served(world) as s, s.client(elicitation_callback=person) as client:
        assert "Went on after" in text(await client.call_tool("guarded", {"prompt": "x"}))
        assert [params.url for params in person.asked] == ["https://login.example/x"]
    async with served(world) as s, s.client() as client:
        told = text(await client.call_tool("guarded", {"prompt": "x"}))
        assert "https://login.example/x" in told
        assert "lap-mcp questions answer qst_" in told


async def test_a_turn_may_ask_twice() -> None:
    world = World()

    async def twice(stage: Stage) -> None:
        one = await stage.ask("One?")
        two = await stage.ask("Two?")
        await stage.message(f"{one.decision} {two.decision}")

    world.registry.add("twice", twice)
    person = Person(decision="allow")
    async with served(world) as s, s.client(elicitation_callback=person) as client:
        assert "allow allow" in text(await client.call_tool("twice", {"prompt": "x"}))
        assert len(person.asked) == 2
        assert len(s.world.sessions.prompts) == 1


async def test_the_state_of_a_question_cannot_be_forged_or_used_for_another_call() -> None:
    person = Person()
    async with (
        served() as s,
        s.client(elicitation_callback=person) as client,
        s.client(key=BOB_KEY, elicitation_callback=person) as bob,
    ):
        asked = await _call(client, "careful")
        assert isinstance(asked, t.InputRequiredResult)
        state = asked.request_state or ""
        assert "ses_" not in state
        key = next(iter(asked.input_requests or {}))
        accepted = {key: t.ElicitResult(action="accept", content={"decision": "allow"})}
        for who, name, given in (
            (client, "careful", state[:-4] + "AAAA"),
            (client, "trusting", state),
            (bob, "careful", state),
        ):
            with pytest.raises(MCPError, match="requestState"):
                await _call(who, name, request_state=given, input_responses=accepted)
        assert s.world.sessions.answers == {}
        assert len(s.world.sessions.prompts) == 1
        done = await _call(client, "careful", request_state=state, input_responses=accepted)
        assert "Decision: allow" in text(done)
        assert len(s.world.sessions.prompts) == 1


async def _call(client: Any, name: str, **answer: Any) -> Any:
    """One leg of a call; the client does not answer by itself."""
    return await client.session.call_tool(
        name, {"prompt": "x"}, allow_input_required=True, **answer
    )


async def test_a_model_answers_inputs_always_and_approvals_where_it_may() -> None:
    async with served() as s, s.client() as client:
        for agent, arguments, words in (
            ("curious", {"text": "blue"}, "Colour: blue"),
            ("trusting", {"decision": "allow"}, "Decision: allow"),
        ):
            asked = await client.call_tool(agent, {"prompt": "x"})
            question = _question_of(asked)
            done = await client.call_tool("answer_question", {"question": question, **arguments})
            assert words in text(done)
            assert session_of(done) == session_of(asked)
            assert s.world.sessions.answered_by[question] == "model"
            again = await client.call_tool("answer_question", {"question": question, **arguments})
            assert again.is_error
            assert "answered already" in text(again)
        careful = _question_of(await client.call_tool("careful", {"prompt": "x"}))
        refused = await client.call_tool(
            "answer_question", {"question": careful, "decision": "allow"}
        )
        assert refused.is_error
        assert "Only a person" in text(refused)
        assert careful not in s.world.sessions.answers


async def test_a_call_from_inside_an_agents_session_never_answers() -> None:
    person = Person(decision="allow")
    async with (
        served(chain=("outer",)) as s,
        s.client(elicitation_callback=person) as client,
    ):
        asked = await client.call_tool("careful", {"prompt": "x"})
        assert "requires_action" in last_line(asked)
        assert person.asked == []
        inner = _question_of(await client.call_tool("curious", {"prompt": "x"}))
        refused = await client.call_tool("answer_question", {"question": inner, "text": "x"})
        assert refused.is_error
        assert s.world.sessions.prompts[0][0].chain == ("outer",)


async def test_somebody_elses_question_is_as_good_as_missing() -> None:
    async with served() as s, s.client() as alice, s.client(key=BOB_KEY) as bob:
        question = _question_of(await alice.call_tool("curious", {"prompt": "x"}))
        refused = await bob.call_tool("answer_question", {"question": question, "text": "x"})
        assert refused.is_error
        assert "There is no question" in text(refused)
        assert s.world.sessions.answers == {}


async def test_get_session_shows_the_open_question_and_its_answer_elsewhere() -> None:
    async with served() as s, s.client() as client:
        asked = await client.call_tool("careful", {"prompt": "x"})
        session = session_of(asked)
        shown = await client.call_tool("get_session", {"session": session, "wait_s": 5})
        (question,) = shown.structured_content["questions"]
        assert question["kind"] == "approval"
        assert question["id"] in text(shown)
        await s.world.sessions.answer(ALICE, question["id"], NewAnswer(decision="deny"), by="cli")
        done = await client.call_tool("get_session", {"session": session, "wait_s": 5})
        assert "Decision: deny" in text(done)


def _question_of(result: t.CallToolResult) -> str:
    return next(
        word.strip('".)') for word in text(result).split() if word.strip('".)').startswith("qst_")
    )
