"""Folds what an n8n workflow answers into our events.  No I/O.

Captured from n8n 2.40.7: a chat trigger that streams answers with newline-delimited JSON, which it
calls `application/json` (an agent node holds its words until the model has ended, to see whether it
calls a tool); one that does not, and a webhook, answer with whatever its last node made.  An
execution, as the management API shows it, says the same later.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lap_runtimes.base import Done, Event, Heartbeat, Message, MessageDelta, Ref
from lap_runtimes.errors import Kind, ProtocolError
from lap_runtimes.http_errors import clean, error_words
from lap_runtimes.vendor_http import Json, mapping, mappings

MAX_WHOLE = 64 * 1024 * 1024
"""Characters of an answer that is no stream."""
ENDED = ("success", "error", "canceled", "crashed")
_STREAM = ("begin", "item", "end", "error", "keepalive")
_TEXTS = ("output", "text", "message", "response", "answer")
"""Where workflows put what they say; the chat trigger itself reads `output`, then `text`."""


class AnswerFold:
    """One turn.  `ref` is what each event that changes nothing carries at the end."""

    def __init__(self, turn_id: str, ref: Ref) -> None:
        self.finished = False
        self._turn = turn_id
        self._ref = ref
        self._streams = False
        self._open: dict[str, tuple[str, list[str]]] = {}
        self._said = 0
        self._rest: list[str] = []
        self._rest_size = 0

    def feed(self, line: str, *, stopping: bool = False) -> list[Event]:
        """Events of one line.  `stopping`: the execution is being stopped, which an agent calls an
        error.  Raises `ProtocolError` for an answer that is too large."""
        try:
            body = json.loads(line)
        except (ValueError, RecursionError):
            body = None
        if isinstance(body, Mapping) and body.get("type") in _STREAM:
            self._streams = True
            if stopping and body["type"] == "error":
                return self.cancelled()
            return list(self._feed(body)) or [Heartbeat()]
        if self._streams:
            return [Heartbeat()]  # an event of a later n8n
        # One line of an answer that is written in several, or all of it.
        self._rest.append(line)
        self._rest_size += len(line)
        if self._rest_size > MAX_WHOLE:
            raise ProtocolError(f"the workflow answered more than {MAX_WHOLE // 2**20} MB")
        return [Heartbeat()]

    def end(self) -> list[Event]:
        """The answer ended by itself.  Nothing, where a message in it did not."""
        if self.finished or self._open:
            return []
        if not self._streams:
            text = "\n".join(self._rest)
            try:
                body = json.loads(text) if text.strip() else ""
            except (ValueError, RecursionError):
                body = text
            return self.whole(body)
        return [self._done("completed")]

    def whole(self, body: Any) -> list[Event]:
        """Events of an answer that is one value."""
        if isinstance(body, Mapping) and body.get("executionStarted") is True:
            return [
                self.failed(
                    "the workflow answers over a websocket: set the chat trigger's response mode "
                    "to streaming, or to the last node",
                    "unsupported",
                )
            ]
        text, data = told(body)
        message = Message(id=self._id(), message_id=self._id(), text=text, data=data)
        return [*([message] if text else []), self._done("completed")]

    def execution(self, found: Json) -> list[Event]:
        """Events of an execution that has ended."""
        status = found.get("status")
        if status == "canceled":
            return [self._done("cancelled")]
        if status != "success":
            return [self.failed(reason(found) or f"the execution ended as {status}")]
        return self.whole(output(found))

    def cancelled(self) -> list[Event]:
        """The execution was stopped.  Its stream never ends by itself."""
        return [*self._close(), self._done("cancelled")]

    def failed(self, words: str, kind: Kind = "failed") -> Done:
        self.finished = True
        done = f"{self._turn}/done"
        return Done(id=done, outcome="failed", error=clean(words), error_kind=kind, ref=self._ref)

    def _feed(self, body: Json) -> Iterator[Event]:
        kind, key = body["type"], _place(body.get("metadata"))
        if kind == "begin":
            yield from self._close(key)
            self._open[key] = (self._id(), [])
        elif kind == "item":
            message_id, texts = self._open.setdefault(key, (self._id(), []))
            content = body.get("content")
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            if text:
                texts.append(text)
                yield MessageDelta(message_id=message_id, text=text)
        elif kind == "end":
            yield from self._close(key)
        elif kind == "error":
            yield from self._close()
            yield self.failed(error_words(body.get("content")) or "it failed without a word")

    def _id(self) -> str:
        """Of the message that comes next; most turns have one."""
        place = self._said + len(self._open)
        return f"{self._turn}/answer{place}" if place else f"{self._turn}/answer"

    def _close(self, key: str | None = None) -> Iterator[Event]:
        for each in [key] if key is not None else list(self._open):
            message_id, texts = self._open.pop(each, ("", []))
            if texts:
                self._said += 1
                yield Message(id=message_id, message_id=message_id, text="".join(texts))

    def _done(self, outcome: Any) -> Done:
        self.finished = True
        return Done(id=f"{self._turn}/done", outcome=outcome, ref=self._ref)


def _place(metadata: Any) -> str:
    """Which node says it, and in which of its runs: several may speak at once."""
    if not isinstance(metadata, Mapping):
        return ""
    keys = ("nodeId", "runIndex", "itemIndex")
    return " ".join(str(metadata.get(key, "")) for key in keys)


def told(body: Any) -> tuple[str, Any]:
    """The words of an answer, and all of it where it is more than words."""
    value = body[0] if isinstance(body, list) and len(body) == 1 else body
    if isinstance(value, Mapping) and isinstance(value.get("json"), Mapping):
        value = value["json"]
    if isinstance(value, Mapping):
        for key in _TEXTS:
            if isinstance(value.get(key), str):
                return str(value[key]), dict(value) if len(value) > 1 else None
    if isinstance(value, str):
        return value, None
    return ("", None) if value is None else (json.dumps(value, ensure_ascii=False), value)


def output(found: Json) -> Any:
    """What the last node of an execution made."""
    results = mapping(mapping(found.get("data") or {}).get("resultData") or {})
    runs = mapping(results.get("runData") or {}).get(str(results.get("lastNodeExecuted") or ""))
    for run in reversed(mappings(runs)):
        main = mapping(run.get("data") or {}).get("main")
        items = mappings(main[0]) if isinstance(main, list) and main else []
        if items:
            made = [item.get("json") for item in items]
            return made[0] if len(made) == 1 else made
    return ""


def reason(found: Json) -> str:
    """Why an execution failed, in its words."""
    results = mapping(mapping(found.get("data") or {}).get("resultData") or {})
    error = results.get("error")
    return error_words(dict(error)) if isinstance(error, Mapping) else ""
