"""Odd values at every place of a request, one at a time: whatever is sent, no handler of ours has
a bug (which would be a 500 that names the log), and the server serves on."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.anthropic_front import messaging
from tests.anthropic_front import upstream as claude
from tests.openai_front.fronting import ALICE_KEY, TOOL, fronted
from tests.openai_front.model import Code, Model, Say

pytestmark = pytest.mark.anyio

ODD: list[Any] = [[], {"a": []}, 1e308, "x\x00\ud800"]
BUG = b"Its log says more"
PART: Any = {"type": "input_text", "text": "go"}
RESPONSES: dict[str, Any] = {
    "model": "gpt-test",
    "input": [
        {"role": "user", "content": [PART, {"type": "input_file", "file_id": "file-1"}]},
        {"type": "code_interpreter_call", "id": "ci_1", "code": "1", "container_id": "cntr_1",
         "outputs": [{"type": "logs", "logs": "1"}]},
        {"type": "item_reference", "id": "ci_2"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
    ],
    "tools": [
        {"type": "code_interpreter", "container": {"type": "auto", "file_ids": [],
         "memory_limit": "1g", "network_policy": {"type": "disabled"}}},
        {"type": "function", "name": "f", "parameters": {}},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function"}]},
    "include": ["code_interpreter_call.outputs"],
    "max_tool_calls": 1,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "conversation": None,
    "store": True,
    "reasoning": {"effort": "low"},
    "stream_options": {"include_obfuscation": False},
    "text": {"format": {"type": "text"}},
    "metadata": {},
}  # fmt: skip
CHAT: dict[str, Any] = {
    "model": "gpt-test",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "go"}]},
        {"role": "assistant", "content": "x", "code_interpreter_calls": [
            {"id": "ci_1", "code": "1", "container_id": "cntr_1", "outputs": []}],
         "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ],
    "tools": [TOOL, {"type": "function", "function": {"name": "f"}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "stream_options": {"include_usage": True},
    "n": 1,
}  # fmt: skip
CONTAINER: dict[str, Any] = {
    "name": "x",
    "file_ids": ["file-1"],
    "memory_limit": "1g",
    "expires_after": {"anchor": "last_active_at", "minutes": 20},
    "network_policy": {"type": "disabled"},
    "skills": [],
}
AGENT: dict[str, Any] = {"model": "agent/echo", "input": [{"role": "user", "content": [PART]}]}
MESSAGES: dict[str, Any] = {
    "model": "claude-test",
    "max_tokens": 9,
    "container": {"id": "cntr_1", "skills": []},
    "system": [{"type": "text", "text": "x"}],
    "tool_choice": {"type": "tool", "name": "code_execution"},
    "tools": [
        {"type": "code_execution_20250825", "name": "code_execution", "allowed_callers": ["direct"],
         "cache_control": {"type": "ephemeral"}},
        {"name": "f", "input_schema": {}},
    ],
    "messages": [
        {"role": "user", "content": [{"type": "container_upload", "file_id": "file-1"},
         {"type": "document", "source": {"type": "file", "file_id": "file-1"}}]},
        {"role": "assistant", "content": [
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "bash_code_execution",
             "input": {"command": "ls"}},
            {"type": "bash_code_execution_tool_result", "tool_use_id": "srvtoolu_1", "content": {
                "type": "bash_code_execution_result", "stdout": "", "stderr": "", "return_code": 0,
                "content": [{"type": "bash_code_execution_output", "file_id": "file_1"}]}}]},
        {"role": "user", "content": "go"},
    ],
}  # fmt: skip


def variants(body: Any, leading: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a body."""
    pairs = body.items() if isinstance(body, dict) else enumerate(body)
    for key, value in pairs:
        yield (*leading, key)
        if isinstance(value, (dict, list)):
            yield from variants(value, (*leading, key))


def changed(body: Any, place: tuple[Any, ...], value: Any) -> bytes:
    made = copy.deepcopy(body)
    inner = made
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return json.dumps(made).encode()


async def bugs(client: Any, path: str, body: Any) -> list[str]:
    """Where an odd value is a bug."""
    found: list[str] = []
    limiter = anyio.Semaphore(8)

    async def ask(place: tuple[Any, ...], value: Any) -> None:
        async with limiter:
            answer = await client.post(path, content=changed(body, place, value))
            if BUG in answer.content or answer.content == b"Internal Server Error":
                found.append(f"{path} {place}: {str(value)[:40]}")

    async with anyio.create_task_group() as tasks:
        for place in variants(body):
            for value in ODD:
                tasks.start_soon(ask, place, value)
    return found


@pytest.mark.parametrize(
    ("api", "path", "body"),
    [
        ("responses", "/responses", RESPONSES),
        ("chat", "/responses", RESPONSES),
        ("chat", "/chat/completions", CHAT),
        ("chat", "/containers", CONTAINER),
        ("chat", "/responses", AGENT),
    ],
)
async def test_no_odd_value_is_a_bug_of_openais_face(
    tmp_path: Path, api: str, path: str, body: dict[str, Any]
) -> None:
    async with fronted(Model([Say("ok")], endless=True), tmp_path, api=api) as f:
        client = f.raw()
        client.headers["content-type"] = "application/json"
        assert await bugs(client, path, body) == []
        assert (await client.get("/models")).status_code == 200


async def test_no_odd_value_is_a_bug_of_anthropics_face(tmp_path: Path) -> None:
    upstream = claude.Upstream([claude.Say("ok")], endless=True)
    async with messaging.serving(upstream, tmp_path) as f:
        headers = {"x-api-key": ALICE_KEY, "anthropic-version": "2023-06-01"}
        client = f.raw(**headers, **{"content-type": "application/json"})
        body = {key: value for key, value in MESSAGES.items() if key != "container"}
        assert await bugs(client, "/messages", body) == []
        for value in ODD:
            answer = await client.post(
                "/messages", content=changed(MESSAGES, ("container",), value)
            )
            assert BUG not in answer.content
        assert (await client.get("/models")).status_code == 200


@pytest.mark.parametrize("query", ["after", "limit", "order", "name", "purpose", "starting_after"])
async def test_no_odd_parameter_is_a_bug(tmp_path: Path, query: str) -> None:
    model = Model([Code("say 1")], [Say("ok")])
    async with fronted(model, tmp_path) as f:
        made: Any = await f.client().responses.create(model="gpt-test", input="go", tools=[TOOL])  # type: ignore[list-item]
        container = made.output[0].container_id
        paths = ["/containers", "/files", f"/containers/{container}/files", f"/responses/{made.id}"]
        paths += [f"/responses/{made.id}/input_items", "/responses/%00", "/files/%00/content"]
        for path in paths:
            for value in ("", "-1", "x\x00y", "é", "9" * 5000, "\u0661", "null"):
                answer = await f.raw().get(path, params={query: value, "stream": "false"})
                assert BUG not in answer.content, (path, value)
                assert answer.status_code < 500, (path, value)
