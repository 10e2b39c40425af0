"""A Chat Completions stream as the events of a Responses stream.  Pure: chunks in, events out.

An item ends when the next one begins or the stream ends, since chunks do not say so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from .usage import from_chat
from .wire import Json, NewId, mapping, sequence

_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ChatEvents:
    """`feed` each chunk (or a whole answer), then `close`."""

    def __init__(self, new_id: NewId) -> None:
        self._new_id = new_id
        self._base: Json = {}
        self._output: list[Json] = []
        self._open: Json | None = None
        """The item that is being written, with its text in `_text`."""
        self._text: list[str] = []
        self._calls: dict[Any, Json] = {}
        """Functions that are called, by their index in the chunks; they end with the stream."""
        self._finish: str | None = None
        self._usage: Json = {}
        self._failed: Json | None = None

    def feed(self, chunk: Mapping[str, Any]) -> list[Json]:
        if chunk.get("error"):
            error = mapping(chunk["error"])
            self._failed = error or {"message": str(chunk["error"])}
            return []
        events = self._begin(chunk)
        if usage := from_chat(chunk.get("usage")):
            self._usage = usage
        for choice in map(mapping, sequence(chunk.get("choices"))[:1]):
            whole = mapping(choice.get("message"))
            events += self._delta(whole or mapping(choice.get("delta")))
            if choice.get("finish_reason"):
                self._finish = str(choice["finish_reason"])
        return events

    def close(self) -> list[Json]:
        """The end of the stream."""
        if self._failed is not None:
            error = {key: self._failed.get(key) for key in ("code", "message", "param")}
            return [{"type": "error", **error}]
        if self._finish is None:
            return []  # it broke off; whoever reads the events says so
        events = self._item_over()
        for call in self._calls.values():
            events += self._call_over(call)
        reason = _INCOMPLETE.get(self._finish)
        status = "incomplete" if reason else "completed"
        response = {**self._base, "status": status, "output": list(self._output)}
        if reason:
            response["incomplete_details"] = {"reason": reason}
        if self._usage:
            response["usage"] = self._usage
        return [*events, {"type": f"response.{status}", "response": response}]

    def _begin(self, chunk: Mapping[str, Any]) -> list[Json]:
        if self._base:
            return []
        self._base = {
            "id": self._new_id("resp"),
            "object": "response",
            "created_at": chunk.get("created") or 0,
            "model": chunk.get("model") or "",
            "status": "in_progress",
        }
        if chunk.get("service_tier"):
            self._base["service_tier"] = chunk["service_tier"]
        return [{"type": "response.created", "response": {**self._base, "output": []}}]

    def _delta(self, delta: Json) -> list[Json]:
        events: list[Json] = []
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(thought, str) and thought:
            events += self._write("reasoning", thought)
        if isinstance(delta.get("content"), str) and delta["content"]:
            events += self._write("output_text", delta["content"])
        if isinstance(delta.get("refusal"), str) and delta["refusal"]:
            events += self._write("refusal", delta["refusal"])
        for number, call in enumerate(sequence(delta.get("tool_calls"))):
            events += self._call(number, mapping(call))
        return events

    # Text --------------------------------------------------------------------------------------

    def _write(self, kind: str, text: str) -> list[Json]:
        events: list[Json] = []
        if self._open is None or self._open["kind"] != kind:
            events = [*self._item_over(), *self._item_begun(kind)]
        assert self._open is not None
        self._text.append(text)
        name = "response.reasoning_text" if kind == "reasoning" else f"response.{kind}"
        delta = {"type": f"{name}.delta", **self._open["where"], "delta": text}
        if kind == "output_text":
            delta["logprobs"] = []
        return [*events, delta]

    def _item_begun(self, kind: str) -> list[Json]:
        index = len(self._output)
        if kind == "reasoning":
            item: Json = {"id": self._new_id("rs"), "type": "reasoning", "summary": []}
            part: Json = {"type": "reasoning_text", "text": ""}
        else:
            item = {"id": self._new_id("msg"), "type": "message", "role": "assistant"}
            item |= {"status": "in_progress", "content": []}
            part = _text_part(kind, "")
        self._output.append(item)
        where = {"item_id": item["id"], "output_index": index, "content_index": 0}
        self._open = {"kind": kind, "item": item, "where": where}
        self._text = []
        return [
            {"type": "response.output_item.added", "output_index": index, "item": dict(item)},
            {"type": "response.content_part.added", **where, "part": part},
        ]

    def _item_over(self) -> list[Json]:
        if self._open is None:
            return []
        kind, item, where = self._open["kind"], self._open["item"], self._open["where"]
        text, self._open = "".join(self._text), None
        if kind == "reasoning":
            part = {"type": "reasoning_text", "text": text}
            ended = {"type": "response.reasoning_text.done", **where, "text": text}
        else:
            part = _text_part(kind, text)
            key = "text" if kind == "output_text" else "refusal"
            ended = {"type": f"response.{kind}.done", **where, key: text}
            if kind == "output_text":
                ended["logprobs"] = []
            item["status"] = "completed"
        item["content"] = [part]
        done = {"output_index": where["output_index"], "item": dict(item)}
        return [
            ended,
            {"type": "response.content_part.done", **where, "part": part},
            {"type": "response.output_item.done", **done},
        ]

    # Calls -------------------------------------------------------------------------------------

    def _call(self, number: int, piece: Json) -> list[Json]:
        events: list[Json] = []
        key = index if isinstance(index := piece.get("index"), int) else number
        inner = mapping(piece.get("function"))
        if key not in self._calls:
            events = [*self._item_over(), *self._written(), *self._call_begun(key, piece, inner)]
        call = self._calls[key]
        if call["over"]:
            return events  # arguments that were complete stay as they are
        arguments = inner.get("arguments")
        if isinstance(arguments, dict):
            call["item"]["arguments"] = arguments
        elif isinstance(arguments, str) and arguments:
            call["item"]["arguments"] = f"{call['item']['arguments']}{arguments}"
            kind = "response.function_call_arguments.delta"
            events.append({"type": kind, **call["where"], "delta": arguments})
        return events

    def _call_begun(self, key: Any, piece: Json, inner: Json) -> list[Json]:
        index = len(self._output)
        item: Json = {
            "id": self._new_id("fc"),
            "type": "function_call",
            "call_id": piece.get("id") or self._new_id("call"),
            "name": inner.get("name") or "",
            "arguments": "",
            "status": "in_progress",
        }
        self._output.append(item)
        self._calls[key] = {
            "item": item,
            "where": {"item_id": item["id"], "output_index": index},
            "over": False,
        }
        return [{"type": "response.output_item.added", "output_index": index, "item": dict(item)}]

    def _written(self) -> list[Json]:
        """Another call begins: those before it are over, where what they have is whole."""
        events: list[Json] = []
        for call in self._calls.values():
            if _is_object(call["item"]["arguments"]):
                events += self._call_over(call)
        return events

    def _call_over(self, call: Json) -> list[Json]:
        if call["over"]:
            return []
        call["over"] = True
        item, where = call["item"], call["where"]
        item["status"] = "incomplete" if self._finish in _INCOMPLETE else "completed"
        events: list[Json] = []
        if isinstance(item["arguments"], str):
            kind = "response.function_call_arguments.done"
            events.append({"type": kind, **where, "arguments": item["arguments"]})
        done = {"output_index": where["output_index"], "item": dict(item)}
        return [*events, {"type": "response.output_item.done", **done}]


def _is_object(arguments: Any) -> bool:
    if isinstance(arguments, dict):
        return True
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


def _text_part(kind: str, text: str) -> Json:
    if kind == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
