"""Content blocks of one round of an upstream, put together from its events.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from lap_mcp.front_parts.wire import Json, mapping, sequence

from .partial_json import PartialJson

_TEXTS: Final = {"text_delta": "text", "thinking_delta": "thinking"}


class Block:
    """One block: `feed` its deltas, then `whole`."""

    def __init__(self, start: Json, index: int, name: str) -> None:
        """`index`: the client's.  `name`: of our tool, where it is a call of ours."""
        self._start = start
        self.index = index
        self.name = name
        self.input: PartialJson | None = None
        self.over = False
        if isinstance(start.get("input"), dict) and not start["input"]:
            self.input = PartialJson()

    def feed(self, delta: Json) -> Json | None:
        """The delta as it may be passed on; `None`: not at all."""
        kind = str(delta.get("type"))
        if kind in _TEXTS:
            key = _TEXTS[kind]
            self._start[key] = f"{self._start.get(key) or ''}{delta.get(key, '')}"
        elif kind == "signature_delta":
            self._start["signature"] = delta.get("signature")
        elif kind == "citations_delta":
            told = [*sequence(self._start.get("citations")), delta.get("citation")]
            self._start["citations"] = told
        elif kind == "input_json_delta" and self.input is not None:
            passed = self.input.feed(str(delta.get("partial_json", "")))
            if not self.name:
                return delta
            return {**delta, "partial_json": passed} if passed else None
        elif kind == "compaction_delta":
            self._start |= {key: value for key, value in delta.items() if key != "type"}
        return delta

    @property
    def whole(self) -> Json:
        if self.input is None:
            return dict(self._start)
        value = self.input.shown()
        return {**self._start, "input": value if isinstance(value, dict) else {}}

    @property
    def problem(self) -> bool:
        """Its input cannot be used."""
        if self.input is None:
            return False
        return not (self.input.empty or self.input.complete)


def events_of(event: Mapping[str, Any]) -> Iterator[Json]:
    """A whole message, from an upstream that does not stream, as the events of one."""
    if event.get("type") != "message":
        yield dict(event)
        return
    usage = mapping(event.get("usage"))
    ends = {"stop_reason": event.get("stop_reason"), "stop_sequence": event.get("stop_sequence")}
    start = {**event, "content": [], "stop_reason": None, "stop_sequence": None}
    yield {"type": "message_start", "message": start}
    for index, block in enumerate(map(mapping, sequence(event.get("content")))):
        yield {"type": "content_block_start", "index": index, "content_block": block}
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "message_delta", "delta": ends, "usage": usage}
    yield {"type": "message_stop"}
