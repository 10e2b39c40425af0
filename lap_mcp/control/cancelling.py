"""Ending a session's turns: here, in another process, or where nobody drives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import anyio
from lap_runtimes.errors import RuntimeFailure
from sqlalchemy import Connection

from lap_mcp.model import StoredEvent
from lap_mcp.store import driving as moments
from lap_mcp.store import turns as turn_store
from lap_mcp.store.events import NewEvent, Progress
from lap_mcp.store.leases import Lease

from . import directing
from .engine import Engine
from .polling import eventually
from .runners import Runners, unreachable_driver

_PATIENCE = 2.5
"""Times `cancel_wait` that another process has."""


Outcome = Literal["cancelled", "expired"]


async def cancel(
    engine: Engine, runners: Runners, session_id: str, outcome: Outcome = "cancelled"
) -> None:
    """End the running or waiting turn and drop the queued ones.  Nothing runs: no effect.

    Raises:
        Unavailable: the process that drives the session does not react.
    """
    await _drop_queue(engine, session_id)
    runner = runners.find(session_id)
    if runner is not None:
        await directing.cancel(runner, outcome)
        return
    if not await _busy(engine, session_id):
        return
    lease = await runners.seize(session_id)
    if lease is not None:
        await _without_driver(engine, lease, outcome)
        return
    await runners.tell(session_id, "cancel", {})

    async def ended() -> bool:
        return not await _busy(engine, session_id)

    if not await eventually(ended, engine.limits.cancel_wait * _PATIENCE):
        raise unreachable_driver(session_id)


async def _drop_queue(engine: Engine, session_id: str) -> None:
    now = engine.clock.now()

    def query(connection: Connection) -> None:
        for turn, _ in turn_store.open_turns(connection, session_id):
            if turn.outcome == "queued":
                turn_store.end(connection, turn.id, "cancelled", None, now)

    await engine.database.write(query)


async def _busy(engine: Engine, session_id: str) -> bool:
    return bool(
        await engine.database.read(lambda connection: turn_store.open_turns(connection, session_id))
    )


async def _without_driver(engine: Engine, lease: Lease, outcome: Outcome) -> None:
    """A turn that waits for answers, or whose process died: we hold its lease now."""
    session = await engine.database.read(
        lambda connection: turn_store.find_session(connection, None, lease.session_id)
    )
    note = "" if outcome == "cancelled" else "Nobody answered its question in time. "
    note += await _tell_runtime(engine, session.agent, dict(session.ref))
    now = engine.clock.now()

    def query(connection: Connection) -> Sequence[StoredEvent]:
        stored: list[StoredEvent] = []
        for turn, _ in turn_store.open_turns(connection, lease.session_id):
            closing = [
                NewEvent(type="user.interrupt", payload={}),
                NewEvent(
                    type="session.status_idle", payload={"stop_reason": {"type": "interrupted"}}
                ),
            ]
            ended = moments.end(
                connection,
                lease,
                turn.id,
                Progress(outcome=outcome, error=note.strip() or None),
                closing=closing,
                gone=False,
                now=now,
            )
            stored.extend(ended.stored)
        return stored

    live = engine.hub.get(lease.session_id)
    live.publish(await engine.database.write(query))
    engine.hub.release(live)


async def _tell_runtime(engine: Engine, agent_name: str, ref: dict[str, object]) -> str:
    if not ref:
        return ""
    runtime = engine.runtimes.runtime_for(engine.runtimes.agent(agent_name))
    if runtime.capabilities.cancel != "remote":
        return "" if runtime.capabilities.cancel == "disconnect" else _STILL
    try:
        with anyio.fail_after(engine.limits.cancel_wait):
            await runtime.cancel(ref)
    except RuntimeFailure as failure:
        return f"The runtime refused to stop: {failure.message}"
    except TimeoutError:
        return _STILL
    return ""


_STILL = "This runtime was not told to stop, or did not react; it may still be working."
