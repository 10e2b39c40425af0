"""Folds the stream of a LangGraph run into our events.  No I/O.

Read are the modes `messages-tuple` (pieces of what models say, and messages that nodes return),
`updates` (what each node returned, whole, and interrupts) and `custom`.  The stream ends without a
last event; how the run ended is told to `end`.
Wire format: openapi.json of langgraph-api 0.16, and what its server sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

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
from lap_runtimes.http_errors import clean
from lap_runtimes.langgraph_interrupts import checked, questions
from lap_runtimes.langgraph_messages import message_events, text_in, thinking_in
from lap_runtimes.stream import Frame

Json = Mapping[str, Any]
_LIVE = (MessageDelta, ThinkingDelta, Progress, Heartbeat)
_CANCELLED = ("UserInterrupt", "UserRollback")
_SPEAKERS = ("ai", "tool")
_MAX_ID = 256


@dataclass(frozen=True, slots=True)
class Cursor:
    """The id of an event of the stream, and what was counted up to it."""

    event: str
    said: bool
    used: tuple[int, int]

    def encode(self) -> str:
        return f"{int(self.said)} {self.used[0]} {self.used[1]} {self.event}"

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises `ValueError`."""
        said, given, made, event = text.split(" ", 3)
        if not event.isprintable() or not event.isascii():
            raise ValueError("an event id that cannot be sent")
        return cls(event, said == "1", (int(given), int(made)))


class RunFold:
    """One turn.  `ref` names its thread and run."""

    def __init__(
        self, turn_id: str, ref: Json, *, nodes: Sequence[str], after: Cursor | None = None
    ) -> None:
        self.finished = False
        self.said = after.said if after else False
        """The agent has said something, or asks."""
        self._turn = turn_id
        self._ref = dict(ref)
        self._nodes = frozenset(nodes)
        self._started = after is not None
        self._event = after.event if after else ""
        self._used = after.used if after else (0, 0)
        self._open: dict[str, list[str]] = {}
        self._thoughts: dict[str, list[str]] = {}
        self._seen: set[str] = set()
        """Ids of messages of this run: a node may return older ones, too."""
        self._given: set[str] = set()
        self._interrupts: dict[str, Json] = {}

    @property
    def thread(self) -> str:
        return str(self._ref["thread"])

    def ref(self, **more: Any) -> dict[str, Any]:
        return {**self._ref, **more}

    def start(self) -> list[Event]:
        if self._started:
            return []
        self._started = True
        return [Started(id=f"{self._turn}/started", ref=self.ref())]

    def feed(self, frame: Frame) -> list[Event]:
        """Events of one frame.  Raises `ProtocolError` for what is no JSON."""
        try:
            data = json.loads(frame.data)
        except (ValueError, RecursionError) as exc:
            raise ProtocolError(f"the stream has an event that is not JSON: {exc}") from exc
        # With subgraphs the name is followed by theirs: `messages|agent:…`.
        mode = frame.event.partition("|")[0]
        if frame.id and len(frame.id) <= _MAX_ID:
            self._event = frame.id
        return self._marked(list(self._feed(mode, data))) or [Heartbeat()]

    def end(self, status: str, values: Any) -> list[Event]:
        """The run ended with this status; `values`: the thread's state, where nothing was said."""
        return self._marked(list(self._end(status, values)))

    def _feed(self, mode: str, data: Any) -> Iterator[Event]:
        if mode == "messages" and isinstance(data, list) and len(data) == 2:
            about = data[1] if isinstance(data[1], Mapping) else {}
            if isinstance(data[0], Mapping) and self._shown(about):
                yield from self._message(data[0])
        elif mode == "updates" and isinstance(data, Mapping):
            for node, update in data.items():
                if node == "__interrupt__":
                    self._interrupted(update)
                else:
                    yield from self._update(update)
        elif mode == "custom":
            text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
            yield Progress(text=clean(text))
        elif mode == "error":
            yield from self._error(data)

    def _shown(self, about: Json) -> bool:
        return not self._nodes or str(about.get("langgraph_node")) in self._nodes

    # Messages

    def _message(self, message: Json) -> Iterator[Event]:
        kind, message_id = str(message.get("type", "")), str(message.get("id") or "")[:_MAX_ID]
        if not message_id or message_id in self._given:
            return
        self._seen.add(message_id)
        if kind == "AIMessageChunk":
            yield from self._piece(message_id, message)
        elif kind in _SPEAKERS:
            yield from self._whole(message_id, message)

    def _piece(self, message_id: str, message: Json) -> Iterator[Event]:
        place = f"{self._turn}/{message_id}"
        self._open.setdefault(message_id, [])
        if thought := thinking_in(message.get("content")):
            self._thoughts.setdefault(message_id, []).append(thought)
            yield ThinkingDelta(message_id=f"{place}/thinking", text=thought)
        if text := text_in(message.get("content")):
            self._open[message_id].append(text)
            yield MessageDelta(message_id=place, text=text)

    def _update(self, update: Any) -> Iterator[Event]:
        """Messages in what a node returned that are of this run, whole."""
        for part in update if isinstance(update, list) else [update]:
            for value in part.values() if isinstance(part, Mapping) else ():
                for message in value if isinstance(value, list) else [value]:
                    if not isinstance(message, Mapping) or message.get("type") not in _SPEAKERS:
                        continue
                    message_id = self._known(message)
                    if message_id is not None:
                        yield from self._whole(message_id, message)

    def _known(self, message: Json) -> str | None:
        """The id under which this message of ours was streamed; nodes may give it a new one."""
        message_id = str(message.get("id") or "")[:_MAX_ID]
        if message_id in self._seen:
            return None if message_id in self._given else message_id
        text = text_in(message.get("content"))
        return next((k for k, v in self._open.items() if v and "".join(v) == text), None)

    def _whole(self, message_id: str, message: Json) -> Iterator[Event]:
        self._given.add(message_id)
        streamed = bool(self._open.pop(message_id, []))
        place = f"{self._turn}/{message_id}"
        thought = "".join(self._thoughts.pop(message_id, []))
        for event in message_events(message, place, streamed=streamed, thought=thought):
            self.said = self.said or isinstance(event, Message)
            yield event
        yield from self._usage(message.get("usage_metadata"))

    def _usage(self, usage: Any) -> Iterator[Event]:
        if not isinstance(usage, Mapping):
            return
        given, made = usage.get("input_tokens"), usage.get("output_tokens")
        if isinstance(given, int) and isinstance(made, int):
            self._used = (self._used[0] + given, self._used[1] + made)
            used = self._used
            number = f"{self._turn}/usage/{used[0]}.{used[1]}"
            yield Usage(id=number, input_tokens=used[0], output_tokens=used[1])

    # The end

    def _interrupted(self, interrupts: Any) -> None:
        for each in interrupts if isinstance(interrupts, list) else []:
            if isinstance(each, Mapping) and each.get("id"):
                self._interrupts[str(each["id"])] = each
                self.said = True

    def _error(self, data: Any) -> Iterator[Event]:
        about = data if isinstance(data, Mapping) else {"message": data}
        name, words = str(about.get("error") or ""), str(about.get("message") or "")
        yield from self._close()
        if name in _CANCELLED:
            yield self._done("cancelled")
        else:
            yield self._done("failed", ": ".join(filter(None, (name, words))) or "it failed")

    def _close(self) -> Iterator[Event]:
        """What models said and no node returned."""
        for message_id, parts in list(self._open.items()):
            if parts or message_id in self._thoughts:
                yield from self._whole(message_id, {"type": "ai", "content": "".join(parts)})

    def _end(self, status: str, values: Any) -> Iterator[Event]:
        yield from self._close()
        if self._interrupts and status in ("success", "interrupted"):
            yield from self._ask()
            return
        if status == "success":
            if not self.said and isinstance(values, Mapping):
                yield from self._result(values)
            yield self._done("completed")
        elif status == "interrupted":
            yield self._done("cancelled")
        else:
            yield self._done("failed", f"the run ended with the status {status or 'unknown'}")

    def _result(self, values: Json) -> Iterator[Event]:
        """A graph that streamed nothing: its messages after ours, or else its state."""
        messages = values.get("messages")
        if isinstance(messages, list):
            ids = [each.get("id") if isinstance(each, Mapping) else None for each in messages]
            after = ids.index(self._turn) + 1 if self._turn in ids else len(ids)
            for number, message in enumerate(messages[after:]):
                if isinstance(message, Mapping) and message.get("type") in _SPEAKERS:
                    found = str(message.get("id") or number)[:_MAX_ID]
                    if found not in self._given:
                        yield from self._whole(found, message)
        rest = {name: value for name, value in values.items() if name != "messages"}
        if not self.said and rest:
            place = f"{self._turn}/state"
            text = json.dumps(rest, ensure_ascii=False, indent=1)
            yield Message(id=place, message_id=place, text=text, data=rest)

    def _ask(self) -> Iterator[Event]:
        opened: list[list[Any]] = []
        for interrupt_id, each in self._interrupts.items():
            asked, entry = questions(interrupt_id, each.get("value"), each.get("response_schema"))
            opened.append(entry)
            for question in asked:
                yield Asked(id=f"{self._turn}/{question.id}/asked", question=question)
        yield self._done("requires_action", opened=checked(opened))

    def _done(
        self,
        outcome: Literal["completed", "failed", "cancelled", "requires_action"],
        words: str | None = None,
        opened: list[list[Any]] | None = None,
    ) -> Done:
        self.finished = True
        return Done(
            id=f"{self._turn}/done",
            outcome=outcome,
            error=clean(words) if words else None,
            error_kind="failed" if outcome == "failed" else None,
            ref=self.ref(open=opened) if opened else self.ref(),
        )

    def _marked(self, events: list[Event]) -> list[Event]:
        """The cursor goes on the last event of a frame that is stored: a crash between two of them
        must repeat the frame."""
        for place in range(len(events) - 1, -1, -1):
            if not isinstance(events[place], _LIVE):
                if self._event:
                    cursor = Cursor(self._event, self.said, self._used).encode()
                    events[place] = replace(events[place], cursor=cursor)
                break
        return events
