"""Anthropic Messages: what a request shows to the model, and an answer as server-sent events.

Source of the format: the public Messages API reference, as Claude Code 2.1 sends and reads it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.models.script import Say, Shown, Tool, ToolResult

Event = tuple[str, Mapping[str, Any]]


def read(body: Mapping[str, Any]) -> Shown:
    """A request of `POST /v1/messages`; the results are those since the newest script."""
    prompts: list[str] = []
    results: list[ToolResult] = []
    for message in body.get("messages", ()):
        for block in _blocks(message["content"]):
            if message["role"] == "user" and block["type"] == "text":
                prompts.append(block["text"])
                if "%%[" in block["text"]:
                    results.clear()
            elif block["type"] == "tool_result":
                results.append(_result(block))
    return Shown(
        system="\n".join(b.get("text", "") for b in _blocks(body.get("system", ""))),
        prompts=prompts,
        tools=[
            Tool(
                name=tool["name"],
                description=tool.get("description", ""),
                schema=tool.get("input_schema", {}),
            )
            for tool in body.get("tools", ())
        ],
        results=results,
    )


def write(say: Say, model: str, number: int) -> Iterator[Event]:
    """The events of one streamed answer."""
    message: dict[str, Any] = {
        "id": f"msg_{number:04d}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 100, "output_tokens": 1},
    }
    yield "message_start", {"message": message}
    for index, (block, delta) in enumerate(_answer_blocks(say)):
        yield "content_block_start", {"index": index, "content_block": block}
        yield "content_block_delta", {"index": index, "delta": delta}
        yield "content_block_stop", {"index": index}
    stop = "tool_use" if say.calls else "end_turn"
    yield (
        "message_delta",
        {
            "delta": {"stop_reason": stop, "stop_sequence": None},
            "usage": {"output_tokens": 10},
        },
    )
    yield "message_stop", {}


def _answer_blocks(say: Say) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    if say.text or not say.calls:
        yield {"type": "text", "text": ""}, {"type": "text_delta", "text": say.text}
    for call in say.calls:
        yield (
            {"type": "tool_use", "id": call.id, "name": call.tool.name, "input": {}},
            {"type": "input_json_delta", "partial_json": json.dumps(call.args)},
        )


def _blocks(content: Any) -> list[Mapping[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _result(block: Mapping[str, Any]) -> ToolResult:
    parts = _blocks(block.get("content") or "")
    texts = [p["text"] for p in parts if p["type"] == "text"]
    texts += [p["tool_name"] for p in parts if p["type"] == "tool_reference"]
    return ToolResult(
        call_id=block["tool_use_id"],
        text="\n".join(texts),
        images=[base64.b64decode(p["source"]["data"]) for p in parts if p["type"] == "image"],
        is_error=bool(block.get("is_error")),
    )
