"""A runtime that follows a script: the real contract without a network, for tests of what stands
above it.  It shows loss, silence, questions and replay exactly when a test says so.

A script is a sequence of steps (`script.py`): events, gates, waits, failures.  The scripted turn
lives "at the runtime": a reader that leaves and attaches again goes on in the same script.  `Fail`,
`Drop` and `Hang` happen to one reader only, so that a second one gets past them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import ClassVar, TypeVar

import anyio

from lap_runtimes.base import (
    AgentInfo,
    Answer,
    Answers,
    Asked,
    Capabilities,
    Done,
    Event,
    Prompt,
    Ref,
    Turn,
)
from lap_runtimes.errors import Rejected, Unsupported
from lap_runtimes.script import (
    LIVE,
    AwaitAnswer,
    AwaitSteer,
    Drop,
    Fail,
    Gate,
    Hang,
    Script,
    ScriptedRun,
    Step,
    Wait,
    ask,
    big_message,
    say,
    text_file,
)

__all__ = [
    "EVERYTHING",
    "AwaitAnswer",
    "AwaitSteer",
    "Drop",
    "Fail",
    "Gate",
    "Hang",
    "Script",
    "ScriptedRuntime",
    "Step",
    "Wait",
    "ask",
    "big_message",
    "say",
    "text_file",
]

_T = TypeVar("_T")

EVERYTHING = Capabilities(
    discover=True,
    answer="in_stream",
    attach="cursor",
    cancel="remote",
    on_disconnect="continues",
    idempotent_start=True,
    files_in=True,
    files_out=True,
    usage=True,
    steer=True,
)
"""The default of `ScriptedRuntime`; `dataclasses.replace` takes away what a test wants gone."""


class ScriptedRuntime:
    """A `Runtime` over scripts.

    `script` is a function of the turn, or a list whose scripts are used one by one, a start each.
    Events get the `ref`, `id` and `cursor` that the capabilities call for, unless they have them.
    What was asked of it is in `starts`, `attaches`, `cancels`, `answers`, `steers` and
    `disconnects` (turn ids whose reader left before `Done`).
    """

    kind: ClassVar[str] = "scripted"

    def __init__(
        self,
        script: Callable[[Turn], Iterable[Step]] | Sequence[Iterable[Step]],
        *,
        capabilities: Capabilities = EVERYTHING,
        agents: Sequence[AgentInfo] = (AgentInfo(ref="scripted", name="scripted"),),
    ) -> None:
        self._script = script
        self._capabilities = capabilities
        self._agents = agents
        self._runs: dict[str, ScriptedRun] = {}
        self._reached: dict[str, anyio.Event] = {}
        self._released: dict[str, anyio.Event] = {}
        self.starts: list[Turn] = []
        self.files: list[dict[str, bytes]] = []
        """The files of each start, by name."""
        self.attaches: list[tuple[Ref, str | None]] = []
        self.cancels: list[Ref] = []
        self.answers: list[Answer] = []
        self.steers: list[Prompt] = []
        self.disconnects: list[str] = []
        self.readers = 0
        """Streams that are open now."""
        self.closed = 0

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def check(self) -> str:
        return f"scripted, {len(self._agents)} agents"

    async def agents(self) -> Sequence[AgentInfo]:
        if not self._capabilities.discover:
            raise Unsupported("this runtime cannot list its agents")
        return self._agents

    # What a test does to it

    def release(self, gate: str) -> None:
        """Open a gate, for every reader, now and later."""
        self._event(self._released, gate).set()

    async def reached(self, gate: str) -> None:
        """Return when a reader stands, or has stood, at this gate."""
        await self._event(self._reached, gate).wait()

    def run(self, turn_id: str) -> ScriptedRun:
        """The newest run of this turn.  Raises `KeyError`."""
        return self._runs[turn_id]

    # The contract

    @asynccontextmanager
    async def start(self, turn: Turn) -> AsyncIterator[AsyncIterator[Event]]:
        files = turn.input.files if isinstance(turn.input, Prompt) else ()
        if isinstance(turn.input, Answers) and self._capabilities.answer != "resume":
            raise Unsupported("this runtime takes no answers by a new start")
        if files and not self._capabilities.files_in:
            raise Unsupported("this runtime takes no files")
        self.files.append({file.name: await file.read() for file in files})
        self.starts.append(turn)
        run = self._runs.get(turn.id) if self._capabilities.idempotent_start else None
        if run is None:
            run = ScriptedRun(turn, list(self._next_script(turn)))
            self._runs[turn.id] = run
        first = run.steps[0] if run.steps else None
        if isinstance(first, Fail) and 0 not in run.spent:
            run.spent.add(0)
            raise first.error
        async with self._reading(run, 0) as events:
            yield events

    @asynccontextmanager
    async def attach(self, ref: Ref, cursor: str | None) -> AsyncIterator[AsyncIterator[Event]]:
        if self._capabilities.attach == "none":
            raise Unsupported("this runtime cannot give a stream again")
        self.attaches.append((ref, cursor))
        run = self._of(ref)
        position = 0
        if cursor is not None:
            if self._capabilities.attach != "cursor":
                raise Unsupported("this runtime has no cursors")
            position = self._after(run, cursor)
        async with self._reading(run, position) as events:
            yield events

    async def answer(self, ref: Ref, answer: Answer) -> None:
        if self._capabilities.answer != "in_stream":
            raise Unsupported("this runtime takes no answer while its stream goes on")
        run = self._of(ref)
        asked = {step.question.id for step in run.steps if isinstance(step, Asked)}
        if answer.question_id not in asked:
            raise Rejected(f"no question {answer.question_id} is open", kind="not_found")
        if answer.question_id in run.answers:
            raise Rejected(f"{answer.question_id} was answered already", kind="conflict")
        run.answers[answer.question_id] = answer
        self.answers.append(answer)
        run.notify()

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        if not self._capabilities.steer:
            raise Unsupported("this runtime takes no message while a turn runs")
        run = self._of(ref)
        run.steers.append(prompt)
        self.steers.append(prompt)
        run.notify()

    async def cancel(self, ref: Ref) -> None:
        if self._capabilities.cancel != "remote":
            raise Unsupported("this runtime has no call that cancels")
        self.cancels.append(ref)
        run = self._of(ref)
        if not run.finished and run.ended is None:
            run.ended = Done(outcome="cancelled")
            run.notify()

    async def aclose(self) -> None:
        self.closed += 1
        if not self._capabilities.process_bound:
            return
        for run in self._runs.values():
            if not run.finished and run.ended is None:
                run.ended = Done(outcome="failed", error="its process ended", session_gone=True)
                run.notify()

    # Inside

    @staticmethod
    def _event(table: dict[str, anyio.Event], name: str) -> anyio.Event:
        return table.setdefault(name, anyio.Event())

    def _next_script(self, turn: Turn) -> Iterable[Step]:
        if callable(self._script):
            return self._script(turn)
        number = len(self.starts) - 1
        if number >= len(self._script):
            raise AssertionError(f"start {number + 1} of a runtime with {number} scripts")
        return self._script[number]

    def _of(self, ref: Ref) -> ScriptedRun:
        run = self._runs.get(str(ref.get("turn")))
        if run is None:
            raise Rejected("no such run at this runtime", kind="not_found")
        return run

    def _after(self, run: ScriptedRun, cursor: str) -> int:
        for index, step in enumerate(run.steps):
            if isinstance(step, Event) and self._dress(run, index, step).cursor == cursor:
                return index + 1
        raise Rejected(f"no such cursor: {cursor}", kind="invalid")

    def _dress(self, run: ScriptedRun, index: int, event: Event) -> Event:
        """The event with the marks that the capabilities promise."""
        marks: dict[str, object] = {}
        if event.ref is None and index == self._first_event(run):
            marks["ref"] = {"turn": run.turn.id, "session": run.turn.session_id}
        if not isinstance(event, LIVE):
            if event.id is None:
                marks["id"] = f"{run.turn.id}/{index}"
            if event.cursor is None and self._capabilities.attach == "cursor":
                marks["cursor"] = str(index)
        return replace(event, **marks) if marks else event  # type: ignore[arg-type]

    @staticmethod
    def _first_event(run: ScriptedRun) -> int:
        return next((i for i, step in enumerate(run.steps) if isinstance(step, Event)), -1)

    @asynccontextmanager
    async def _reading(
        self, run: ScriptedRun, position: int
    ) -> AsyncIterator[AsyncIterator[Event]]:
        self.readers += 1
        events = self._read(run, position)
        try:
            yield events
        finally:
            self.readers -= 1
            await events.aclose()
            if not run.finished:
                self._left(run)

    def _left(self, run: ScriptedRun) -> None:
        self.disconnects.append(run.turn.id)
        if self._capabilities.cancel == "disconnect":
            run.ended = run.ended or Done(outcome="cancelled")
        elif self._capabilities.on_disconnect == "aborts":
            run.ended = run.ended or Done(outcome="failed", error="its client went away")

    async def _read(self, run: ScriptedRun, position: int) -> AsyncGenerator[Event, None]:
        while position < len(run.steps):
            if run.ended is not None and position >= run.produced:
                run.finished = True
                yield run.ended
                return
            run.produced = max(run.produced, position)
            step = run.steps[position]
            if isinstance(step, Event):
                run.finished = run.finished or isinstance(step, Done)
                yield self._dress(run, position, step)
                if isinstance(step, Done):
                    return
            elif isinstance(step, (Fail, Drop, Hang)) and position not in run.spent:
                run.spent.add(position)
                if isinstance(step, Fail):
                    raise step.error
                if isinstance(step, Drop):
                    return
                await self._until_ended(run)
                continue
            elif not await self._pass(run, position, step):
                continue
            position += 1

    async def _until_ended(self, run: ScriptedRun) -> None:
        while run.ended is None:
            await run.changed.wait()

    async def _pass(self, run: ScriptedRun, position: int, step: Step) -> bool:
        """Wait at a step that waits.  False: the run was ended meanwhile."""
        if isinstance(step, Wait):
            with anyio.move_on_after(step.seconds):
                await self._until_ended(run)
        elif isinstance(step, Gate):
            self._event(self._reached, step.name).set()
            await self._first_of(run, self._event(self._released, step.name))
        elif isinstance(step, AwaitAnswer):
            while step.question_id not in run.answers and run.ended is None:
                await run.changed.wait()
            if run.ended is None:
                self._expand(run, position, step.then, run.answers[step.question_id])
        elif isinstance(step, AwaitSteer) and position not in run.expanded:
            while run.steers_used >= len(run.steers) and run.ended is None:
                await run.changed.wait()
            if run.ended is None:
                run.steers_used += 1
                self._expand(run, position, step.then, run.steers[run.steers_used - 1])
        return run.ended is None

    @staticmethod
    def _expand(
        run: ScriptedRun, position: int, then: Callable[[_T], Iterable[Step]] | None, value: _T
    ) -> None:
        if position not in run.expanded:
            run.expanded.add(position)
            run.steps[position + 1 : position + 1] = list(then(value)) if then else []

    @staticmethod
    async def _first_of(run: ScriptedRun, event: anyio.Event) -> None:
        """Return when the event is set or the run is ended."""
        while run.ended is None and not event.is_set():
            async with anyio.create_task_group() as waiters:

                async def wait(what: anyio.Event) -> None:
                    await what.wait()
                    waiters.cancel_scope.cancel()

                waiters.start_soon(wait, event)
                waiters.start_soon(wait, run.changed)
