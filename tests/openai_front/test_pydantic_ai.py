"""pydantic-ai, unmodified, running its own code-execution path against both faces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent, NativeToolCallPart, NativeToolReturnPart
from pydantic_ai.capabilities import NativeTool
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.native_tools import CodeExecutionTool
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.anthropic_front import messaging
from tests.anthropic_front import upstream as claude
from tests.openai_front.fronting import fronted
from tests.openai_front.model import Call, Code, Model, Say

pytestmark = pytest.mark.anyio


SENT_BACK: Any = {"openai_send_reasoning_ids": True}
"""Its way with models that it knows to reason: every item goes back, code calls too."""


def agent(model: Any) -> Any:
    made: Any = Agent(model, capabilities=[NativeTool(CodeExecutionTool())])

    @made.tool_plain
    def get_weather() -> str:
        return "sunny"

    return made


def native(messages: Any, kind: type[Any]) -> list[Any]:
    return [part for message in messages for part in message.parts if isinstance(part, kind)]


@pytest.mark.parametrize("api", ["responses", "chat"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_over_responses_with_a_tool_of_its_own_in_the_same_turn(
    tmp_path: Path, api: str, streamed: bool
) -> None:
    model = Model([Code("say 42"), Call("get_weather")], [Code("say 43")], [Say("done")])
    async with fronted(model, tmp_path, api=api) as f:
        provider = OpenAIProvider(openai_client=f.client())
        made = agent(OpenAIResponsesModel("gpt-test", provider=provider, settings=SENT_BACK))
        if streamed:
            async with made.run_stream("go") as run:
                output, messages = await run.get_output(), run.all_messages()
        else:
            ran = await made.run("go")
            output, messages = ran.output, ran.all_messages()
    assert output == "done"
    calls = native(messages, NativeToolCallPart)
    assert [call.args_as_dict()["code"] for call in calls] == ["say 42", "say 43"]
    assert len(native(messages, NativeToolReturnPart)) == 2
    assert "sunny" in json.dumps(model.asked[1])
    assert len(f.launcher.sandboxes) == 1


async def test_over_responses_its_history_goes_on_in_the_same_container(tmp_path: Path) -> None:
    model = Model([Code("say one")], [Say("1")], [Code("say two")], [Say("2")])
    async with fronted(model, tmp_path) as f:
        provider = OpenAIProvider(openai_client=f.client())
        made = agent(OpenAIResponsesModel("gpt-test", provider=provider, settings=SENT_BACK))
        first = await made.run("one")
        second = await made.run("two", message_history=first.all_messages())
    assert second.output == "2"
    assert "one" in json.dumps(model.asked[2])
    assert len(f.launcher.sandboxes) == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_over_messages_its_history_goes_on(tmp_path: Path, streamed: bool) -> None:
    upstream = claude.Upstream(
        [claude.bash("ls"), claude.Call("get_weather", {})],
        [claude.Say("42")],
        [claude.bash("ls"), claude.edit("create", "a.txt", file_text="x")],
        [claude.Say("43")],
    )
    async with messaging.serving(upstream, tmp_path) as f:
        provider = AnthropicProvider(anthropic_client=f.client())
        made = agent(AnthropicModel("claude-test", provider=provider))
        first = await made.run("go")
        assert first.output == "42"
        history = first.all_messages()
        if streamed:
            async with made.run_stream("on", message_history=history) as run:
                output, messages = await run.get_output(), run.all_messages()
        else:
            ran = await made.run("on", message_history=history)
            output, messages = ran.output, ran.all_messages()
    assert output == "43"
    assert len(native(messages, NativeToolReturnPart)) == 3
    assert "sunny" in json.dumps(upstream.asked[1])
    assert len(f.launcher.sandboxes) <= 2
