"""Reads the answer of a custom HTTP agent as its configuration says, as our events.  No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from lap_runtimes.base import Done, Event, Heartbeat, Message, MessageDelta, Ref, Started, Usage
from lap_runtimes.errors import Kind, ProtocolError
from lap_runtimes.http_agent_config import AnswerShape
from lap_runtimes.http_errors import clean, error_words, told_kind
from lap_runtimes.http_template import Answer, Path, as_text

_MAX_KEPT = 1024


class Reading:
    """One answer's events.  All of its text is one message."""

    def __init__(self, shape: AnswerShape, beginning: Ref) -> None:
        self.finished = False
        self._shape = shape
        self._turn = str(beginning.get("turn", ""))
        self._ref = {**beginning, "kept": dict(beginning.get("kept", {}))}
        self._started = False
        self._deltas: list[str] = []
        self._text: str | None = None
        self._data: Any = None
        self._used: dict[str, int] = {}

    def feed(self, answer: Answer) -> list[Event]:
        return list(self._feed(answer)) or [Heartbeat()]

    @property
    def kept(self) -> dict[str, Any]:
        """What `answer.ref` has found so far."""
        return dict(self._ref["kept"])

    def whole(self, answer: Answer) -> Iterator[Event]:
        """A JSON answer: all of the turn."""
        yield from self._looked_at(answer, ended=True)

    def look(self, answer: Answer) -> Iterator[Event]:
        """A JSON answer about work that may go on: the end, where `done` says so."""
        done = self._shape.done
        yield from self._looked_at(answer, ended=done is not None and done.holds(answer))

    def _looked_at(self, answer: Answer, *, ended: bool) -> Iterator[Event]:
        yield from self._begin(answer)
        if answer.value is None and answer.data.strip() and self._shape.text != Path(("@data",)):
            raise ProtocolError(f"the answer is not JSON: {clean(answer.data)[:200]!r}")
        if self._failed(answer):
            yield from self._fail(answer)
            return
        self._gather(answer)
        if ended:
            yield from self._finish()
        else:
            yield Heartbeat()

    def end(self, *, said_done: bool) -> Iterator[Event]:
        """The stream ended.  Nothing, where its end should have been announced: it was lost."""
        if not self.finished and (self._shape.done is None or said_done):
            yield from self._start()
            yield from self._finish()

    def _feed(self, answer: Answer) -> Iterator[Event]:
        yield from self._begin(answer)
        if self._failed(answer):
            yield from self._fail(answer)
            return
        self._gather(answer)
        shape = self._shape
        if shape.delta is not None and (shape.delta_when is None or shape.delta_when.holds(answer)):
            delta = shape.delta.find(answer)
            if isinstance(delta, str) and delta:
                self._deltas.append(delta)
                yield MessageDelta(message_id=self._message, text=delta)
        if shape.done is not None and shape.done.holds(answer):
            yield from self._finish()

    @property
    def _message(self) -> str:
        return f"{self._turn}/message"

    def _begin(self, answer: Answer) -> Iterator[Event]:
        for name, path in self._shape.ref.items():
            found = path.find(answer)
            if isinstance(found, (str, int)) and found != "" and len(str(found)) <= _MAX_KEPT:
                self._ref["kept"][name] = found
        yield from self._start()

    def _start(self) -> Iterator[Event]:
        if not self._started:
            self._started = True
            yield Started(id=f"{self._turn}/started", ref=self._snapshot())

    def _snapshot(self) -> dict[str, Any]:
        return {**self._ref, "kept": dict(self._ref["kept"])}

    def _gather(self, answer: Answer) -> None:
        shape = self._shape
        if shape.text is not None:
            found = shape.text.find(answer)
            if found is not None:
                self._text = as_text(found)
        if shape.data is not None:
            found = shape.data.find(answer)
            self._data = self._data if found is None else found
        if shape.usage is not None:
            for name in ("input_tokens", "output_tokens"):
                path = getattr(shape.usage, name)
                found = path.find(answer) if path is not None else None
                if isinstance(found, int):
                    self._used[name] = found

    def _failed(self, answer: Answer) -> bool:
        return self._shape.error is not None and bool(self._shape.error.find(answer))

    def _fail(self, answer: Answer) -> Iterator[Event]:
        found = self._shape.error.find(answer) if self._shape.error else None
        words = error_words(found) or clean(as_text(found))
        yield from self._message_so_far()
        yield self._done("failed", words, told_kind(found))

    def _finish(self) -> Iterator[Event]:
        yield from self._message_so_far()
        if self._used:
            yield Usage(
                id=f"{self._turn}/usage",
                input_tokens=self._used.get("input_tokens", 0),
                output_tokens=self._used.get("output_tokens", 0),
            )
        self._ref["turns"] = int(self._ref.get("turns", 0)) + 1
        yield self._done("completed", None)

    def _message_so_far(self) -> Iterator[Event]:
        text = self._text if self._text is not None else "".join(self._deltas)
        if not text and self._data is not None:
            text = as_text(self._data)
        if text:
            message = self._message
            yield Message(id=message, message_id=message, text=text, data=self._data)

    def _done(
        self, outcome: Literal["completed", "failed"], words: str | None, kind: Kind | None = None
    ) -> Done:
        self.finished = True
        return Done(
            id=f"{self._turn}/done",
            outcome=outcome,
            error=words,
            error_kind=kind,
            ref=self._snapshot(),
        )
