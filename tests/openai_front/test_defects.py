"""The thirteen measured defects of another interception (LiteLLM 1.109.1), the right way round.

Over both kinds of upstream: one that speaks Responses, one that speaks Chat Completions only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from lap_sandbox.errors import LauncherUnavailable
from lap_sandbox.testing import ScriptedLauncher

from tests.openai_front.fronting import TOOL, fronted, language
from tests.openai_front.model import Call, Code, Model, Say

pytestmark = pytest.mark.anyio

APIS = pytest.mark.parametrize("api", ["responses", "chat"])
OUTPUTS: list[Any] = ["code_interpreter_call.outputs"]
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {}},
}


def logs(item: Any) -> str:
    return "".join(each.logs for each in item.outputs if each.type == "logs")


def told(asked: dict[str, Any]) -> list[str]:
    """What a round's request tells the model that code did."""
    if "messages" in asked:
        return [m["content"] for m in asked["messages"] if m["role"] == "tool"]
    found = []
    for item in asked["input"]:
        if item.get("type") == "function_call_output":
            output = item["output"]
            found.append(output if isinstance(output, str) else output[0]["text"])
    return found


@APIS
async def test_1_two_code_steps_come_back_in_the_order_in_which_they_ran(
    tmp_path: Path, api: str
) -> None:
    model = Model([Code("say a=1")], [Code("say print(a)")], [Say("done")])
    async with fronted(model, tmp_path, api=api) as f:
        answer = await f.client().responses.create(model="gpt-test", input="go", tools=[TOOL])
    assert [getattr(item, "code", item.type) for item in answer.output] == [
        "say a=1",
        "say print(a)",
        "message",
    ]
    assert f.launcher.sandboxes[0].executed == ["say a=1", "say print(a)"]


@APIS
async def test_2_a_model_that_keeps_calling_code_ends_as_incomplete_and_leaks_nothing(
    tmp_path: Path, api: str
) -> None:
    model = Model([Code("say on and on")], endless=True)
    async with fronted(model, tmp_path, api=api, settings={"rounds": 5}) as f:
        answer = await f.client().responses.create(model="gpt-test", input="go", tools=[TOOL])
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert [item.type for item in answer.output] == ["code_interpreter_call"] * 5
    assert len(model.asked) == 5


@APIS
async def test_3_a_model_that_repeats_identical_code_gets_each_result(
    tmp_path: Path, api: str
) -> None:
    model = Model([Code("say same")], [Code("say same")], [Say("twice")])
    async with fronted(model, tmp_path, api=api) as f:
        answer = await f.client().responses.create(
            model="gpt-test", input="go", tools=[TOOL], include=OUTPUTS
        )
    assert answer.status == "completed"
    assert [logs(item) for item in answer.output[:2]] == ["same", "same"]
    assert told(model.asked[2]) == ["same", "same"]


@APIS
async def test_4_a_sandbox_that_cannot_be_created_is_told_to_model_and_client(
    tmp_path: Path, api: str
) -> None:
    launcher = ScriptedLauncher(language)
    launcher.unavailable = LauncherUnavailable("No engine answers.", remedy="Start Docker.")
    model = Model([Code("say hi")], [Say("I could not run it")])
    async with fronted(model, tmp_path, api=api, launcher=launcher) as f:
        answer = await f.client().responses.create(
            model="gpt-test", input="go", tools=[TOOL], include=OUTPUTS
        )
    call: Any = answer.output[0]
    assert call.type == "code_interpreter_call"
    assert call.status == "failed"
    assert "No engine answers. Start Docker." in logs(call)
    assert "No engine answers. Start Docker." in told(model.asked[1])[0]
    assert answer.output_text == "I could not run it"


@APIS
async def test_5_an_execution_that_breaks_is_told_and_the_next_one_has_a_new_sandbox(
    tmp_path: Path, api: str
) -> None:
    model = Model([Code("die")], [Code("say again")], [Say("ok")])
    async with fronted(model, tmp_path, api=api) as f:
        answer = await f.client().responses.create(
            model="gpt-test", input="go", tools=[TOOL], include=OUTPUTS
        )
    broken, again = answer.output[0], answer.output[1]
    assert broken.type == again.type == "code_interpreter_call"
    assert broken.status == "failed"
    assert again.status == "completed"
    assert logs(again) == "again"
    assert len(f.launcher.sandboxes) == 2


@APIS
async def test_6_output_before_an_exception_standard_error_and_traceback_are_all_there(
    tmp_path: Path, api: str
) -> None:
    model = Model([Code("say before\nerr careful\nraise boom")], [Say("it failed")])
    async with fronted(model, tmp_path, api=api) as f:
        answer = await f.client().responses.create(
            model="gpt-test", input="go", tools=[TOOL], include=OUTPUTS
        )
    for text in (logs(answer.output[0]), told(model.asked[1])[0]):
        assert "before" in text
        assert "careful" in text
        assert "Traceback (most recent call last):\nValueError: boom" in text
    assert getattr(answer.output[0], "status", "") == "completed"


@APIS
async def test_7_the_value_of_an_expression_and_a_figure_reach_client_and_model(
    tmp_path: Path, api: str
) -> None:
    model = Model([Code("value 42\nplot")], [Say("look")])
    async with fronted(model, tmp_path, api=api, table={"images": True}) as f:
        answer = await f.client().responses.create(
            model="gpt-test", input="go", tools=[TOOL], include=OUTPUTS
        )
    call: Any = answer.output[0]
    assert [each.type for each in call.outputs] == ["image", "logs"]
    assert call.outputs[0].url.startswith("data:image/png;base64,iVBOR")
    assert logs(call) == "42"
    assert told(model.asked[1])[0].startswith("42")
    assert "data:image/png;base64,iVBOR" in str(model.asked[1])


@APIS
async def test_8_the_clients_function_in_the_same_turn_is_returned_and_code_still_runs(
    tmp_path: Path, api: str
) -> None:
    model = Model([Code("say ran"), Call("get_weather")], [Say("sunny, and it ran")])
    async with fronted(model, tmp_path, api=api) as f:
        client = f.client()
        first = await client.responses.create(model="gpt-test", input="go", tools=[TOOL, WEATHER])
        assert [item.type for item in first.output] == ["code_interpreter_call", "function_call"]
        call: Any = first.output[1]
        assert call.name == "get_weather"
        assert len(model.asked) == 1
        second = await client.responses.create(
            model="gpt-test",
            previous_response_id=first.id,
            input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sun"}],
            tools=[TOOL, WEATHER],
        )
    assert second.output_text == "sunny, and it ran"
    assert told(model.asked[1]) == ["ran", "sun"]


@APIS
async def test_9_usage_is_the_sum_of_all_rounds_with_its_details(tmp_path: Path, api: str) -> None:
    model = Model([Code("say 1")], [Code("say 2")], [Say("done")])
    async with fronted(model, tmp_path, api=api) as f:
        answer = await f.client().responses.create(model="gpt-test", input="go", tools=[TOOL])
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (30, 15)
    assert answer.usage.total_tokens == 45
    assert answer.usage.input_tokens_details.cached_tokens == 6
    if api == "responses":
        assert answer.usage.output_tokens_details.reasoning_tokens == 9


@APIS
async def test_10_a_stream_comes_while_the_model_writes_with_the_events_of_the_tool(
    tmp_path: Path, api: str
) -> None:
    """The code's first delta is there while the code has not run."""
    model = Model([Code("forever")])
    kinds: list[str] = []
    async with fronted(model, tmp_path, api=api) as f:
        stream = await f.client().responses.create(
            model="gpt-test", input="go", tools=[TOOL], stream=True
        )
        async with stream:
            with anyio.fail_after(20):
                async for event in stream:
                    kinds.append(event.type)
                    if event.type == "response.code_interpreter_call.interpreting":
                        break
    start = ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[:4] == [*start, "response.code_interpreter_call.in_progress"]
    assert kinds.count("response.code_interpreter_call_code.delta") > 1


@APIS
async def test_11_code_that_ran_is_visible_in_chat_completions(tmp_path: Path, api: str) -> None:
    model = Model([Code("say hi\nwrite a.csv 1")], [Say("done")])
    async with fronted(model, tmp_path, api=api) as f:
        answer = await f.client().chat.completions.create(
            model="gpt-test",
            messages=[{"role": "user", "content": "go"}],
            tools=[TOOL],  # type: ignore[list-item]
        )
    message: Any = answer.choices[0].message
    assert message.content == "done"
    assert answer.choices[0].finish_reason == "stop"
    (call,) = message.code_interpreter_calls
    assert call["code"] == "say hi\nwrite a.csv 1"
    assert call["outputs"] == [{"type": "logs", "logs": "hi"}]
    assert call["files"][0]["filename"] == "a.csv"


async def test_12_concurrent_requests_on_one_container_share_one_sandbox(tmp_path: Path) -> None:
    model = Model(*[[Code(f"say {n}")] for n in range(5)], *[[Say("ok")]] * 5)
    async with fronted(model, tmp_path) as f:
        client = f.client()
        container = await client.containers.create(name="shared")
        tool: Any = {"type": "code_interpreter", "container": container.id}

        async def ask() -> None:
            await client.responses.create(model="gpt-test", input="go", tools=[tool])

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
        assert len(f.launcher.sandboxes) == 1
        assert len(f.launcher.sandboxes[0].executed) == 5
        await client.containers.delete(container.id)
        assert not f.launcher.sandboxes[0].alive


@APIS
async def test_13_calls_of_one_turn_run_in_order_and_the_first_while_the_model_still_writes(
    tmp_path: Path, api: str
) -> None:
    """They share one interpreter, so one may need what another made; time is saved by not waiting
    for the end of the turn."""
    model = Model([Code("say 1"), Code("say 2"), Code("forever")])
    async with fronted(model, tmp_path, api=api) as f:
        stream = await f.client().responses.create(
            model="gpt-test", input="go", tools=[TOOL], stream=True
        )
        done: list[str] = []
        async with stream:
            with anyio.fail_after(20):
                async for event in stream:
                    if event.type == "response.output_item.done":
                        done.append(getattr(event.item, "code", ""))
                    if len(done) == 2:
                        break
    assert done == ["say 1", "say 2"]
    assert f.launcher.sandboxes[0].executed[:2] == done
