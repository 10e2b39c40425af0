"""Items of a conversation as they go back upstream, and what can be said of one.  Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from lap_mcp.front_parts.steps import Failure

from .wire import Json, encode, mapping

FOR_THE_CLIENT: Final = frozenset(
    {
        "function_call",
        "custom_tool_call",
        "computer_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
        "mcp_approval_request",
    }
)
"""Items that wait for the client: after one, the turn is the client's."""


def output_of(item: Json, told: str | list[Json]) -> Json:
    return {"type": "function_call_output", "call_id": item["call_id"], "output": told}


def sendable(arguments: Any, code: str) -> str:
    """The model's arguments as they go back upstream, where a strict server wants an object."""
    if isinstance(arguments, str):
        try:
            if isinstance(json.loads(arguments), dict):
                return arguments
        except (ValueError, RecursionError):
            code = code or arguments
    elif isinstance(arguments, dict):
        return encode(arguments).decode()
    return encode({"code": code}).decode()


def unfinished(item: Json) -> Json:
    """An item that the upstream never finished."""
    return {**item, "status": "incomplete"} if item.get("status") == "in_progress" else item


def is_lost_reasoning(item: Json) -> bool:
    """Reasoning that nobody stores and that does not hold itself: it cannot be sent back."""
    return (
        item.get("type") == "reasoning"
        and not item.get("encrypted_content")
        and not item.get("content")
    )


def failure_of(event: Mapping[str, Any]) -> Failure:
    inner = mapping(event.get("error")) or event
    return Failure(
        message=str(inner.get("message") or "The model's server reported an error."),
        code=str(inner.get("code") or "server_error"),
    )
