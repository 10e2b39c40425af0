"""What the model's server answers to `/v1/messages`: as `model_server.py` does for Responses."""

from __future__ import annotations

import json
from typing import Any, Final

USAGE: Final = {"input_tokens": 10, "output_tokens": 5}
_TEXT: Final = "hello there"


def _message(block: dict[str, Any], reason: str) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [block],
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": USAGE,
    }


def _call(name: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": "toolu_1", "name": name, "input": {"code": "x = 1"}}


def frames(block: dict[str, Any], reason: str) -> list[bytes]:
    """The events of an answer that is this one block."""
    opened: dict[str, Any] = {**block, "text": ""}
    deltas = [{"type": "text_delta", "text": word} for word in ("hello", " ", "there")]
    if block["type"] == "tool_use":
        opened = {**block, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
    start = {**_message(block, reason), "content": [], "stop_reason": None}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": opened},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": USAGE},
        {"type": "message_stop"},
    ]
    return [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events]


def answer(asked: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """The whole message, and its events.  With a tool offered it is called once."""
    names = [tool["name"] for tool in asked.get("tools") or ()]
    content = asked["messages"][-1]["content"]
    ran = isinstance(content, list) and any(each["type"] == "tool_result" for each in content)
    block: dict[str, Any] = {"type": "text", "text": _TEXT}
    reason = "end_turn"
    if names and not ran:
        block, reason = _call(names[0]), "tool_use"
    return _message(block, reason), frames(block, reason)
