"""Folds the events of a Cortex Agents run into ours.  No I/O.

Wire format: Snowflake's Cortex Agents Run API.  Each event carries its fields at the top level, a
`sequence_number`, and the `content_index` of the part of the answer that it belongs to; `response`
comes last and holds all parts again.  What a part means is in `snowflake_parts.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from lap_runtimes.base import (
    Asked,
    Done,
    Event,
    Heartbeat,
    Message,
    MessageDelta,
    Progress,
    Started,
    Thinking,
    ThinkingDelta,
    ToolUse,
    Usage,
)
from lap_runtimes.errors import Kind
from lap_runtimes.http_errors import clean, error_words
from lap_runtimes.responses_fold import Cursor
from lap_runtimes.snowflake_parts import Part, opened
from lap_runtimes.vendor_http import Json, decoded, error_code, fits, mapping, mappings, request_id

LIVE = (MessageDelta, ThinkingDelta, Progress, Heartbeat)
_PARTS = {
    "response.text": "text",
    "response.thinking": "thinking",
    "response.tool_use": "tool_use",
    "response.tool_result": "tool_result",
    "response.table": "table",
    "response.chart": "chart",
    "response.asset": "asset",
}
_WORDS = (
    "response.status",
    "response.tool_use.status",
    "response.tool_result.status",
    "response.warning",
)


class RunFold:
    """One run.  `ref` holds `turn`, `thread`, `parent` (the last message of the agent, which the
    next turn continues), `run`, and `open` (what an answer to each question needs to know)."""

    def __init__(self, ref: Json, *, after: Cursor | None = None) -> None:
        self.ref = {key: value for key, value in ref.items() if key != "open"}
        self.finished = False
        self._turn = str(ref.get("turn", ""))
        self._started = after is not None
        self._sequence = after.sequence if after else -1
        self._given = set(after.given) if after else set()
        self._streamed: dict[int, list[str]] = {}
        self._thoughts: dict[int, list[str]] = {}
        self._uses: set[str] = set()
        self._asked: dict[str, Any] = dict(ref.get("open") or {}) if after else {}

    @property
    def run(self) -> str:
        return str(self.ref.get("run", ""))

    def feed(self, name: str, data: str) -> list[Event]:
        """Events of one frame.  Raises `ProtocolError` for what is no JSON object."""
        body = decoded(data)
        inner = body.get("data")
        if isinstance(inner, Mapping) and "event" in body:
            body = {**inner, "event": body["event"]}  # as the specification has it, and no server
        if isinstance(body.get("sequence_number"), int):
            self._sequence = body["sequence_number"]
        return self._marked(list(self._feed(str(body.get("event") or name), body))) or [Heartbeat()]

    def feed_response(self, response: Any) -> list[Event]:
        """Events of a whole answer that were not given yet."""
        return self._marked(list(self._whole(mapping(response))))

    def _feed(self, name: str, body: Json) -> Iterator[Event]:
        self._learn(body.get("metadata"))
        if self.run:
            yield from self._start()
        if name == "response.text.delta":
            yield from self._delta(body, self._streamed, MessageDelta)
        elif name == "response.thinking.delta":
            yield from self._delta(body, self._thoughts, ThinkingDelta)
        elif name in _PARTS:
            yield from self._part(_PARTS[name], body, body.get("content_index"))
        elif name in _WORDS:
            words = clean(str(body.get("message") or body.get("status") or ""))
            yield Progress(text=words)
        elif name == "response":
            yield from self._whole(body)
        elif name == "error":
            yield from self._start()
            failed = self._failed(self._error(body), _kind(body))
            yield replace(failed, request_id=request_id(body) or None)

    def _learn(self, metadata: Any) -> None:
        """Where the run and the next turn are to be found."""
        if not isinstance(metadata, Mapping):
            return
        if metadata.get("run_id"):
            self.ref["run"] = str(metadata["run_id"])[:256]
        message = metadata.get("assistant_message_id")
        if message is None and metadata.get("role") == "assistant":
            message = metadata.get("message_id")
        if isinstance(message, int):
            self.ref["parent"] = message
        thread = metadata.get("thread_id")
        if isinstance(thread, int):
            self.ref["thread"] = thread

    def _start(self) -> Iterator[Event]:
        if not self._started:
            self._started = True
            yield Started(id=f"{self._turn}/started", ref=dict(self.ref))

    def _delta(
        self, body: Json, held: dict[int, list[str]], kind: type[MessageDelta | ThinkingDelta]
    ) -> Iterator[Event]:
        index, text = _index(body.get("content_index")), str(body.get("text") or "")
        if text and index not in self._given:
            held.setdefault(index, []).append(text)
            yield kind(message_id=self._id(index), text=text)

    def _id(self, index: int) -> str:
        return f"{self._turn}/{index}"

    def _part(self, kind: str, body: Json, index: Any) -> Iterator[Event]:
        place = _index(index, len(self._given))
        if place in self._given:
            return
        yield from self._start()
        self._given.add(place)
        streamed = "".join(self._streamed.pop(place, ()) or self._thoughts.pop(place, ()))
        for event in Part(self._id(place), kind, body, streamed).events():
            if isinstance(event, Asked):
                self._asked[event.question.id] = opened(kind, body)
            elif isinstance(event, ToolUse):
                self._uses.add(event.tool_use_id)
            yield event

    def _whole(self, body: Json) -> Iterator[Event]:
        self._learn({**body, **mapping(body.get("metadata") or {})})
        yield from self._start()
        for index, item in enumerate(mappings(body.get("content"))):
            kind = str(item.get("type") or "")
            inner = item.get(kind)
            yield from self._part(kind, inner if isinstance(inner, Mapping) else item, index)
        yield from self._close()
        yield from self._usage(mapping(body.get("metadata") or {}).get("usage"))
        yield self._done(str(body.get("status") or "completed"))

    def _close(self) -> Iterator[Event]:
        """What was streamed and never finished."""
        for index, texts in self._thoughts.items():
            yield Thinking(id=self._id(index), message_id=self._id(index), text="".join(texts))
        for index, texts in self._streamed.items():
            yield Message(id=self._id(index), message_id=self._id(index), text="".join(texts))
        self._given |= self._thoughts.keys() | self._streamed.keys()
        self._thoughts, self._streamed = {}, {}

    def _usage(self, usage: Any) -> Iterator[Event]:
        models = mappings(mapping(usage or {}).get("tokens_consumed"))
        if models:
            yield Usage(
                id=f"{self._turn}/usage",
                input_tokens=sum(_total(each.get("input_tokens")) for each in models),
                output_tokens=sum(_total(each.get("output_tokens")) for each in models),
                detail={"models": list(models)},
            )

    def _done(self, status: str) -> Done:
        self.finished = True
        done = f"{self._turn}/done"
        if status == "cancelled":
            return Done(id=done, outcome="cancelled", ref=self.ref)
        if status == "timed_out":
            return self._failed("the run took longer than Snowflake allows", "failed")
        if status == "error":
            return self._failed("the run failed without a word", "failed")
        if self._asked:
            ref = {**self.ref, "open": self._asked}
            if not fits(ref):
                return self._failed("the agent asks more than can be kept", "protocol")
            return Done(id=done, outcome="requires_action", ref=ref)
        return Done(id=done, outcome="completed", ref=self.ref)

    def _error(self, body: Json) -> str:
        words = error_words(dict(body)) or "an error without words"
        told = [f"code {error_code(body)}" if error_code(body) else ""]
        told.append(f"request {request_id(body)}" if request_id(body) else "")
        more = ", ".join(filter(None, told))
        return f"{words} ({more})" if more else words

    def _failed(self, words: str, kind: Kind) -> Done:
        self.finished = True
        return Done(
            id=f"{self._turn}/done",
            outcome="failed",
            error=clean(words),
            error_kind=kind,
            ref=self.ref,
        )

    def _marked(self, events: list[Event]) -> list[Event]:
        """What was streamed is closed before the turn ends; the cursor goes on the last event of a
        frame that is stored, because a crash between two of them must repeat the frame."""
        if events and isinstance(events[-1], Done):
            events[-1:-1] = list(self._close())
        if self._sequence < 0:
            return events
        for place in range(len(events) - 1, -1, -1):
            if not isinstance(events[place], LIVE):
                cursor = Cursor(self._sequence, frozenset(self._given)).encode()
                events[place] = replace(events[place], cursor=cursor)
                ref = {**self.ref, "open": self._asked}
                if self._asked and events[place].ref is None and fits(ref):
                    events[place] = replace(events[place], ref=ref)
                break
        return events


CODES: Mapping[str, Kind] = {
    "390112": "auth",
    "390114": "auth",
    "390144": "auth",
    "390318": "auth",
}
"""Sessions and tokens that are no longer valid."""


def _kind(body: Json) -> Kind:
    return CODES.get(error_code(body), "failed")


def _index(value: Any, otherwise: int = 0) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def _total(tokens: Any) -> int:
    return _index(tokens.get("total") if isinstance(tokens, Mapping) else tokens)
