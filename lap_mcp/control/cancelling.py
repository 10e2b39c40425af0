"""Ending a session's turns: here, in another process, or where nobody drives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import Connection

from lap_mcp.errors import LapError, LeaseLost
from lap_mcp.model import StoredEvent
from lap_mcp.store import driving as moments
from lap_mcp.store import leases, waiting
from lap_mcp.store import turns as turn_store
from lap_mcp.store.events import NewEvent, Progress
from lap_mcp.store.leases import Lease
from lap_mcp.store.turns import Phase

from . import directing
from .engine import Engine
from .polling import eventually, until
from .runners import Runners, unreachable_driver
from .stopping import tell_to_stop

_PATIENCE = 2.5
"""Times `cancel_wait` that another process has."""
_HANDS_ON = 2.0
"""Seconds in which a runner notices that its next turn has begun."""

Outcome = Literal["cancelled", "expired"]


async def cancel(engine: Engine, runners: Runners, session_id: str) -> None:
    """End the running or waiting turn and drop the queued ones.  Nothing runs: no effect.

    Raises:
        Unavailable: the process that drives the session does not react.
    """
    now = engine.clock.now()
    await engine.database.write(
        lambda connection: turn_store.drop_queued(connection, session_id, None, now)
    )
    if await _ended_here(engine, runners, session_id, "cancelled"):
        return
    turn_id = await engine.database.read(
        lambda connection: turn_store.current(connection, session_id)
    )
    if turn_id is not None:
        await _ended_elsewhere(engine, runners, session_id, turn_id)


async def cancel_turn(engine: Engine, runners: Runners, session_id: str, turn_id: str) -> None:
    """End this turn and no other, also where it is queued.  It ended already: no effect.

    Raises:
        NotFound: the session has no such turn.
        Unavailable: the process that drives the session does not react.
    """
    now = engine.clock.now()
    dropped = await engine.database.write(
        lambda connection: waiting.drop_one(connection, session_id, turn_id, now)
    )
    if dropped or await _has_ended(engine, session_id, turn_id):
        return
    runner = runners.find(session_id)
    if runner is not None:
        # The one before it may have ended in the store a moment before its runner knows.
        await until(
            lambda: runner.turn_id == turn_id or runners.find(session_id) is not runner, _HANDS_ON
        )
    if not await _ended_here(engine, runners, session_id, "cancelled", turn_id):
        await _ended_elsewhere(engine, runners, session_id, turn_id)


async def _has_ended(engine: Engine, session_id: str, turn_id: str) -> bool:
    turn = await engine.database.read(
        lambda connection: turn_store.find(connection, session_id, turn_id)
    )
    return turn.ended


async def _ended_elsewhere(engine: Engine, runners: Runners, session_id: str, turn_id: str) -> None:
    """Have the process that drives the turn end it."""
    if await _has_ended(engine, session_id, turn_id):
        return
    await runners.tell(session_id, "cancel", {"turn": turn_id})
    if not await eventually(
        lambda: _has_ended(engine, session_id, turn_id), engine.limits.cancel_wait * _PATIENCE
    ):
        raise unreachable_driver(session_id)


async def expire(engine: Engine, runners: Runners, session_id: str) -> None:
    """Nobody answered in time.  Where another process drives the turn, that one ends it."""
    await _ended_here(engine, runners, session_id, "expired")


async def _ended_here(
    engine: Engine, runners: Runners, session_id: str, outcome: Outcome, turn_id: str | None = None
) -> bool:
    """False: another process drives the session, or nothing runs in it.

    `turn_id`: only this one is meant, and what waits behind it stays.
    """
    runner = runners.find(session_id)
    if runner is not None and turn_id in (None, runner.turn_id):
        try:
            await directing.cancel(runner, outcome)
        except LeaseLost:
            pass  # it ended meanwhile, or another process took it: look again
        else:
            return True
    seized = await runners.seize(session_id)
    if seized is None:
        return False
    lease, current = seized
    if turn_id not in (None, current):
        await engine.database.write(lambda connection: leases.free(connection, lease))
        return False
    await _without_driver(engine, lease, current, outcome, queue=turn_id is not None)
    return True


async def _without_driver(
    engine: Engine, lease: Lease, turn_id: str, outcome: Outcome, *, queue: bool
) -> None:
    """A turn that waits for answers, or whose process died: we hold its lease now.

    `queue`: what waits behind it stays, for whoever takes the session over.
    """
    note = "" if outcome == "cancelled" else "Nobody answered its question in time. "
    note += await _tell_runtime(engine, lease.session_id, turn_id)
    now = engine.clock.now()
    closing = [
        NewEvent(type="user.interrupt", payload={}),
        NewEvent(type="session.status_idle", payload={"stop_reason": {"type": "interrupted"}}),
    ]

    def query(connection: Connection) -> Sequence[StoredEvent]:
        if not queue:
            turn_store.drop_queued(connection, lease.session_id, None, now)
        ended = moments.end(
            connection,
            lease,
            turn_id,
            Progress(outcome=outcome, error=note.strip() or None, status="idle"),
            closing=closing,
            opening=None,
            now=now,
        )
        return ended.stored

    live = engine.hub.get(lease.session_id)
    try:
        live.publish(await engine.database.write(query))
    finally:
        engine.hub.release(live)


async def _tell_runtime(engine: Engine, session_id: str, turn_id: str) -> str:
    session, record = await engine.database.read(
        lambda connection: (
            turn_store.find_session(connection, None, session_id),
            turn_store.record(connection, turn_id),
        )
    )
    if record.phase == Phase.STORED:
        return ""  # nothing was sent
    try:
        runtime = engine.runtimes.runtime_for(engine.runtimes.agent(session.agent))
    except LapError as error:
        return f"Its runtime could not be told to stop: {error.message}"
    ref = session.ref if record.phase == Phase.BEGUN else {}
    return await tell_to_stop(runtime, ref, engine.limits.cancel_wait)
