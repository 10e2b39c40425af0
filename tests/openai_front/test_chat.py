"""`/v1/chat/completions` with `code_interpreter` among its tools, with the official client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.openai_front.fronting import TOOL, Fronted, fronted
from tests.openai_front.model import Call, Code, Model, Oops, Say, Status, Think

pytestmark = pytest.mark.anyio

WEATHER: Any = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}},
}
USER: Any = {"role": "user", "content": "go"}


async def chat(f: Fronted, **more: Any) -> Any:
    body = {"model": "gpt-test", "messages": [USER], "tools": [TOOL], **more}
    return await f.client().chat.completions.create(**body)


async def test_a_stream_says_what_the_whole_answer_says(tmp_path: Path) -> None:
    script = [[Say("let me see. "), Code("say hi")], [Say("it says hi")]]
    async with fronted(Model(*script, *script), tmp_path) as f:
        whole = await chat(f)
        stream = await chat(f, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content == "let me see. it says hi"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage
    assert whole.usage.prompt_tokens == 20
    assert len({c.id for c in chunks}) == 1
    roles = [c.choices[0].delta.role for c in chunks if c.choices and c.choices[0].delta.role]
    assert roles == ["assistant"]
    assert not any(c.choices and c.choices[0].delta.tool_calls for c in chunks)
    shown = [
        call
        for c in chunks
        if c.choices
        for call in (c.choices[0].delta.model_extra or {}).get("code_interpreter_calls", [])
    ]
    assert [call["outputs"] for call in shown] == [[{"type": "logs", "logs": "hi"}]]
    assert whole.to_dict()["system_fingerprint"] == "fp_1"


async def test_a_mixed_turn_returns_the_clients_call_and_the_next_request_goes_on(
    tmp_path: Path,
) -> None:
    """Also for a client that sends back only the fields that it knows."""
    model = Model([Code("say ran"), Call("get_weather")], [Say("both")])
    async with fronted(model, tmp_path) as f:
        first = await chat(f, tools=[TOOL, WEATHER])
        (call,) = first.choices[0].message.tool_calls
        assert first.choices[0].finish_reason == "tool_calls"
        known = {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": call.id, "type": "function", "function": call.function.to_dict()}
            ],
        }
        answer = {"role": "tool", "tool_call_id": call.id, "content": "sun"}
        second = await chat(f, tools=[TOOL, WEATHER], messages=[USER, known, answer])
    assert second.choices[0].message.content == "both"
    said = model.asked[1]["messages"]
    assert [m["role"] for m in said] == ["user", "assistant", "tool", "tool"]
    assert [c["function"]["name"] for c in said[1]["tool_calls"]] == ["python", "get_weather"]
    assert [m["content"] for m in said[2:]] == ["ran", "sun"]


async def test_a_conversation_that_comes_back_has_its_code_and_its_container(
    tmp_path: Path,
) -> None:
    model = Model([Code("say one")], [Say("1")], [Code("say two")], [Say("2")])
    async with fronted(model, tmp_path) as f:
        first = await chat(f)
        back = first.choices[0].message.to_dict()
        second = await chat(f, messages=[USER, back, {"role": "user", "content": "more"}])
    calls = [r.choices[0].message.model_extra["code_interpreter_calls"] for r in (first, second)]
    assert calls[0][0]["container_id"] == calls[1][0]["container_id"]
    roles = [m["role"] for m in model.asked[2]["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
    assert "code_interpreter_calls" not in json.dumps(model.asked[2])


@pytest.mark.parametrize(
    ("choice", "first", "later"),
    [
        (TOOL, {"type": "function", "function": {"name": "python"}}, "auto"),
        ("required", "required", "auto"),
        ("none", "none", "none"),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "code_interpreter"}]},
            },
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "python"}}],
                },
            },
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "python"}}],
                },
            },
        ),
    ],
)
async def test_a_forced_tool_is_forced_once(
    tmp_path: Path, choice: Any, first: Any, later: Any
) -> None:
    model = Model([Code("say 1")], [Say("done")])
    async with fronted(model, tmp_path) as f:
        await chat(f, tool_choice=choice)
    assert [body.get("tool_choice") for body in model.asked] == [first, later]


async def test_reasoning_that_a_model_shows_goes_back_while_it_calls(tmp_path: Path) -> None:
    model = Model([Think("deep"), Code("say 1")], [Say("x")])
    async with fronted(model, tmp_path) as f:
        answer = await chat(f)
    assert model.asked[1]["messages"][1]["reasoning_content"] == "deep"
    assert answer.choices[0].message.model_extra["reasoning_content"] == "deep"


async def test_a_model_that_never_stops_ends_as_cut_off_with_what_was_done(
    tmp_path: Path,
) -> None:
    async with fronted(
        Model([Code("say on")], endless=True), tmp_path, settings={"rounds": 3}
    ) as f:
        answer = await chat(f)
    assert answer.choices[0].finish_reason == "length"
    assert len(answer.choices[0].message.model_extra["code_interpreter_calls"]) == 3
    assert answer.choices[0].message.tool_calls is None


async def test_failures_are_errors_before_and_in_the_stream(tmp_path: Path) -> None:
    model = Model(
        Status(429, {"error": {"message": "slow", "code": "c"}}),
        [Code("say 1")], Status(500),
        [Code("say 1")], [Say("half"), Oops("fell over")],
    )  # fmt: skip
    async with fronted(model, tmp_path) as f:
        with pytest.raises(openai.RateLimitError):
            await chat(f, stream=True)
        with pytest.raises(openai.InternalServerError, match="answered 500"):
            await chat(f)
        with pytest.raises(openai.APIError, match="fell over"):
            async for _ in await chat(f, stream=True):
                pass


async def test_broken_arguments_are_told_and_several_choices_refused(tmp_path: Path) -> None:
    model = Model([Code(raw='{"code": "x')], [Say("sorry")])
    async with fronted(model, tmp_path) as f:
        answer = await chat(f)
        assert "not valid JSON" in model.asked[1]["messages"][2]["content"]
        assert answer.choices[0].message.content == "sorry"
        with pytest.raises(openai.BadRequestError, match="n has to be 1"):
            await chat(f, n=2)


async def test_figures_reach_a_model_that_can_look(tmp_path: Path) -> None:
    model = Model([Code("plot")], [Say("nice")])
    async with fronted(model, tmp_path, table={"images": True}) as f:
        await chat(f)
    shown = model.asked[1]["messages"][-1]
    assert shown["role"] == "user"
    assert shown["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


# Translating Responses for an upstream that speaks Chat only ----------------------------------


async def test_a_responses_request_is_translated_with_its_options(tmp_path: Path) -> None:
    schema: Any = {"type": "json_schema", "name": "s", "schema": {"type": "object"}}
    async with fronted(Model([Say("{}")]), tmp_path, api="chat") as f:
        answer = await f.client().responses.create(
            model="gpt-test",
            instructions="be brief",
            input=[{"role": "developer", "content": "d"}, {"role": "user", "content": "go"}],
            max_output_tokens=50,
            temperature=0.5,
            text={"format": schema, "verbosity": "low"},
            reasoning={"effort": "low"},
            extra_body={"future_option": 7},
        )
    (body,) = f.model.asked
    assert [m["role"] for m in body["messages"]] == ["system", "system", "user"]
    assert body["max_completion_tokens"] == 50
    assert body["temperature"] == 0.5
    assert body["response_format"]["json_schema"] == {"name": "s", "schema": {"type": "object"}}
    assert (body["reasoning_effort"], body["verbosity"]) == ("low", "low")
    assert body["future_option"] == 7
    assert answer.output_text == "{}"
    assert answer.to_dict()["temperature"] == 0.5


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"type": "web_search"}]},
        {"truncation": "auto"},
        {"conversation": "conv_1"},
        {"prompt": {"id": "p"}},
        {"input": [{"type": "computer_call_output"}]},
        {
            "tool_choice": {"type": "web_search"},
            "tools": [WEATHER["function"] | {"type": "function"}],
        },
    ],
)
async def test_what_chat_has_no_word_for_is_refused_in_words(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    async with fronted(Model(), tmp_path, api="chat") as f:
        answer = await f.raw().post("/responses", json={"model": "gpt-test", "input": "x", **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert f.model.asked == []
