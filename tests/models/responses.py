"""OpenAI Responses: what a request shows to the model, and an answer as server-sent events.

Source of the format: the public Responses API reference, as Codex 0.163 sends and reads it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.models.script import Say, Shown, Tool, ToolResult

Event = tuple[str, Mapping[str, Any]]


def read(body: Mapping[str, Any]) -> Shown:
    """A request of `POST /v1/responses`; the results are those since the newest script."""
    prompts: list[str] = []
    results: list[ToolResult] = []
    for item in _items(body.get("input", "")):
        if item.get("type", "message") == "message" and item["role"] == "user":
            text = "\n".join(p.get("text", "") for p in _parts(item["content"]))
            prompts.append(text)
            if "%%[" in text:
                results.clear()
        elif item.get("type") == "function_call_output":
            results.append(_result(item))
    return Shown(
        system=body.get("instructions") or "",
        prompts=prompts,
        tools=list(_tools(body.get("tools", ()))),
        results=results,
    )


def write(say: Say, model: str, number: int) -> Iterator[Event]:
    """The events of one streamed answer."""
    items = list(_output(say, number))
    response: dict[str, Any] = {
        "id": f"resp_{number:04d}",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "in_progress",
        "model": model,
        "output": [],
        "usage": None,
    }
    yield "response.created", {"response": response}
    for index, item in enumerate(items):
        opened = {**item, "status": "in_progress"}
        opened.update(
            {k: [] if k == "content" else "" for k in ("content", "arguments") if k in item}
        )
        yield "response.output_item.added", {"output_index": index, "item": opened}
        if item["type"] == "message":
            yield (
                "response.output_text.delta",
                {
                    "output_index": index,
                    "item_id": item["id"],
                    "content_index": 0,
                    "delta": say.text,
                },
            )
        yield "response.output_item.done", {"output_index": index, "item": item}
    usage = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 10,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 110,
    }
    done = {**response, "status": "completed", "output": items, "usage": usage}
    yield "response.completed", {"response": done}


def _output(say: Say, number: int) -> Iterator[dict[str, Any]]:
    if say.text or not say.calls:
        yield {
            "type": "message",
            "id": f"msg_{number:04d}",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": say.text, "annotations": []}],
        }
    for call in say.calls:
        item = {
            "type": "function_call",
            "id": f"fc_{call.id}",
            "call_id": call.id,
            "name": call.tool.name,
            "arguments": json.dumps(call.args),
            "status": "completed",
        }
        yield item | ({"namespace": call.tool.namespace} if call.tool.namespace else {})


def _tools(entries: Sequence[Mapping[str, Any]], namespace: str = "") -> Iterator[Tool]:
    for entry in entries:
        if entry["type"] == "namespace":
            yield from _tools(entry["tools"], entry["name"])
        elif entry["type"] == "function":
            yield Tool(
                name=entry["name"],
                namespace=namespace,
                description=entry.get("description", ""),
                schema=entry.get("parameters", {}),
            )


def _items(content: Any) -> list[Mapping[str, Any]]:
    return [{"role": "user", "content": content}] if isinstance(content, str) else list(content)


def _parts(content: Any) -> list[Mapping[str, Any]]:
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else list(content)


def _result(item: Mapping[str, Any]) -> ToolResult:
    parts = _parts(item["output"])
    links = [p["image_url"] for p in parts if p["type"] == "input_image"]
    return ToolResult(
        call_id=item["call_id"],
        text="\n".join(p["text"] for p in parts if "text" in p),
        images=[base64.b64decode(link.partition(",")[2]) for link in links],
    )
