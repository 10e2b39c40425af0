"""Folds the events of an OpenAI Responses stream, or a whole response object, into ours.  No I/O.

Servers that call themselves compatible differ: some send no `response.created` or `.completed`, no
item ids, an `{"error": …}` in the middle of a 200 stream, or `[DONE]` instead of an end.
Wire format: OpenAI API reference, Responses, streaming events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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
    ThinkingDelta,
    Usage,
)
from lap_runtimes.errors import ProtocolError
from lap_runtimes.http_errors import clean, error_words, told_kind
from lap_runtimes.responses_items import Json, item_events, items_of, mapping
from lap_runtimes.vendor_http import error_code

PENDING = ("queued", "in_progress")
_TEXT_DELTAS = ("response.output_text.delta", "response.refusal.delta")
_THINKING_DELTAS = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")
_ENDS = {
    "response.completed": "completed",
    "response.failed": "failed",
    "response.incomplete": "incomplete",
    "response.cancelled": "cancelled",
}


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a stream can be taken up: the sequence number, and which output items were given."""

    sequence: int
    given: frozenset[int]

    def encode(self) -> str:
        return f"{self.sequence}:{','.join(str(index) for index in sorted(self.given))}"

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises `ValueError`."""
        sequence, _, given = text.partition(":")
        return cls(int(sequence), frozenset(int(index) for index in given.split(",") if index))


class ResponseFold:
    """One turn.  `ref` is its beginning: what the adapter wants kept beside the response's id."""

    def __init__(self, turn_id: str, ref: Json, *, cursors: bool, after: Cursor | None) -> None:
        self.turn_id = turn_id
        self.response_id = str(ref.get("response", ""))
        self.finished = False
        self.pending = False
        """The last response object fed is still being worked on."""
        self._ref = dict(ref)
        self._cursors = cursors
        self._started = after is not None
        self._official = after is not None
        """The server sends the events that begin and end a response."""
        self._sequence = after.sequence if after else -1
        self._given = set(after.given) if after else set()
        self._open: dict[str, list[str]] = {}
        self._asked: list[list[str]] = []

    # The ref holds `response` (for attach and cancel), `previous` (the last response that may be
    # continued; a failed one may not), `open` (type and id of each question), or `forgets`.

    def ref(self) -> dict[str, Any]:
        made = {**self._ref, "response": self.response_id, "turn": self.turn_id}
        if self._asked:
            made["open"] = self._asked
        return {key: value for key, value in made.items() if value}

    def feed(self, name: str, data: str) -> list[Event]:
        """Events of one frame.  Raises `ProtocolError` for what is no JSON object."""
        try:
            body = mapping(json.loads(data))
        except (ValueError, RecursionError) as exc:
            raise ProtocolError(f"the stream has an event that is not JSON: {exc}") from exc
        if isinstance(body.get("sequence_number"), int):
            self._sequence = body["sequence_number"]
        events = list(self._feed(str(body.get("type") or name), body))
        return self._marked(events) or [Heartbeat()]

    def feed_response(self, response: Any) -> list[Event]:
        """Events of a whole response object that were not given yet."""
        body = mapping(response)
        return self._marked(list(self._whole(body)))

    def end(self, *, said_done: bool) -> list[Event]:
        """The stream ended.  Nothing, where it was lost."""
        if self.finished or self._official or not (said_done or self._given):
            return []
        events = [*self._start({}), *self._closed(), *self._done("completed", {})]
        return self._marked(events)

    def _feed(self, kind: str, body: Json) -> Iterator[Event]:
        if kind == "error" or (body.get("error") and "response" not in body):
            yield from self._start({})
            yield from self._closed()
            yield self._failed(body)
            return
        if kind in _ENDS:
            response = mapping(body.get("response", {}))
            yield from self._whole({"status": _ENDS[kind], **response})
            return
        if kind in ("response.created", "response.queued", "response.in_progress"):
            self._official = True
            yield from self._start(mapping(body.get("response", {})))
            if kind == "response.queued":
                yield Progress(text="queued")
            return
        yield from self._start({})
        if kind in _TEXT_DELTAS:
            item_id = self._item_id(body.get("item_id"), body.get("output_index", 0))
            self._open.setdefault(item_id, []).append(str(body.get("delta", "")))
            yield MessageDelta(message_id=item_id, text=str(body.get("delta", "")))
        elif kind in _THINKING_DELTAS:
            item_id = self._item_id(body.get("item_id"), body.get("output_index", 0))
            yield ThinkingDelta(message_id=item_id, text=str(body.get("delta", "")))
        elif kind == "response.output_item.done":
            index = body.get("output_index", len(self._given))
            yield from self._item(mapping(body.get("item", {})), int(index))

    def _start(self, response: Json) -> Iterator[Event]:
        self.response_id = self.response_id or str(response.get("id") or "")[:512]
        if not self._started:
            self._started = True
            yield Started(id=f"{self.turn_id}/started", ref=self.ref())

    def _item_id(self, given: Any, index: Any) -> str:
        """Unique in the session, whatever the server calls its items."""
        return f"{self.turn_id}/{str(given)[:256] if given else f'item{index}'}"

    def _item(self, item: Json, index: int) -> Iterator[Event]:
        if index in self._given:
            return
        self._given.add(index)
        item_id = self._item_id(item.get("id"), index)
        streamed = "".join(self._open.pop(item_id, []))
        for event in item_events(item, item_id, streamed):
            if isinstance(event, Asked):
                self._asked.append([str(item["type"]), event.question.id])
            yield event

    def _whole(self, response: Json) -> Iterator[Event]:
        yield from self._start(response)
        status = str(response.get("status") or "completed")
        self.pending = status in PENDING
        error = response.get("error")
        if self.pending and not error:
            return
        output = items_of(response)
        for index, item in enumerate(output):
            yield from self._item(item, index)
        if output and not self._asked:
            self._asked = [
                [str(item["type"]), event.question.id]
                for index, item in enumerate(output)
                for event in item_events(item, self._item_id(item.get("id"), index), "")
                if isinstance(event, Asked)
            ]
        yield from self._closed()
        yield from _usage(self.turn_id, response.get("usage"))
        if error or status == "failed":
            yield self._failed(error or {})
        elif status == "incomplete":
            details = response.get("incomplete_details")
            reason = details.get("reason") if isinstance(details, Mapping) else None
            words = f"the response is incomplete: {reason or 'no reason given'}"
            yield self._failed({"message": words})
        else:
            yield from self._done(status, response)

    def _done(self, status: str, response: Json) -> Iterator[Event]:
        self.finished = True
        done = f"{self.turn_id}/done"
        if status == "cancelled":
            yield Done(id=done, outcome="cancelled", ref=self.ref())
            return
        self._ref["previous"] = self.response_id
        self._ref["forgets"] = not self.response_id
        if self._asked:
            yield Done(id=done, outcome="requires_action", ref=self.ref())
        else:
            yield Done(id=done, outcome="completed", ref=self.ref())

    def _closed(self) -> Iterator[Event]:
        """What was streamed and never finished."""
        for item_id, texts in self._open.items():
            yield Message(id=item_id, message_id=item_id, text="".join(texts))
        self._open = {}

    def _failed(self, error: Any) -> Done:
        """`error`: `{code, message}`, an event around one, or just words."""
        self.finished = True
        self._asked = []
        about = mapping(error) if isinstance(error, Mapping) else {"message": error}
        return Done(
            id=f"{self.turn_id}/done",
            outcome="failed",
            error=_worded(about),
            error_kind=told_kind(about),
            ref=self.ref(),
        )

    def _marked(self, events: list[Event]) -> list[Event]:
        """The cursor goes on the last event of a frame that is stored: a crash between two of them
        must repeat the frame."""
        if not self._cursors or self._sequence < 0:
            return events
        for place in range(len(events) - 1, -1, -1):
            if not isinstance(events[place], (MessageDelta, ThinkingDelta, Progress, Heartbeat)):
                cursor = Cursor(self._sequence, frozenset(self._given)).encode()
                events[place] = replace(events[place], cursor=cursor)
                break
        return events


def _worded(error: Json) -> str:
    """The words of an error, its code after them."""
    words = error_words(dict(error)) or "it failed without a word"
    code = error_code(error)
    return f"{words} ({clean(code)[:80]})" if code and code not in words else words


def _usage(turn_id: str, usage: Any) -> Iterator[Event]:
    if not isinstance(usage, Mapping):
        return
    counts = {k: v for k, v in usage.items() if isinstance(v, int) and not isinstance(v, bool)}
    yield Usage(
        id=f"{turn_id}/usage",
        input_tokens=counts.pop("input_tokens", counts.pop("prompt_tokens", 0)),
        output_tokens=counts.pop("output_tokens", counts.pop("completion_tokens", 0)),
        detail={**counts, **{k: v for k, v in usage.items() if isinstance(v, Mapping)}},
    )
