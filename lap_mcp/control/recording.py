"""How a runtime's events become stored ones: pure, but for large payloads, which become blobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from lap_runtimes import base

from lap_mcp.scrub import Scrubber
from lap_mcp.store.codec import dump
from lap_mcp.store.events import NewEvent

INLINE = 64 * 1024
"""Characters of text, or bytes of JSON, kept in an event; the rest goes to a blob."""
_HEAD = 32 * 1024
_TAIL = 16 * 1024

Keep = Callable[[bytes], Awaitable[str]]
"""Stores bytes, gives their SHA-256."""


def shortened(text: str) -> str:
    """Head and tail of a long text, with words between them on what is missing."""
    if len(text) <= INLINE:
        return text
    missing = len(text) - _HEAD - _TAIL
    return f"{text[:_HEAD]}\n[… {missing} characters left out here …]\n{text[-_TAIL:]}"


async def _text(text: str, keep: Keep) -> dict[str, Any]:
    if len(text) <= INLINE:
        return {"text": text}
    return {
        "text": shortened(text),
        "length": len(text),
        "blob": await keep(text.encode("utf-8", "replace")),
    }


async def _json(name: str, value: Any, keep: Keep) -> dict[str, Any]:
    encoded = dump(value).encode("utf-8", "replace")
    if len(encoded) <= INLINE:
        return {name: value}
    return {name: None, f"{name}_blob": await keep(encoded), f"{name}_length": len(encoded)}


async def recorded(event: base.Event, keep: Keep, scrubber: Scrubber) -> NewEvent | None:
    """What to store of an event that is stored as it is; `None` for the others."""
    event = _without_secrets(event, scrubber)
    match event:
        case base.Message():
            payload = {"id": event.message_id, **await _text(event.text, keep)}
            if event.data is not None:
                payload |= await _json("data", event.data, keep)
            return NewEvent(
                type="agent.message",
                payload=payload,
                native_id=event.id or event.message_id,
                closes=event.message_id,
            )
        case base.Thinking():
            return NewEvent(
                type="agent.thinking",
                payload={"id": event.message_id, **await _text(event.text, keep)},
                native_id=event.id or event.message_id,
                closes=event.message_id,
            )
        case base.ToolUse():
            arguments = await _json("input", dict(event.input), keep)
            return NewEvent(
                type="agent.tool_use",
                payload={"id": event.tool_use_id, "name": event.name, **arguments},
                native_id=event.id or event.tool_use_id,
            )
        case base.ToolResult():
            return NewEvent(
                type="agent.tool_result",
                payload={
                    "tool_use_id": event.tool_use_id,
                    "is_error": event.is_error,
                    **await _text(event.text, keep),
                },
                native_id=event.id or event.tool_use_id,
            )
        case base.Usage():
            return NewEvent(type="session.usage", payload=_usage(event), native_id=event.id)
    return None


def _without_secrets(event: base.Event, scrubber: Scrubber) -> base.Event:
    match event:
        case base.Message():
            return replace(event, text=scrubber.text(event.text), data=scrubber.data(event.data))
        case base.Thinking() | base.ToolResult():
            return replace(event, text=scrubber.text(event.text))
        case base.ToolUse():
            return replace(event, input=scrubber.data(event.input))
        case base.Usage():
            return replace(event, detail=scrubber.data(event.detail))
    return event


def _usage(event: base.Usage) -> Mapping[str, Any]:
    payload: dict[str, Any] = {
        # Nobody gives back what was used.
        "input_tokens": max(0, event.input_tokens),
        "output_tokens": max(0, event.output_tokens),
    }
    if event.cost_usd is not None:
        payload["cost_usd"] = max(0.0, event.cost_usd)
    if event.detail:
        payload["detail"] = dict(event.detail)
    return payload


def partial(kind: str, message_id: str, text: str) -> NewEvent:
    """What came of a message that will never be finished."""
    return NewEvent(
        type="agent.thinking" if kind == "thinking" else "agent.message",
        payload={"id": message_id, "text": shortened(text), "partial": True},
        native_id=message_id,
        closes=message_id,
    )
