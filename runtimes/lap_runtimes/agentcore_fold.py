"""Folds what an agent in AgentCore Runtime answers into our events.  No I/O.

The payload is the agent's own affair: a JSON value, or server-sent events with one JSON value each.
What agents made with the usual frameworks send is understood without being configured: text as it
is, Strands' and Bedrock's streaming events, and objects that hold the text under a usual name.
Wire format of the frame: `BedrockAgentCoreApp` of the package bedrock-agentcore 1.25.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from lap_runtimes.base import Done, Event, Heartbeat, Message, MessageDelta, Started
from lap_runtimes.http_errors import clean, error_words

Path = tuple[str, ...]

_DELTAS: tuple[Path, ...] = (
    ("data",),
    ("event", "contentBlockDelta", "delta", "text"),
    ("contentBlockDelta", "delta", "text"),
    ("delta",),
    ("text",),
    ("chunk",),
    ("content",),
)
"""The first of them that an event of a stream has is the one that counts in this stream: Strands
sends each piece of text twice, raw and as `data`."""
_WHOLES: tuple[Path, ...] = tuple(
    (name,) for name in ("result", "response", "output", "answer", "message", "text", "content")
)
"""Where the text of a whole answer, or of the last event of a stream, may be."""
_ABOUT_AN_ERROR = {"error", "message", "details", "code", "status", "statusCode"}
_LAST_WORDS: tuple[Path, ...] = (("result",), ("message",))


def parsed_path(text: str) -> Path:
    return tuple(text.split("."))


class PayloadFold:
    """One turn.  All of its text is one message."""

    def __init__(self, turn_id: str, ref: Mapping[str, Any], *, text: str | None) -> None:
        self.finished = False
        self._turn = turn_id
        self._ref = {**ref, "turn": turn_id}
        self._path = parsed_path(text) if text else None
        self._chosen: Path | None = None
        self._started = False
        self._shown: list[str] = []
        self._whole: str | None = None
        self._data: Any = None

    def start(self) -> list[Event]:
        """Once: what says that the runtime has the prompt."""
        if self._started:
            return []
        self._started = True
        return [Started(id=f"{self._turn}/started", ref=self._ref)]

    def feed(self, data: str) -> list[Event]:
        """Events of one event of the stream."""
        return [*self.start(), *self._feed(_value(data))] or [Heartbeat()]

    def whole(self, body: str) -> list[Event]:
        """Events of a whole answer: all of the turn."""
        return [*self.start(), *self._all_of(_value(body))]

    def end(self) -> list[Event]:
        """The stream ended as it should."""
        return [] if self.finished else [*self.start(), *self._finish("completed")]

    def failed(self, words: str) -> list[Event]:
        """The agent failed, in these words."""
        return [*self.start(), *self._finish("failed", clean(words))]

    def cancelled(self) -> list[Event]:
        return [*self.start(), *self._finish("cancelled")]

    def _feed(self, value: Any) -> Iterator[Event]:
        if _is_error(value):
            yield from self._finish("failed", error_words(dict(value)))
            return
        delta = value if isinstance(value, str) else self._delta(value)
        if delta:
            self._shown.append(delta)
            yield MessageDelta(message_id=self._message, text=delta)
        elif isinstance(value, Mapping):
            found = next((text for path in _LAST_WORDS if (text := _text(_at(value, path)))), None)
            self._whole = found or self._whole
            self._data = value if not self._shown and self._whole is None else self._data

    def _delta(self, value: Any) -> str:
        if not isinstance(value, Mapping):
            return ""
        paths = [self._path] if self._path else [self._chosen] if self._chosen else _DELTAS
        for path in paths:
            found = _at(value, path)
            if isinstance(found, str) and found:
                self._chosen = path
                return found
        return ""

    def _all_of(self, value: Any) -> Iterator[Event]:
        if _is_error(value):
            yield from self._finish("failed", error_words(dict(value)))
            return
        paths = (self._path,) if self._path else _WHOLES
        text = next((text for path in paths if (text := _text(_at(value, path)))), "")
        self._whole = text or _text(value)
        self._data = value if isinstance(value, (Mapping, list)) else None
        yield from self._finish("completed")

    @property
    def _message(self) -> str:
        return f"{self._turn}/message"

    def _finish(
        self, outcome: Literal["completed", "failed", "cancelled"], words: str | None = None
    ) -> Iterator[Event]:
        self.finished = True
        text = "".join(self._shown) or self._whole or ""
        if not text and self._data is not None and outcome == "completed":
            text = json.dumps(self._data, ensure_ascii=False, indent=1)
        if text:
            yield Message(id=self._message, message_id=self._message, text=text, data=self._data)
        if outcome == "failed":
            words = words or "the agent failed without a word"
            kind = "failed"
            yield Done(id=self._done, outcome=outcome, error=words, error_kind=kind, ref=self._ref)
        else:
            yield Done(id=self._done, outcome=outcome, ref=self._ref)

    @property
    def _done(self) -> str:
        return f"{self._turn}/done"


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _is_error(value: Any) -> bool:
    """What `BedrockAgentCoreApp` sends when the agent raises; not an event of the agent's that also
    has an `error`, such as that of a tool."""
    if not isinstance(value, Mapping) or not value.get("error"):
        return False
    return "error_type" in value or set(value) <= _ABOUT_AN_ERROR


def _at(value: Any, path: Path) -> Any:
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _text(value: Any) -> str:
    """The text of a string, of a message (`content`), or of a list of content blocks."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_text(_at(each, ("text",))) for each in value)
    if isinstance(value, Mapping):
        return _text(value.get("content")) or _text(value.get("text"))
    return ""
