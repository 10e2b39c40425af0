"""`drive`: the one path by which a turn's events come in, whether it is started or re-attached.

It knows runtimes and clocks, not the store.  It ends with `Done`, always: a runtime that hangs,
breaks off or lies becomes a `Done` that says so in words.  Governance wraps it; every wrapper has
the shape `Drive`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, replace

import anyio
from lap_runtimes.base import Done, Event, Progress, Ref, Runtime, Turn
from lap_runtimes.errors import RuntimeFailure

from lap_mcp.model import Agent

BACKOFF = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
"""Seconds before each further attempt to re-attach; any event starts it over."""

_REFUSALS = 3
"""How often a start that was refused for its pace is made again …"""
_LONGEST_PAUSE = 120.0
"""… and the longest that is waited for it, in seconds: a runtime that asks for more is obeyed by
ending the turn, in words."""

_HOPELESS = frozenset({"auth", "not_found", "gone", "invalid", "unsupported"})
"""Failures that another attempt would only repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One start of a turn, or its continuation."""

    agent: Agent
    runtime: Runtime
    turn: Turn
    cursor: str | None = None
    attach: bool = False
    """The start was made earlier (by another process, perhaps): only re-attach."""

    def attached(self) -> Job:
        return replace(self, attach=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed(Event):
    """Ours: the stream was lost and is read again; open messages begin anew."""


Drive = Callable[[Job], AbstractAsyncContextManager[AsyncIterator[Event]]]


@asynccontextmanager
async def drive(job: Job) -> AsyncIterator[AsyncIterator[Event]]:
    async with aclosing(_events(job)) as events:
        yield events


class _Lost(Exception):
    """The stream is gone; the words say how."""


async def _events(job: Job) -> AsyncGenerator[Event, None]:
    position = _Position(job)
    attempts = farthest = 0
    while True:
        came, asked = 0, 0.0
        try:
            async with aclosing(position.read()) as events:
                async for event in events:
                    came += 1
                    if came > farthest or event.cursor is not None:
                        # Not a replay of what came before the loss.
                        attempts, farthest = 0, max(came, farthest)
                    if isinstance(event, Done):
                        yield _identified(event)
                        return
                    yield event
            how = "closed the stream before the turn ended"
        except _Lost as lost:
            how = str(lost)
        except RuntimeFailure as failure:
            if position.final(failure):
                yield failed(failure)
                return
            how, asked = failure.message, failure.retry_after or 0.0
        if position.hopeless or attempts >= len(BACKOFF):
            yield Done(outcome="failed", error=position.words(job, how))
            return
        pause = max(BACKOFF[attempts], asked)
        if asked:
            yield Progress(text=f"{job.agent.runtime} asks to wait {asked:g} s: {how}")
        await anyio.sleep(pause)
        attempts += 1
        position.again()
        yield Replayed()


class _Position:
    """Where we are in a turn's stream, and how to get it again."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ref: Ref = job.turn.ref
        self._cursor = job.cursor
        self._attach = job.attach
        self._begun = job.attach
        """The runtime has, as far as we know, taken the prompt and said how to find it."""
        self._refused = 0

    async def read(self) -> AsyncGenerator[Event, None]:
        job = self._job
        stream = (
            job.runtime.attach(self._ref, self._cursor)
            if self._attach
            else job.runtime.start(job.turn)
        )
        async with stream as events:
            while True:
                event = await _next(events, job.agent.silence)
                if event is None:
                    return
                self._follow(event)
                yield event

    def _follow(self, event: Event) -> None:
        if event.ref is not None:
            self._ref = event.ref
            self._begun = True
        if event.cursor is not None:
            self._cursor = event.cursor

    def final(self, failure: RuntimeFailure) -> bool:
        """No further attempt makes sense, or the first start failed before anything ran."""
        return (
            failure.kind in _HOPELESS
            or _too_long(failure.retry_after)
            or (not self._begun and not self._repeatable(failure))
        )

    def _repeatable(self, failure: RuntimeFailure) -> bool:
        if failure.kind in ("rate_limited", "overloaded"):
            self._refused += 1
            if self._refused > _REFUSALS:
                return False
        return failure.sent and self._job.runtime.capabilities.idempotent_start

    @property
    def hopeless(self) -> bool:
        capabilities = self._job.runtime.capabilities
        if self._begun:
            return capabilities.attach == "none"
        return not capabilities.idempotent_start

    def again(self) -> None:
        self._attach = self._begun

    def words(self, job: Job, how: str) -> str:
        where = f"The runtime {job.agent.runtime} {how}" if _verb(how) else how
        if not self._begun:
            return f"{where}. The agent may have started to work on the prompt."
        if job.runtime.capabilities.attach == "none":
            return f"{where}. This runtime cannot resume a lost stream; what came is kept."
        return f"{where}. Re-attaching failed {len(BACKOFF)} times; what came is kept."


def _too_long(retry_after: float | None) -> bool:
    """The runtime asks for a pause that we, or the turn's deadline, do not allow."""
    if retry_after is None:
        return False
    left = anyio.current_effective_deadline() - anyio.current_time()
    return retry_after > _LONGEST_PAUSE or retry_after >= left


def _verb(how: str) -> bool:
    return how.startswith(("closed", "sent"))


async def _next(events: AsyncIterator[Event], silence: float) -> Event | None:
    with anyio.move_on_after(silence):
        try:
            return await anext(events)
        except StopAsyncIteration:
            return None
    raise _Lost(f"sent nothing for {silence:g} s")


def _identified(done: Done) -> Done:
    """A failure with the vendor's id for its request in its words, for a support ticket."""
    words = done.error or ""
    if not done.request_id or done.request_id in words:
        return done
    return replace(done, error=f"{words} Request {done.request_id}.".strip())


def failed(failure: RuntimeFailure) -> Done:
    """A failure of the runtime as the end of a turn."""
    words = failure.message
    if failure.status is not None and str(failure.status) not in words:
        words += f" (status {failure.status})"
    if failure.request_id:
        words += f" Request {failure.request_id}."
    if failure.retry_after:
        words += f" It asks to wait {failure.retry_after:g} s."
    return Done(
        outcome="failed", error=words, error_kind=failure.kind, request_id=failure.request_id
    )
