"""The steps of a `ScriptedRuntime` script, and helpers that write common scripts.  What runs them
is in `testing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import anyio

from lap_runtimes.base import (
    Answer,
    Asked,
    Done,
    Event,
    File,
    Heartbeat,
    Message,
    MessageDelta,
    Progress,
    Prompt,
    Question,
    Started,
    ThinkingDelta,
    Turn,
)
from lap_runtimes.errors import RuntimeFailure


@dataclass(frozen=True, slots=True)
class Gate:
    """Wait until the test calls `release(name)`; `reached(name)` tells when a reader is here."""

    name: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Let this many seconds pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hang:
    """Say nothing, for ever, to the reader that comes here first."""


@dataclass(frozen=True, slots=True)
class Drop:
    """End the stream without `Done`, for the reader that comes here first."""


@dataclass(frozen=True, slots=True)
class Fail:
    """Raise, for the reader that comes here first.  As the first step it is raised on entering
    `start`, as a runtime does that refuses the prompt."""

    error: RuntimeFailure


@dataclass(frozen=True, slots=True)
class AwaitAnswer:
    """Wait for `answer()` to this question; `then` says how the script goes on."""

    question_id: str
    then: Callable[[Answer], Iterable[Step]] | None = None


@dataclass(frozen=True, slots=True)
class AwaitSteer:
    """Wait for the next `steer()`; `then` says how the script goes on."""

    then: Callable[[Prompt], Iterable[Step]] | None = None


Step = Event | Gate | Wait | Hang | Drop | Fail | AwaitAnswer | AwaitSteer
Script = Sequence[Step]


def say(text: str, *, message_id: str = "m1", outcome: bool = True) -> list[Step]:
    """`Started`, the text word by word, the finished message, and `Done` unless `outcome=False`."""
    words = text.split(" ")
    deltas = [w if i == 0 else f" {w}" for i, w in enumerate(words)]
    steps: list[Step] = [Started()]
    steps += [MessageDelta(message_id=message_id, text=delta) for delta in deltas]
    steps.append(Message(message_id=message_id, text=text))
    if outcome:
        steps.append(Done(outcome="completed"))
    return steps


def ask(question: Question, *, in_stream: bool) -> list[Step]:
    """A question as either mode asks it; `in_stream` goes on after the answer, saying it."""
    if not in_stream:
        return [Started(), Asked(question=question), Done(outcome="requires_action")]

    def go_on(answer: Answer) -> Iterable[Step]:
        said = answer.decision or answer.option or answer.text
        return [Message(message_id=f"after_{question.id}", text=said), Done(outcome="completed")]

    return [Started(), Asked(question=question), AwaitAnswer(question.id, go_on)]


def big_message(size: int, *, message_id: str = "m1") -> Message:
    """A message of `size` bytes in one event."""
    return Message(message_id=message_id, text="x" * size)


def text_file(name: str, text: str) -> File:
    return File(file_id=name, name=name, media_type="text/plain", data=text.encode())


LIVE = (MessageDelta, ThinkingDelta, Heartbeat, Progress)
"""Events that are never stored, and so have neither id nor cursor."""


@dataclass(slots=True)
class ScriptedRun:
    """One turn as the scripted runtime sees it."""

    turn: Turn
    steps: list[Step]
    spent: set[int] = field(default_factory=set)
    """Indexes of `Fail`, `Drop` and `Hang` that have happened."""
    answers: dict[str, Answer] = field(default_factory=dict)
    steers: list[Prompt] = field(default_factory=list)
    steers_used: int = 0
    expanded: set[int] = field(default_factory=set)
    ended: Done | None = None
    """Set by `cancel`, or by a disconnect that aborts: what every reader gets next."""
    produced: int = 0
    """How far any reader has come: what a replay repeats, also of a run that was ended."""
    finished: bool = False
    """A reader has been given `Done`."""
    changed: anyio.Event = field(default_factory=anyio.Event)

    def notify(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()
