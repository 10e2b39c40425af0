"""How many turns a runtime is given at once, and in a minute: `drive`, wrapped.

A turn beyond the limit waits in a line of its runtime, first come, first served.  A session has at
most one turn in it, and goes to the end with its next, so that a session with many prompts queued
does not keep others out.  Nothing was sent while a turn waits, and the store is told so: whoever
takes it over may start it.  Per process: another process on the same store has a line of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field

import anyio
from lap_runtimes.base import Event
from lap_runtimes.errors import Rejected

from lap_mcp.model import Pace

from .driving import Drive, Job, failed

MINUTE = 60.0
SAY = 2.0
"""Seconds after which a turn that waits says again how it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits(Event):
    """Ours: the turn waits, and nothing was sent.  Shown live; that it waits is stored."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Goes(Event):
    """Ours: the wait is over, and the next thing is the start.  Stored before it is made."""


@dataclass(slots=True, eq=False)
class _Place:
    """One turn in the line."""

    wake: anyio.Event = field(default_factory=anyio.Event)
    going: bool = False


class _Line:
    """The turns of one runtime in this process."""

    def __init__(self, minute: float) -> None:
        self._minute = minute
        self.pace = Pace()
        self._waiting: deque[_Place] = deque()
        self._going = 0
        self._starts: deque[float] = deque()
        """When the last turns began, as many as a minute may have."""

    @property
    def idle(self) -> bool:
        """Nothing is lost if this line is forgotten."""
        recent = self._starts and self._starts[-1] + self._minute > anyio.current_time()
        return not (self._waiting or self._going or recent)

    def follow(self, pace: Pace) -> None:
        """The configuration as it is now."""
        if pace != self.pace:
            self.pace = pace
            self._wake()

    def join(self) -> _Place:
        place = _Place()
        self._waiting.append(place)
        return place

    def go(self, place: _Place, *, again: bool = False) -> None:
        """`again`: it began earlier, and is not one more start."""
        self._waiting.remove(place)
        place.going = True
        self._going += 1
        if not again:
            self._starts.append(anyio.current_time())
        while len(self._starts) > (self.pace.turns_per_minute or 0):
            self._starts.popleft()
        self._wake()

    def leave(self, place: _Place) -> None:
        if place.going:
            self._going -= 1
        else:
            self._waiting.remove(place)
        self._wake()

    def _wake(self) -> None:
        if self._waiting:
            self._waiting[0].wake.set()

    def may_go(self, place: _Place) -> bool:
        most = self.pace.max_turns
        return (
            self._waiting[0] is place
            and (most is None or self._going < most)
            and self.pause(place) <= 0
        )

    def pause(self, place: _Place) -> float:
        """Seconds for which the rate alone keeps it, with those before it; 0: not at all."""
        most = self.pace.turns_per_minute
        if most is None:
            return 0.0
        now = anyio.current_time()
        times = list(self._starts)[-most:]
        for _ in range(self._waiting.index(place) + 1):
            times.append(now if len(times) < most else max(now, times[-most] + self._minute))
        return times[-1] - now

    def words(self, place: _Place, runtime: str) -> str:
        before, pace = self._waiting.index(place), self.pace
        why = []
        if pace.max_turns is not None and self._going >= pace.max_turns:
            why.append(f"{self._going} run, the limit is {pace.max_turns} at once "
                       f"(runtimes.{runtime}.max_turns)")  # fmt: skip
        if (pause := self.pause(place)) > 0:
            why.append(f"it may begin in {pause:.0f} s at {pace.turns_per_minute} a minute "
                       f"(runtimes.{runtime}.turns_per_minute)")  # fmt: skip
        if before:
            why.append(f"{before} wait before it")
        return f"Waits for the runtime {runtime}: {'; '.join(why) or 'it is next'}."

    async def wait(self, place: _Place) -> None:
        """Until it may go, perhaps, or has something new to say."""
        pause = self.pause(place)
        with anyio.move_on_after(min(pause, SAY) if pause > 0 else SAY):
            await place.wake.wait()


def paced(drive: Drive, minute: float = MINUTE) -> Drive:
    """`drive`, within what `[runtimes.NAME]` says of `max_turns` and `turns_per_minute`."""
    lines: dict[str, _Line] = {}

    def within(job: Job) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        name, pace = job.agent.runtime, job.agent.pace
        line = lines.get(name)
        if line is None:
            if pace == Pace():
                return drive(job)
            for other in [key for key, known in lines.items() if known.idle]:
                del lines[other]
            line = lines[name] = _Line(minute)
        line.follow(pace)
        return _streaming(drive, job, line)

    return within


@asynccontextmanager
async def _streaming(drive: Drive, job: Job, line: _Line) -> AsyncIterator[AsyncIterator[Event]]:
    async with aclosing(_events(drive, job, line)) as events:
        yield events


async def _events(drive: Drive, job: Job, line: _Line) -> AsyncGenerator[Event, None]:
    place = line.join()
    try:
        if job.attach:
            # It goes on at its runtime whatever the limit is: counted, not kept waiting.
            line.go(place, again=True)
        elif line.may_go(place):
            line.go(place)
        else:
            while not line.may_go(place):
                place.wake = anyio.Event()
                if (refusal := _too_late(job, line, place)) is not None:
                    yield failed(refusal)
                    return
                yield Waits(text=line.words(place, job.agent.runtime))
                await line.wait(place)
            line.go(place)
            yield Goes()
        async with drive(job) as events:
            async for event in events:
                yield event
    finally:
        line.leave(place)


def _too_late(job: Job, line: _Line, place: _Place) -> Rejected | None:
    """Why it would be in vain to wait."""
    pause = line.pause(place)
    if pause <= 0 or anyio.current_time() + pause < anyio.current_effective_deadline():
        return None
    runtime, rate = job.agent.runtime, line.pace.turns_per_minute
    return Rejected(
        f"The runtime {runtime} is given {rate} turns a minute "
        f"(runtimes.{runtime}.turns_per_minute), and with those that wait this one would begin "
        f"after its deadline of {job.agent.deadline:g} s. Nothing was sent.",
        kind="rate_limited",
        retry_after=float(round(pause) or 1),
        sent=False,
    )
