"""Runs the turns of one session, one after the other, under one lease.

A runner that loses its lease stops without a word: another process speaks for the session now.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import anyio
from lap_runtimes import base
from lap_runtimes.errors import RuntimeFailure
from sqlalchemy import Connection

from lap_mcp.errors import LapError, LeaseLost, StoreError
from lap_mcp.model import StoredEvent, Turn, TurnOutcome
from lap_mcp.store import driving as moments
from lap_mcp.store import events as event_store
from lap_mcp.store import turns as turn_store
from lap_mcp.store.events import NewEvent, Progress
from lap_mcp.store.leases import Lease, free
from lap_mcp.store.turns import Phase, TurnRecord

from .driving import Job, failed
from .engine import Engine
from .intake import Intake
from .jobs import job_of, opening
from .leased import Leased
from .recording import partial
from .stopping import tell_to_stop
from .storable import short_id, storable

log = logging.getLogger(__name__)

_LEAVE = 3.0
"""Seconds that a runtime has to take our "stop" when the server stops."""
_CLOSING = 10.0
"""Seconds that the stream of a turn which has ended has to close."""

_MESSAGES = 10_000


class Runner:
    def __init__(
        self,
        engine: Engine,
        lease: Lease,
        turn_id: str,
        *,
        adopted: bool,
        record: TurnRecord | None = None,
        before: Runner | None = None,
    ) -> None:
        """`before`: of the same session, and not yet done with the stream of its last turn."""
        self.engine = engine
        self.leased = Leased(engine, lease, turn_id)
        self.leased.live.drive(self)
        self.intake = Intake(self.leased)
        self._of: tuple[str, Turn] | None = None
        """The current turn as it began, and its principal."""
        self.runtime: base.Runtime | None = None
        """Of the current turn, once it is driven."""
        self.ending: Literal["", "cancelled", "expired"] = ""
        """Somebody asked to end the turn: whatever comes, this is its outcome."""
        self.complaint = ""
        """What went wrong when the runtime was told to stop."""
        self.ended = anyio.Event()
        """The current turn ended, or stopped for questions."""
        self.left = anyio.Event()
        """Nothing of this runner is left."""
        self._before = before
        self._over = False
        """The turn whose stream is open ended, or stopped for questions …"""
        self._following: str | None = None
        """… and this one runs now."""
        self._adopted = adopted
        self._known = record
        """What was read of the current turn when its lease was taken."""
        if record is not None:
            self._begins(record)
        self._last = Progress()
        """What the runtime said with the turn's end, to be stored with it."""
        self._leaving = False
        self._stopped = False
        self._scope = anyio.CancelScope()
        self._turn_scope = anyio.CancelScope()

    @property
    def turn_id(self) -> str:
        return self.leased.turn_id

    async def run(self) -> None:
        """Drive the current turn and those queued behind it."""
        live = self.leased.live
        try:
            with self._scope:
                await self._alone()
                while await self._turn():
                    pass
        except LeaseLost:
            log.warning("session %s is driven by another process now", live.session_id)
        except StoreError as error:
            # The lease runs out, and whoever comes next re-attaches.
            log.error("session %s is left: %s", live.session_id, error)
        finally:
            self.ended.set()
            self.left.set()
            live.leave(self)
            self.engine.hub.release(live)

    async def _alone(self) -> None:
        """Wait until the stream of the turn before is closed: a runtime may have one a session."""
        before, self._before = self._before, None
        if before is None or self._leaving or self._stopped:
            return
        with anyio.move_on_after(_CLOSING) as self._turn_scope:
            await before.left.wait()

    async def _turn(self) -> str | None:
        """One start of a turn, to its end or to its questions; the turn that follows."""
        record, self._known = self._known or await self._record(), None
        self._last, self._over = Progress(), False
        self._begins(record)
        self.leased.begin(whole=record.starts == 1 and not self._adopted)
        try:
            job = await job_of(self.engine, record)
        except LapError as error:
            # Those queued behind may have more time than this one to find a server that can.
            return await self._end("failed", str(error), queue=not self._adopted)
        in_stream = job.runtime.capabilities.answer == "in_stream"
        finished = await self._finished() if self._adopted else ()
        begun = self._adopted and record.phase == Phase.BEGUN
        self.intake.begin(record.ref, finished, begun=begun, in_stream=in_stream)
        self.runtime = job.runtime
        if self._adopted:
            continued = continuation(record, job)
            if isinstance(continued, str):
                return await self._end("failed", continued)
            job = continued
        return await self._within_deadline(record, job)

    def _begins(self, record: TurnRecord) -> None:
        self._of = (record.principal, record.turn)
        if record.turn.outcome == "running":
            self.leased.live.know(*self._of)

    async def _record(self) -> TurnRecord:
        return await self.engine.database.read(
            lambda connection: turn_store.record(connection, self.turn_id)
        )

    async def _finished(self) -> Sequence[str]:
        """Messages that are stored of this turn."""
        said = await self.engine.database.read(
            lambda connection: event_store.read(
                connection,
                self.leased.lease.session_id,
                turn_id=self.turn_id,
                types=["agent.message", "agent.thinking"],
                limit=_MESSAGES,
            )
        )
        return [short_id(str(event.payload["id"])) for event in said]

    async def _within_deadline(self, record: TurnRecord, job: Job) -> str | None:
        started = record.turn.started_at or self.leased.now
        remaining = started + job.agent.deadline - self.leased.now
        broken: base.Done | None = None
        self._turn_scope = anyio.CancelScope(deadline=anyio.current_time() + max(remaining, 0.0))
        if self._leaving or self._stopped:
            return await self._cut_off(job)
        with self._turn_scope:
            broken = await self._guarded(job)
        if self._over:
            return self._following
        if broken is None:
            return await self._cut_off(job)
        return await self._finish(broken)

    async def _guarded(self, job: Job) -> base.Done | None:
        """Boundary: whatever an adapter raises ends its turn, in words, and nothing else."""
        try:
            return await self._drive(job)
        except (LeaseLost, StoreError):
            raise
        except RuntimeFailure as failure:
            return failed(failure)
        except Exception as error:
            log.exception("the adapter of runtime %s broke", job.agent.runtime)
            return base.Done(
                outcome="failed",
                error=f"The adapter of runtime {job.agent.runtime} broke "
                f"({type(error).__name__}); the server's log says where.",
                error_kind="protocol",
            )

    async def _drive(self, job: Job) -> base.Done | None:
        """Read the stream to its end, which is stored before the stream is closed: that may take
        longer than anybody should wait.  What is returned is still to be stored."""
        async with self.engine.drive(job) as events:
            async for raw in events:
                event = storable(raw)
                async with self.leased.order:
                    if not isinstance(event, base.Done):
                        await self.intake.take(event)
                        continue
                    self._last = self.intake.progress(event)
                with anyio.CancelScope(shield=True):
                    await self._finish(event)
                return None
        return base.Done(outcome="failed", error="The stream ended without an end.")

    # Ends --------------------------------------------------------------------------------------

    async def _finish(self, done: base.Done) -> str | None:
        if self.ending or done.outcome == "cancelled":
            words = done.error or self.complaint or None
            return await self._end(self.ending or "cancelled", words, gone=done.session_gone)
        if done.outcome == "requires_action":
            if await self._stop_for_questions():
                return None
            return await self._end(
                "failed",
                "The runtime waits for an answer, but there is no question of it that is open.",
                kind="protocol",
            )
        return await self._end(
            done.outcome, done.error, kind=done.error_kind, gone=done.session_gone
        )

    async def _stop_for_questions(self) -> bool:
        """False: none is open."""
        await self.intake.settle()

        def query(connection: Connection) -> Sequence[StoredEvent]:
            return moments.stop_for_questions(
                connection, self.leased.lease, self.turn_id, self.leased.now, self._last
            )

        stored = await self.leased.write(query)
        self.leased.publish(stored)
        if stored:
            self._goes_over(None)
        return bool(stored)

    async def _cut_off(self, job: Job) -> str | None:
        """The turn's scope was cancelled: by us, or by its deadline."""
        if self._leaving and not self.ending:
            return await self._leave(job)
        if self.ending:
            return await self._end(self.ending, self.complaint or None)
        note = await self.tell_to_stop(self.engine.limits.cancel_wait)
        words = f"The turn took longer than its deadline of {job.agent.deadline:g} s. {note}"
        if self.intake.waiting:
            words += f"It waited for the runtime {job.agent.runtime}, and nothing was sent."
        return await self._end("expired", words.strip())

    async def _leave(self, job: Job) -> str | None:
        """The server stops: a turn that goes on without us is left for the next process."""
        await self.intake.settle()
        if self.intake.waiting:
            # Nothing was sent: whoever takes the session over starts it.
            await self.leased.write(lambda connection: free(connection, self.leased.lease))
            return None
        capabilities = job.runtime.capabilities
        goes_on = capabilities.on_disconnect == "continues" and capabilities.attach != "none"
        record = await self._record()
        if goes_on and record.phase == Phase.BEGUN:
            if record.turn.outcome != "requires_action":
                await self.leased.write(lambda connection: free(connection, self.leased.lease))
            # Where an answer is waited for, the lease stays, in our name: it tells the next process
            # that this turn needs its stream, and is free as soon as we are gone.
            return None
        note = await self.tell_to_stop(_LEAVE)
        return await self._end(
            "failed", f"The server was stopped while the turn ran. {note}".strip()
        )

    async def tell_to_stop(self, timeout: float) -> str:
        """Use the runtime's own verb; words on what went wrong, or none."""
        if self.runtime is None or self.intake.waiting:
            return ""
        ref = self.intake.ref if self.intake.begun else {}
        return await tell_to_stop(self.runtime, ref, timeout)

    async def _end(
        self,
        outcome: TurnOutcome,
        error: str | None = None,
        *,
        kind: str | None = None,
        gone: bool = False,
        queue: bool = True,
    ) -> str | None:
        """`queue`: go on with the turn that is queued next."""
        leased, now = self.leased, self.leased.now
        self.intake.flush()
        words = None if error is None else storable(self.engine.scrubber.text(error))
        kept, last = self.intake.kept(self._last)
        closing = list(kept)
        closing += [
            partial(message.kind, message_id, self.engine.scrubber.text(message.text))
            for message_id, message in leased.live.open.items()
            if message.text
        ]
        leased.live.open.clear()
        if outcome in ("failed", "expired"):
            payload = {"message": words or "The agent failed without saying why."}
            if kind is not None:
                payload["kind"] = kind
            closing.append(NewEvent(type="session.error", payload=payload))
        closing.append(_last_event(outcome, gone=gone))
        status = "terminated" if gone else "idle"
        ended = await leased.write(
            lambda connection: moments.end(
                connection,
                leased.lease,
                self.turn_id,
                replace(last, outcome=outcome, error=words, status=status),
                closing=closing,
                opening=opening if queue and not self._leaving else None,
                now=now,
                memory=leased.memory,
            )
        )
        leased.publish(ended.stored)
        if self._of is not None:
            principal, turn = self._of
            seq = max(event.seq for event in ended.stored if event.turn_id == turn.id)
            turn = replace(turn, outcome=outcome, error=words, last_seq=seq, ended_at=now)
            leased.live.know(principal, turn)
            self.engine.hub.answers.keep(principal, turn.session_id, turn.id, leased.said)
        return self._goes_over(ended.turn_id)

    def _goes_over(self, following: str | None) -> str | None:
        """The turn is over in the store: who asks from here on means the one that follows."""
        self._over, self._following = True, following
        self._adopted = False
        self.ended.set()
        if following is not None:
            self.leased.turn_id, self.ended = following, anyio.Event()
            self.runtime = None
            self.ending, self._stopped, self.complaint = "", False, ""
        return following

    # Being told --------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the current turn on our side now, also before it has got anywhere."""
        self._stopped = True
        self._turn_scope.cancel()

    def lose(self) -> None:
        """The lease is gone: write nothing more."""
        self._scope.cancel()

    def leave(self) -> None:
        """The server stops."""
        self._leaving = True
        self._turn_scope.cancel()


def continuation(record: TurnRecord, job: Job) -> Job | str:
    """How a turn goes on whose process died: the job, or why it cannot, in words."""
    capabilities = job.runtime.capabilities
    if record.phase == Phase.BEGUN and capabilities.attach != "none":
        return job.attached()
    if capabilities.idempotent_start or record.phase == Phase.STORED:
        return job
    if record.phase == Phase.SENT:
        return (
            "The server ended after the prompt was sent and before the runtime said how the turn "
            "is found again. The agent may have started to work on it."
        )
    return (
        f"The server ended while the turn ran, and the runtime {job.agent.runtime} cannot resume "
        "a lost stream. The agent may have gone on."
    )


def _last_event(outcome: str, *, gone: bool) -> NewEvent:
    if gone:
        return NewEvent(type="session.status_terminated", payload={"reason": outcome})
    reason = {"completed": "end_turn", "cancelled": "interrupted"}.get(outcome, outcome)
    return NewEvent(type="session.status_idle", payload={"stop_reason": {"type": reason}})
