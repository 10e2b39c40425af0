"""Response objects as the client sees them: the upstream's, with the client's own request echoed
in place of ours.  Pure.

Every field that the Responses types require is there, whatever the upstream left out: the official
client is lenient, others are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from .plans import Plan
from .usage import complete
from .wire import Json, mapping, sequence

_DEFAULTS: Final[Mapping[str, Any]] = {
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "top_p": 1.0,
    "max_output_tokens": None,
    "reasoning": {"effort": None, "summary": None},
    "text": {"format": {"type": "text"}},
    "truncation": "disabled",
    "service_tier": None,
    "user": None,
}
_ECHOED: Final = ("previous_response_id", "max_tool_calls", "conversation")


def started(plan: Plan, base: Mapping[str, Any], *, response_id: str, now: float) -> Json:
    shown = _common(plan, base, response_id, now)
    return {**shown, "status": "in_progress", "output": [], "usage": None}


def finished(
    plan: Plan,
    base: Mapping[str, Any],
    *,
    response_id: str,
    now: float,
    status: str,
    output: Sequence[Json],
    usage: Mapping[str, Any],
) -> Json:
    shown = _common(plan, base, response_id, now)
    shown |= {"status": status, "output": list(output), "usage": complete(usage)}
    if status == "completed":
        shown |= {"error": None, "incomplete_details": None}
    return shown


def _common(plan: Plan, base: Mapping[str, Any], response_id: str, now: float) -> Json:
    asked = {key: plan.body[key] for key in _DEFAULTS if plan.body.get(key) is not None}
    shown: Json = {**_DEFAULTS, **asked, **base}
    shown |= {"id": response_id, "object": "response", "created_at": int(now)}
    shown["model"] = base.get("model") or plan.body.get("model") or ""
    shown["tools"] = sequence(plan.body.get("tools"))
    shown["tool_choice"] = plan.body.get("tool_choice") or "auto"
    shown["background"] = plan.body.get("background") is True
    shown["store"] = plan.stored
    for key in _ECHOED:
        shown[key] = plan.body.get(key)
    if isinstance(shown["conversation"], str):
        shown["conversation"] = {"id": shown["conversation"]}
    return shown


def item_events(item: Mapping[str, Any], index: int) -> Iterator[Json]:
    """The events of an item that came whole, so that a client can follow it like any other."""
    where = {"output_index": index}
    opened = {**item, "status": "in_progress"} if "status" in item else dict(item)
    kind = item.get("type")
    if kind == "message":
        opened["content"] = []
    elif kind == "function_call":
        opened["arguments"] = ""
    yield {"type": "response.output_item.added", **where, "item": opened}
    if kind == "message":
        for number, part in enumerate(sequence(item.get("content"))):
            yield from _part_events(
                mapping(part), item.get("id"), {**where, "content_index": number}
            )
    elif kind == "function_call":
        about = {**where, "item_id": item.get("id")}
        arguments = item.get("arguments")
        if isinstance(arguments, str):
            name = "response.function_call_arguments"
            yield {"type": f"{name}.delta", **about, "delta": arguments}
            yield {"type": f"{name}.done", **about, "arguments": arguments}
    yield {"type": "response.output_item.done", **where, "item": dict(item)}


def _part_events(part: Json, item_id: Any, where: Json) -> Iterator[Json]:
    about = {**where, "item_id": item_id}
    if part.get("type") != "output_text":
        yield {"type": "response.content_part.added", **about, "part": part}
        yield {"type": "response.content_part.done", **about, "part": part}
        return
    empty = {**part, "text": "", "annotations": [], "logprobs": []}
    text, logprobs = part.get("text", ""), sequence(part.get("logprobs"))
    yield {"type": "response.content_part.added", **about, "part": empty}
    if text:
        yield {
            "type": "response.output_text.delta",
            **about,
            "delta": text,
            "logprobs": logprobs,
        }
    for number, annotation in enumerate(sequence(part.get("annotations"))):
        yield {
            "type": "response.output_text.annotation.added",
            **about,
            "annotation_index": number,
            "annotation": annotation,
        }
    yield {"type": "response.output_text.done", **about, "text": text, "logprobs": logprobs}
    yield {"type": "response.content_part.done", **about, "part": part}
