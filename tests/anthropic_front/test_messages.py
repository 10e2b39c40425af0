"""Unchanged requests of the official `anthropic` client run in our sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.anthropic_front.messaging import ALL, PYTHON, SHELL, UPSTREAM_KEY, Served, serving
from tests.anthropic_front.upstream import (
    Call,
    Oops,
    Say,
    Status,
    Stop,
    Think,
    Upstream,
    bash,
    edit,
    python,
)

pytestmark = pytest.mark.anyio

ASKED: list[Any] = [{"role": "user", "content": "go"}]
CLIENT_TOOL = {"name": "get_weather", "input_schema": {"type": "object"}}


async def ask(f: Served, *tools: Any, **more: Any) -> Any:
    values: dict[str, Any] = {"model": "claude-test", "max_tokens": 100, "messages": ASKED}
    return await f.client().beta.messages.create(**{**values, "tools": list(tools), **more})


async def streamed(f: Served, *tools: Any, **more: Any) -> tuple[Any, list[Any]]:
    values: dict[str, Any] = {"model": "claude-test", "max_tokens": 100, "messages": ASKED}
    async with f.client().beta.messages.stream(**{**values, "tools": list(tools), **more}) as s:
        events = [event async for event in s]
        return await s.get_final_message(), events


async def test_python_runs_and_the_answer_has_anthropics_shape(tmp_path: Path) -> None:
    upstream = Upstream([Say("I run it"), python("say 42\nvalue 7")], [Say("it is 42")])
    async with serving(upstream, tmp_path) as f:
        message = await ask(f, PYTHON, betas=["code-execution-2025-05-22", "other-1"])
    kinds = ["text", "server_tool_use", "code_execution_tool_result", "text"]
    assert [block.type for block in message.content] == kinds
    use, result = message.content[1], message.content[2]
    assert use.input == {"code": "say 42\nvalue 7"}
    assert use.id.startswith("srvtoolu_")
    assert result.tool_use_id == use.id
    assert result.content.type == "code_execution_result"
    assert (result.content.stdout, result.content.return_code) == ("42\n7\n", 0)
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == 10
    assert message.usage.input_tokens == 20
    assert message.container.id.startswith("cntr_")
    first, second = upstream.asked
    assert [tool["name"] for tool in first["tools"]] == ["code_execution"]
    assert "type" not in first["tools"][0]
    assert second["messages"][-1]["content"] == [
        {"type": "tool_result", "tool_use_id": use.id.removeprefix("srv"), "content": "42\n7"}
    ]
    assert upstream.headers[0]["x-api-key"] == UPSTREAM_KEY
    assert upstream.headers[0]["anthropic-beta"] == "other-1"
    assert "authorization" not in upstream.headers[0]


async def test_the_accumulated_stream_equals_the_whole_answer(tmp_path: Path) -> None:
    turns: list[Any] = [
        [Think("hm"), Say("a"), python("say one"), bash("ls")],
        [edit("create", "x.txt", file_text="t"), python("raise no")],
        [Say("done")],
    ]
    async with serving(Upstream(*turns, *turns), tmp_path) as f:
        whole = await ask(f, ALL)
        streaming, _ = await streamed(f, ALL)

    def plain(message: Any) -> Any:
        value = message.model_dump(mode="json", exclude={"id", "container"})
        ids: dict[str, str] = {}
        for block in value["content"]:
            for key in ("id", "tool_use_id"):
                if block.get(key):
                    block[key] = ids.setdefault(block[key], f"call{len(ids)}")
            block.pop("parsed_output", None)
        value.pop("parsed_output", None)
        return value

    assert plain(streaming) == plain(whole)
    assert len(whole.content) == 11
    assert streaming.container.expires_at


async def test_a_stream_has_the_recorded_order(tmp_path: Path) -> None:
    async with serving(Upstream([python("say 1")], [Say("ok")]), tmp_path) as f:
        response = await f.client().messages.create(
            model="claude-test",
            max_tokens=9,
            messages=ASKED,
            stream=True,
            tools=[PYTHON],  # type: ignore[list-item]
        )
        events = [event async for event in response]
    told = [(e.type, getattr(e, "index", None)) for e in events]
    told = [each for i, each in enumerate(told) if i == 0 or each != told[i - 1]]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert [each for each in told if each[0] != "ping"] == [
        ("message_start", None),
        *((kind, 0) for kind in block),
        ("content_block_start", 1),
        ("content_block_stop", 1),
        *((kind, 2) for kind in block),
        ("message_delta", None),
        ("message_stop", None),
    ]


async def test_what_a_client_sends_again_stands_upstream_as_it_did(tmp_path: Path) -> None:
    """Rounds, ids and results are the same, so that signatures and the prompt cache hold."""
    upstream = Upstream(
        [Think("hm"), python("say 1"), bash("ls")], [Say("so"), python("say 2")], [Say("ok")],
        [Say("again")],
    )  # fmt: skip
    async with serving(upstream, tmp_path) as f:
        message = await ask(f, ALL)
        content = message.model_dump(mode="json", exclude_none=True)["content"]
        more = [*ASKED, {"role": "assistant", "content": content}, {"role": "user", "content": "?"}]
        await ask(f, ALL, messages=more)
    before, after = upstream.asked[2]["messages"], upstream.asked[3]["messages"]
    assert after[: len(before)] == before
    assert [each["role"] for each in after[len(before) :]] == ["assistant", "user"]


async def test_a_tool_of_the_clients_in_the_same_turn_is_returned_and_ours_is_run(
    tmp_path: Path,
) -> None:
    upstream = Upstream([python("say 1"), Call("get_weather", {})], [Say("sunny")])
    async with serving(upstream, tmp_path) as f:
        message = await ask(f, PYTHON, CLIENT_TOOL)
        assert message.stop_reason == "tool_use"
        kinds = [block.type for block in message.content]
        assert kinds == ["server_tool_use", "tool_use", "code_execution_tool_result"]
        content = message.model_dump(mode="json", exclude_none=True)["content"]
        result = {"type": "tool_result", "tool_use_id": content[1]["id"], "content": "sun"}
        answer = [
            *ASKED,
            {"role": "assistant", "content": content},
            {"role": "user", "content": [result]},
        ]
        assert (await ask(f, PYTHON, CLIENT_TOOL, messages=answer)).content[0].text == "sunny"
    given = upstream.asked[1]["messages"]
    assert [block["type"] for block in given[1]["content"]] == ["tool_use", "tool_use"]
    assert [block["content"] for block in given[2]["content"]] == ["1", "sun"]


async def test_an_endless_loop_ends_as_pause_turn_and_goes_on_from_there(tmp_path: Path) -> None:
    upstream = Upstream([python("say 1")], [python("say 2")], [Say("done")])
    async with serving(upstream, tmp_path, settings={"rounds": 2}) as f:
        message = await ask(f, PYTHON, tool_choice={"type": "any"})
        assert message.stop_reason == "pause_turn"
        assert len(message.content) == 4
        content = message.model_dump(mode="json", exclude_none=True)["content"]
        more = [*ASKED, {"role": "assistant", "content": content}]
        again = await ask(f, PYTHON, messages=more, container=message.container.id)
    assert again.content[0].text == "done"
    assert [each.get("tool_choice") for each in upstream.asked[:2]] == [
        {"type": "any"},
        {"type": "auto"},
    ]
    assert [each["role"] for each in upstream.asked[2]["messages"]] == [
        "user", "assistant", "user", "assistant", "user",
    ]  # fmt: skip


@pytest.mark.parametrize("raw", ['{"code": say', '{"code": "\\ud800"}', "[1, 2", '{"code": 3}'])
async def test_a_model_that_writes_broken_input_is_told_and_no_client_breaks(
    raw: str, tmp_path: Path
) -> None:
    upstream = Upstream([Call("code_execution", raw=raw)], [Say("sorry")])
    async with serving(upstream, tmp_path) as f:
        message, _ = await streamed(f, PYTHON)
    assert message.content[1].content.error_code == "invalid_tool_input"
    told = upstream.asked[1]["messages"][-1]["content"][0]
    assert told["is_error"]
    assert "JSON object" in told["content"]
    assert not f.launcher.sandboxes


async def test_a_call_that_was_cut_off_is_not_run_and_does_not_break_the_conversation(
    tmp_path: Path,
) -> None:
    upstream = Upstream(
        [Call("code_execution", raw='{"code": "say 1'), Stop("max_tokens")], [Say("ok")]
    )
    async with serving(upstream, tmp_path) as f:
        message = await ask(f, PYTHON)
        assert message.stop_reason == "max_tokens"
        assert not f.launcher.sandboxes
        content = message.model_dump(mode="json", exclude_none=True)["content"]
        more = [*ASKED, {"role": "assistant", "content": content}, {"role": "user", "content": "?"}]
        await ask(f, PYTHON, messages=more)
    result = upstream.asked[1]["messages"][2]["content"][0]
    assert result["type"] == "tool_result"
    assert "not run" in result["content"]


async def test_bash_and_the_editor_answer_in_their_own_shapes(tmp_path: Path) -> None:
    upstream = Upstream([bash("ls"), edit("create", "a.txt", file_text="x")], [Say("ok")])
    async with serving(upstream, tmp_path) as f:
        message = await ask(f, SHELL)
    shell, edited = message.content[2].content, message.content[3].content
    assert (shell.type, shell.stdout, shell.return_code) == (
        "bash_code_execution_result", "hi\n", 3,
    )  # fmt: skip
    assert edited.type == "text_editor_code_execution_create_result"
    assert edited.is_file_update is False
    names = [tool["name"] for tool in upstream.asked[0]["tools"]]
    assert names == ["bash_code_execution", "text_editor_code_execution"]


async def test_what_is_not_ours_passes_unchanged(tmp_path: Path) -> None:
    refusal = {"type": "error", "error": {"type": "rate_limit_error", "message": "slow"}, "x": 1}
    headers = {"retry-after": "7", "request-id": "req_1"}
    upstream = Upstream([Say("plain")], Status(429, refusal, headers), [Say("native")])
    async with serving(upstream, tmp_path) as f:
        message = await ask(
            f, CLIENT_TOOL, extra_body={"unknown": {"a": 1}}, extra_query={"q": "1"}
        )
        assert message.content[0].text == "plain"
        assert upstream.asked[0]["unknown"] == {"a": 1}
        with pytest.raises(anthropic.RateLimitError) as refused:
            await ask(f, PYTHON)
        assert refused.value.body == refusal
        assert refused.value.response.headers["retry-after"] == "7"
        counted = await f.client().beta.messages.count_tokens(
            model="claude-test",
            messages=ASKED,
            tools=[PYTHON],  # type: ignore[list-item]
        )
        assert counted.input_tokens == 42
    assert [tool["name"] for tool in upstream.asked[2]["tools"]] == ["code_execution"]
    assert "max_tokens" not in upstream.asked[2]
    assert "q=1" in upstream.paths[0]


async def test_an_error_in_the_middle_reaches_the_client_as_what_it_is(tmp_path: Path) -> None:
    turns: list[Any] = [[python("say 1")], [Say("h"), Oops("overloaded_error")]]
    async with serving(Upstream(*turns, *turns), tmp_path) as f:
        with pytest.raises(anthropic.APIStatusError, match="the model fell over") as whole:
            await ask(f, PYTHON)
        assert whole.value.status_code == 529
        with pytest.raises(anthropic.APIStatusError, match="the model fell over"):
            await streamed(f, PYTHON)


async def test_an_upstream_that_does_not_stream_serves_both(tmp_path: Path) -> None:
    turns: list[Any] = [[Say("a"), python("say 1")], [Say("b")]]
    upstream = Upstream(*turns, *turns)
    upstream.whole = True
    async with serving(upstream, tmp_path) as f:
        whole = await ask(f, PYTHON)
        message, _ = await streamed(f, PYTHON)
    for each in (whole, message):
        assert [getattr(block, "text", None) for block in each.content] == ["a", None, None, "b"]
        assert each.content[1].input == {"code": "say 1"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"container": {"skills": [{"type": "anthropic", "skill_id": "x"}]}}, "skills"),
        ({"tools": [PYTHON, {**CLIENT_TOOL, "allowed_callers": ["code_execution_20260120"]}]},
         "allowed_callers"),
    ],
)  # fmt: skip
async def test_what_is_not_served_is_refused_in_words(
    more: dict[str, Any], words: str, tmp_path: Path
) -> None:
    async with serving(Upstream(), tmp_path) as f:
        with pytest.raises(anthropic.BadRequestError, match=words) as refused:
            await ask(f, PYTHON, **more)
    assert refused.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]
