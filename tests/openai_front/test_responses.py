"""`/v1/responses` as the official client sees it: streaming and not, and every option."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.openai_front.fronting import TOOL, Clock, Fronted, fronted
from tests.openai_front.model import Call, Code, Hang, Model, Oops, Say, Status, Stopped, Think

pytestmark = pytest.mark.anyio

OUTPUTS: list[Any] = ["code_interpreter_call.outputs"]
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {}},
}
APIS = pytest.mark.parametrize("api", ["responses", "chat"])


async def ask(f: Fronted, **more: Any) -> Any:
    body = {"model": "gpt-test", "input": "go", "tools": [TOOL], **more}
    return await f.client().responses.create(**body)


def plain(response: Any) -> Any:
    """Its output, without what the client itself adds when it parses."""
    text = json.dumps([item.to_dict() for item in response.output])
    return json.loads(text.replace(', "parsed": null', ""))


@APIS
async def test_the_accumulated_stream_of_the_official_client_is_the_whole_answer(
    tmp_path: Path, api: str
) -> None:
    script = [[Think("hm"), Code("say hi\nplot\nwrite a.csv 1")], [Code("value 2")]]
    script.append([Say("see [a](sandbox:/mnt/data/a.csv) \U0001f600")])
    async with fronted(Model(*script), tmp_path, api=api) as f:
        stream = f.client().responses.stream(
            model="gpt-test", input="go", tools=[TOOL], include=OUTPUTS
        )
        async with stream as events:
            async for event in events:
                if event.type == "response.completed":
                    told = event.response
            final = await events.get_final_response()
        kept = await f.client().responses.retrieve(final.id)
    assert final.output_text == "see [a](sandbox:/mnt/data/a.csv) \U0001f600"
    assert told.output == final.output
    assert plain(kept) == plain(final)


async def test_every_field_that_the_types_require_is_there_and_the_tool_is_the_clients(
    tmp_path: Path,
) -> None:
    async with fronted(Model([Say("hi")]), tmp_path) as f:
        answer = await ask(f, tool_choice="auto", metadata={"a": "b"})
        raw = answer.to_dict()
    strict = openai.types.responses.Response.model_validate(raw, strict=False)
    assert strict.tools[0].to_dict() == TOOL
    assert strict.tool_choice == "auto"
    assert strict.metadata == {"a": "b"}
    assert raw["future_field"] == {"kept": True}
    assert strict.usage is not None
    assert strict.usage.input_tokens_details.cache_write_tokens == 0


@APIS
async def test_outputs_are_told_only_if_asked_for(tmp_path: Path, api: str) -> None:
    model = Model([Code("say hi")], [Say("x")], [Code("say hi")], [Say("x")])
    async with fronted(model, tmp_path, api=api) as f:
        without = await ask(f)
        wanted = await ask(f, include=OUTPUTS)
    assert without.output[0].outputs is None
    assert wanted.output[0].outputs[0].logs == "hi"
    assert all(OUTPUTS[0] not in body.get("include", []) for body in model.asked)


# Choosing tools -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "first", "later"),
    [
        ({"type": "code_interpreter"}, {"type": "function", "name": "python"}, "auto"),
        ("required", "required", "auto"),
        ("auto", "auto", "auto"),
        (None, None, None),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "code_interpreter"}, {"type": "function", "name": "x"}],
            },
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [
                    {"type": "function", "name": "python"},
                    {"type": "function", "name": "x"},
                ],
            },
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [
                    {"type": "function", "name": "python"},
                    {"type": "function", "name": "x"},
                ],
            },
        ),
    ],
)
async def test_a_forced_tool_is_forced_once_and_echoed_as_the_client_wrote_it(
    tmp_path: Path, choice: Any, first: Any, later: Any
) -> None:
    model = Model([Code("say 1")], [Say("done")])
    async with fronted(model, tmp_path) as f:
        answer = await ask(f, **({} if choice is None else {"tool_choice": choice}))
    assert [body.get("tool_choice") for body in model.asked] == [first, later]
    echoed = answer.to_dict()["tool_choice"]
    assert echoed == (choice or "auto")


async def test_a_clients_function_called_python_keeps_its_name(tmp_path: Path) -> None:
    theirs: Any = {**WEATHER, "name": "python"}
    model = Model([Call("python")])
    async with fronted(model, tmp_path) as f:
        answer = await ask(f, tools=[theirs, TOOL])
    assert [tool["name"] for tool in model.asked[0]["tools"]] == ["python", "python_interpreter"]
    assert answer.output[0].type == "function_call"
    assert f.launcher.sandboxes == []


@APIS
async def test_max_tool_calls_ends_the_calls_and_the_model_answers(
    tmp_path: Path, api: str
) -> None:
    model = Model([Code("say 1"), Code("say 2")], [Code("say 3")], [Say("enough")])
    async with fronted(model, tmp_path, api=api) as f:
        answer = await ask(f, max_tool_calls=1)
    assert [item.type for item in answer.output] == ["code_interpreter_call", "message"]
    assert f.launcher.sandboxes[0].executed == ["say 1"]
    assert [body.get("tool_choice") for body in model.asked] == [None, "none", "none"]
    assert answer.max_tool_calls == 1


async def test_parallel_tool_calls_is_the_clients_to_choose(tmp_path: Path) -> None:
    async with fronted(Model([Say("x")]), tmp_path) as f:
        answer = await ask(f, parallel_tool_calls=False)
        assert f.model.asked[0]["parallel_tool_calls"] is False
        assert answer.to_dict()["parallel_tool_calls"] is False


# What a model does wrong ----------------------------------------------------------------------


@APIS
@pytest.mark.parametrize(
    ("raw", "words"),
    [('{"code": "say', "not valid JSON"), ("", "empty"), ('{"code": 5}', "no text `code`")],
)
async def test_a_model_that_sends_broken_arguments_is_told_so(
    tmp_path: Path, api: str, raw: str, words: str
) -> None:
    model = Model([Code(raw=raw)], [Say("sorry")])
    async with fronted(model, tmp_path, api=api) as f:
        answer = await ask(f, include=OUTPUTS)
    assert answer.output[0].status == "failed"
    assert words in answer.output[0].outputs[0].logs
    assert answer.output_text == "sorry"
    assert f.launcher.sandboxes == []
    sent = model.asked[1]
    calls = (
        [m["tool_calls"][0]["function"] for m in sent["messages"] if m.get("tool_calls")]
        if api == "chat"
        else [i for i in sent["input"] if i.get("type") == "function_call"]
    )
    assert isinstance(json.loads(calls[0]["arguments"]), dict)
    assert words in json.dumps(sent)


@APIS
@pytest.mark.parametrize("raw", [{"code": "say hi"}, "say hi", "```python\nsay hi\n```"])
async def test_arguments_as_an_object_bare_code_and_fences_are_run(
    tmp_path: Path, api: str, raw: Any
) -> None:
    model = Model([Code(raw=raw)], [Say("x")])
    async with fronted(model, tmp_path, api=api) as f:
        answer = await ask(f, include=OUTPUTS)
    assert f.launcher.sandboxes[0].executed == ["say hi"]
    assert answer.output[0].outputs[0].logs == "hi"


@APIS
async def test_a_response_that_is_cut_off_in_the_middle_is_incomplete(
    tmp_path: Path, api: str
) -> None:
    model = Model([Code("say 1")], [Say("half of"), Stopped()])
    async with fronted(model, tmp_path, api=api) as f:
        answer = await ask(f)
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output_text == "half of"


# What an upstream does wrong ------------------------------------------------------------------


@APIS
async def test_a_refusal_of_the_first_question_reaches_the_client_as_it_is(
    tmp_path: Path, api: str
) -> None:
    body = {"error": {"message": "slow down", "type": "tokens", "code": "rate_limit_exceeded"}}
    refusal = Status(429, body, {"retry-after": "7", "x-ratelimit-remaining-tokens": "0"})
    async with fronted(Model(refusal, refusal), tmp_path, api=api) as f:
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as caught:
                await ask(f, stream=stream)
            assert caught.value.response.json() == body
            assert caught.value.response.headers["retry-after"] == "7"
            assert caught.value.response.headers["x-ratelimit-remaining-tokens"] == "0"
    assert f.model.script == []


@APIS
async def test_a_429_between_rounds_is_waited_out(tmp_path: Path, api: str) -> None:
    model = Model([Code("say 1")], Status(429, headers={"retry-after": "0"}), [Say("there")])
    async with fronted(model, tmp_path, api=api) as f:
        answer = await ask(f)
    assert answer.output_text == "there"
    assert f.launcher.sandboxes[0].executed == ["say 1"]


@APIS
@pytest.mark.parametrize(
    "turn", [Status(500), Status(429, headers={"retry-after": "3600"}), [Oops("fell over")]]
)
async def test_a_failure_in_a_later_round_keeps_what_was_done(
    tmp_path: Path, api: str, turn: Any
) -> None:
    async with fronted(Model([Code("say 1")], turn), tmp_path, api=api) as f:
        answer = await ask(f, include=OUTPUTS)
    assert answer.status == "failed"
    assert answer.error.message
    assert answer.output[0].outputs[0].logs == "1"
    assert answer.usage.input_tokens == 10


@APIS
async def test_an_upstream_that_is_silent_is_an_error_in_words(tmp_path: Path, api: str) -> None:
    async with fronted(Model([Hang()]), tmp_path, api=api, table={"silence": 0.3}) as f:
        answer = await ask(f)
    assert answer.status == "failed"
    assert "sent nothing for 0.3 s" in answer.error.message


async def test_an_upstream_that_answers_json_to_a_stream_is_followed_too(tmp_path: Path) -> None:
    for api in ("responses", "chat"):
        model = Model([Code("say hi")], [Say("whole")])
        model.whole = True
        async with fronted(model, tmp_path, api=api) as f:
            stream = f.client().responses.stream(model="gpt-test", input="go", tools=[TOOL])
            async with stream as events:
                kinds = [event.type async for event in events]
                final = await events.get_final_response()
        assert final.output_text == "whole"
        assert "response.output_text.delta" in kinds
        assert "response.code_interpreter_call_code.delta" in kinds


async def test_a_model_that_cannot_be_reached_is_named_and_its_address_is_not(
    tmp_path: Path,
) -> None:
    dead = {"gone": {"base_url": "http://127.0.0.1:9/v1"}}
    async with fronted(Model(), tmp_path, tables=lambda _: dead) as f:
        for more in ({}, {"tools": []}):
            with pytest.raises(openai.InternalServerError) as caught:
                await ask(f, model="gone", **more)
            assert caught.value.status_code == 502
            assert "'gone'" in caught.value.message
            assert "127.0.0.1" not in caught.value.message


# Reasoning ------------------------------------------------------------------------------------


async def test_reasoning_is_carried_between_rounds(tmp_path: Path) -> None:
    model = Model([Think("deep"), Code("say 1")], [Think("more"), Say("x")])
    async with fronted(model, tmp_path) as f:
        answer = await ask(f)
    kinds = [item.get("type") for item in model.asked[1]["input"]]
    assert kinds == ["message", "reasoning", "function_call", "function_call_output"]
    assert [item.type for item in answer.output] == [
        "reasoning",
        "code_interpreter_call",
        "reasoning",
        "message",
    ]


@pytest.mark.parametrize("wanted", [True, False])
async def test_without_store_reasoning_travels_sealed_and_is_shown_only_if_asked_for(
    tmp_path: Path, wanted: bool
) -> None:
    include = ["reasoning.encrypted_content"] if wanted else []
    model = Model([Think("deep"), Code("say 1")], [Say("x")])
    async with fronted(model, tmp_path) as f:
        answer = await ask(f, store=False, reasoning={"effort": "low"}, include=include)
        with pytest.raises(openai.APIStatusError):
            await f.client().responses.input_items.list("resp_x?nothing")
    assert model.asked[0]["include"] == ["reasoning.encrypted_content"]
    assert model.asked[1]["input"][1]["encrypted_content"] == "sealed:deep"
    shown = answer.output[0].to_dict().get("encrypted_content")
    assert shown == ("sealed:deep" if wanted else None)


# The conversation -----------------------------------------------------------------------------


@APIS
async def test_a_following_response_has_the_conversation_and_the_container(
    tmp_path: Path, api: str
) -> None:
    model = Model([Code("say 1")], [Say("one")], [Code("say 2")], [Say("two")])
    async with fronted(model, tmp_path, api=api) as f:
        first = await ask(f)
        second = await ask(f, previous_response_id=first.id, input="more")
        kept = await f.client().responses.retrieve(second.id)
        items = await f.client().responses.input_items.list(second.id)
    assert second.previous_response_id == first.id
    assert second.output[0].container_id == first.output[0].container_id
    assert len(f.launcher.sandboxes) == 1
    assert "previous_response_id" not in model.asked[2]
    assert "one" in json.dumps(model.asked[2])
    assert kept.output_text == "two"
    assert [item.to_dict()["content"][0]["text"] for item in items.data] == ["more"]


@APIS
async def test_items_that_a_client_sends_back_itself_are_what_stood_there(
    tmp_path: Path, api: str
) -> None:
    """Also without their outputs, and without store."""
    model = Model([Code("say secret")], [Say("one")], [Code("say 2")], [Say("two")])
    async with fronted(model, tmp_path, api=api) as f:
        first = await ask(f, store=False)
        given = [{"role": "user", "content": "go"}]
        given += [item.to_dict() for item in first.output]
        second = await ask(f, store=False, input=[*given, {"role": "user", "content": "more"}])
    assert second.output[0].container_id == first.output[0].container_id
    assert "secret" in json.dumps(model.asked[2].get("input") or model.asked[2]["messages"])
    assert "code_interpreter_call" not in json.dumps(model.asked[2])


@APIS
async def test_code_calls_of_another_server_are_told_from_their_outputs(
    tmp_path: Path, api: str
) -> None:
    theirs: Any = {
        "id": "ci_theirs",
        "type": "code_interpreter_call",
        "status": "completed",
        "code": "1+1",
        "container_id": "cntr_theirs",
        "outputs": [{"type": "logs", "logs": "two"}],
    }
    model = Model([Code("say 2")], [Say("x")])
    async with fronted(model, tmp_path, api=api) as f:
        answer = await ask(f, input=[theirs, {"role": "user", "content": "go"}])
    assert answer.status == "completed"
    sent = json.dumps(model.asked[0])
    assert "1+1" in sent
    assert "two" in sent
    assert "does not exist any more" in json.dumps(model.asked[1])


@APIS
async def test_an_expired_container_is_replaced_its_files_kept_and_the_model_told(
    tmp_path: Path, api: str
) -> None:
    clock = Clock()
    model = Model([Code("write a.csv 1,2")], [Say("one")], [Code("say 2")], [Say("two")])
    async with fronted(model, tmp_path, api=api, clock=clock) as f:
        first = await ask(f)
        container_id = first.output[0].container_id
        clock.offset += 3600
        assert (await f.client().containers.retrieve(container_id)).status == "expired"
        await f.launcher.sandboxes[0].close()
        second = await ask(f, previous_response_id=first.id, input="more")
        assert (await f.client().containers.retrieve(container_id)).status == "running"
    assert second.output[0].container_id == container_id
    assert f.launcher.sandboxes[1].files["a.csv"][0] == b"1,2"
    assert "variables and imports are gone" in json.dumps(model.asked[3])


async def test_a_conversation_is_the_upstreams_and_gets_only_what_is_new(tmp_path: Path) -> None:
    model = Model([Code("say 1")], [Say("one")])
    async with fronted(model, tmp_path) as f:
        await ask(f, conversation="conv_1")
    assert [body["conversation"] for body in model.asked] == ["conv_1", "conv_1"]
    assert [item["type"] for item in model.asked[1]["input"]] == ["function_call_output"]


async def test_an_unknown_previous_response_is_left_to_the_upstream_or_refused(
    tmp_path: Path,
) -> None:
    async with fronted(Model([Code("say 1")], [Say("x")]), tmp_path) as f:
        await ask(f, previous_response_id="resp_theirs")
    assert [body["previous_response_id"] for body in f.model.asked] == ["resp_theirs"] * 2
    async with fronted(Model(), tmp_path, api="chat") as f:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(f, previous_response_id="resp_theirs")
    assert caught.value.code == "previous_response_not_found"


@APIS
async def test_without_store_nothing_can_be_retrieved(tmp_path: Path, api: str) -> None:
    tables = {"a": {"api": api}, "b": {"api": api}}
    async with fronted(
        Model([Say("x")]),
        tmp_path,
        tables=lambda url: {name: {"base_url": url, **table} for name, table in tables.items()},
    ) as f:
        answer = await ask(f, model="a", store=False)
        with pytest.raises(openai.NotFoundError):
            await f.client().responses.retrieve(answer.id)


async def test_outputs_are_had_later_only_if_they_were_asked_for_at_first(tmp_path: Path) -> None:
    model = Model([Code("say 1")], [Say("ok")], [Code("say 1")], [Say("ok")])
    include: Any = ["code_interpreter_call.outputs"]
    async with fronted(model, tmp_path) as f:
        responses = f.client().responses
        kept = await responses.create(model="gpt-test", input="go", tools=[TOOL], include=include)  # type: ignore[list-item]
        plain = await responses.create(model="gpt-test", input="go", tools=[TOOL])  # type: ignore[list-item]
        again: Any = await responses.retrieve(kept.id, include=include)
        assert again.output[0].outputs[0].logs == "1"
        assert (await responses.retrieve(plain.id)).output_text == "ok"
        for doing in (
            responses.retrieve(plain.id, include=include),
            responses.retrieve(kept.id, include=["reasoning.encrypted_content"]),
            responses.retrieve(kept.id, include_obfuscation=True),
            responses.input_items.list(kept.id, include=include),
        ):
            with pytest.raises(openai.BadRequestError, match="kept|obfuscation"):
                await doing


async def test_a_deleted_response_is_gone(tmp_path: Path) -> None:
    tables = {"a": {}, "b": {}}
    async with fronted(
        Model([Say("x")]),
        tmp_path,
        tables=lambda url: {name: {"base_url": url, **table} for name, table in tables.items()},
    ) as f:
        answer = await ask(f, model="a")
        await f.client().responses.delete(answer.id)
        with pytest.raises(openai.NotFoundError):
            await f.client().responses.retrieve(answer.id)


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ({"container": {"type": "auto", "network_policy": {"type": "allowlist"}}}, "no network"),
        ({"container": {"type": "auto", "memory_limit": "3g"}}, "memory_limit"),
        ({"container": {"type": "auto", "memory_limit": "64g"}}, "at most 4g"),
        ({"container": "not-one"}, "cntr_"),
        ({"container": {"type": "other"}}, "container has to be"),
        ({"container": {"type": "auto", "file_ids": "x"}}, "file_ids"),
    ],
)
async def test_a_container_that_cannot_be_had_is_refused_in_words(
    tmp_path: Path, tool: Any, words: str
) -> None:
    async with fronted(Model(), tmp_path) as f:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(f, tools=[{"type": "code_interpreter", **tool}])
    assert words in caught.value.message
    assert f.model.asked == []


async def test_memory_is_what_the_container_asked_for(tmp_path: Path) -> None:
    tool = {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "4g"}}
    async with fronted(Model([Code("say 1")], [Say("x")]), tmp_path) as f:
        await ask(f, tools=[tool])
    assert f.launcher.sandboxes[0].limits.memory == 4 * 1024**3
