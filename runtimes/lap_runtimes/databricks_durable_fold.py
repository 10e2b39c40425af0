"""Folds the events of a DurableAgentServer's invocation into ours.  No I/O.

The server's own events say that a run started, completed or failed, and nothing else: not even why
it failed.  All others are the agent's.  Understood are those of the official templates (`delta`,
`message`, `interrupt`), an `error` with words, and `progress`.
Wire format: databricks-agentbricks 0.7, `databricks_agentkit.runtime.app`, and its templates.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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
    Usage,
)
from lap_runtimes.errors import Kind, ProtocolError
from lap_runtimes.http_errors import clean, error_words, told_kind
from lap_runtimes.langgraph_interrupts import checked, questions
from lap_runtimes.langgraph_messages import message_events, text_in
from lap_runtimes.stream import Frame

Json = Mapping[str, Any]
_LIVE = (MessageDelta, Progress, Heartbeat)
_ROLES = {"assistant": "ai", "ai": "ai", "tool": "tool"}


@dataclass(frozen=True, slots=True)
class Cursor:
    """The number of an event, and whether the agent had said something by then."""

    sequence: int
    said: bool

    def encode(self) -> str:
        return f"{self.sequence} {int(self.said)}"

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises `ValueError`."""
        sequence, said = text.split(" ")
        return cls(int(sequence), said == "1")


class InvocationFold:
    """One turn.  `ref` names its invocation."""

    def __init__(self, turn_id: str, ref: Json, *, after: Cursor | None = None) -> None:
        self.ended = False
        """The run is over, and `end` is to be called."""
        self._turn = turn_id
        self._ref = dict(ref)
        self._started = after is not None
        self._sequence = after.sequence if after else 0
        self._said = after.said if after else False
        self._open: dict[str, list[str]] = {}
        self._given: set[str] = set()
        self._attempt = 0
        self._interrupts: dict[str, Any] = {}
        self._words = ""
        self._kind: Kind = "failed"
        self._failed = False

    @property
    def invocation(self) -> str:
        return str(self._ref["invocation"])

    @property
    def wants_output(self) -> bool:
        """Nothing was said: what the invocation gave back is to be looked up."""
        return not (self._said or self._failed or self._open)

    def start(self) -> list[Event]:
        if self._started:
            return []
        self._started = True
        return [Started(id=f"{self._turn}/started", ref=self._ref)]

    def feed(self, frame: Frame) -> list[Event]:
        """Events of one frame.  Raises `ProtocolError` for what is no JSON object."""
        try:
            body = json.loads(frame.data)
        except (ValueError, RecursionError) as exc:
            raise ProtocolError(f"the stream has an event that is not JSON: {exc}") from exc
        if not isinstance(body, Mapping):
            raise ProtocolError("the stream has an event that is no object")
        if frame.id.isdecimal():
            self._sequence = int(frame.id)
        return self._marked(list(self._feed(str(body.get("type", "")), body))) or [Heartbeat()]

    def end(self, output: Any) -> list[Event]:
        """What is left to say at the end; `output` where it was wanted."""
        return self._marked(list(self._end(output)))

    def _feed(self, kind: str, body: Json) -> Iterator[Event]:
        if kind == "run.started":
            self._attempt += 1
            if self._attempt > 1:
                yield from self._close()
                yield Progress(text="the server was interrupted and works on it again")
        elif kind in ("run.completed", "run.failed"):
            self.ended, self._failed = True, kind == "run.failed"
        elif kind == "delta":
            yield from self._delta(body)
        elif kind == "message":
            message = body.get("message")
            yield from self._message(message if isinstance(message, Mapping) else body)
        elif kind == "interrupt":
            self._interrupts[str(body.get("id"))] = body.get("value")
            self._said = True
        elif kind == "error":
            self._words = error_words({**body, "type": None}) or self._words
            self._kind = told_kind({**body, "type": None})
        elif kind == "progress":
            yield Progress(text=clean(str(body.get("content") or body.get("text") or "")))

    def _delta(self, body: Json) -> Iterator[Event]:
        text = text_in(body.get("content"))
        if text:
            message_id = str(body.get("id") or f"message{self._attempt}")[:256]
            self._open.setdefault(message_id, []).append(text)
            yield MessageDelta(message_id=self._place(message_id), text=text)

    def _message(self, message: Json) -> Iterator[Event]:
        """A whole message; the templates differ in whether it has the id of its deltas."""
        role = _ROLES.get(str(message.get("type") or message.get("role") or ""))
        role = role or _ROLES.get(str(message.get("role") or ""))
        if role is None:
            return
        text = text_in(message.get("content"))
        given = str(message.get("id") or "")[:256]
        if given not in self._open:
            same = (k for k, parts in self._open.items() if "".join(parts) == text)
            given = next(same, given) or f"{self._attempt}.{self._sequence}"
        if given in self._given:
            return
        yield from self._whole(given, {**message, "type": role})

    def _whole(self, message_id: str, message: Json) -> Iterator[Event]:
        self._given.add(message_id)
        streamed = bool(self._open.pop(message_id, []))
        for event in message_events(message, self._place(message_id), streamed=streamed):
            self._said = self._said or isinstance(event, Message)
            yield event
        usage = message.get("usage_metadata")
        if isinstance(usage, Mapping):
            counts = [usage.get(name) for name in ("input_tokens", "output_tokens")]
            if all(isinstance(count, int) for count in counts):
                number = f"{self._place(message_id)}/usage"
                yield Usage(id=number, input_tokens=counts[0] or 0, output_tokens=counts[1] or 0)

    def _place(self, message_id: str) -> str:
        return f"{self._turn}/{message_id}"

    def _close(self) -> Iterator[Event]:
        for message_id, parts in list(self._open.items()):
            yield from self._whole(message_id, {"type": "ai", "content": "".join(parts)})

    def _end(self, output: Any) -> Iterator[Event]:
        yield from self._close()
        if self._failed:
            yield self._done("failed", self._words or "the agent failed, and does not say why")
        elif self._interrupts:
            opened: list[list[Any]] = []
            for interrupt_id, value in self._interrupts.items():
                asked, entry = questions(interrupt_id, value, None)
                opened.append(entry)
                for question in asked:
                    yield Asked(id=f"{self._turn}/{question.id}/asked", question=question)
            yield self._done("requires_action", opened=checked(opened))
        else:
            if not self._said and output is not None:
                yield _output(self._place("output"), output)
            yield self._done("completed")

    def _done(
        self,
        outcome: Literal["completed", "failed", "requires_action"],
        words: str | None = None,
        opened: list[list[Any]] | None = None,
    ) -> Done:
        return Done(
            id=f"{self._turn}/done",
            outcome=outcome,
            error=clean(words) if words else None,
            error_kind=self._kind if outcome == "failed" else None,
            ref={**self._ref, "open": opened} if opened else dict(self._ref),
        )

    def _marked(self, events: list[Event]) -> list[Event]:
        """The cursor goes on the last event of a frame that is stored."""
        for place in range(len(events) - 1, -1, -1):
            if not isinstance(events[place], _LIVE):
                cursor = Cursor(self._sequence, self._said).encode()
                events[place] = replace(events[place], cursor=cursor)
                break
        return events


def _output(place: str, output: Any) -> Message:
    """What an agent gives back that says nothing on the way."""
    text = output if isinstance(output, str) else ""
    if isinstance(output, Mapping):
        found = (output.get(name) for name in ("answer", "output", "text", "content", "message"))
        text = next((each for each in found if isinstance(each, str) and each), "")
    text = text or json.dumps(output, ensure_ascii=False, indent=1)
    data = output if isinstance(output, (Mapping, list)) else None
    return Message(id=place, message_id=place, text=text, data=data)
