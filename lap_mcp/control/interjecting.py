"""A word put into a running turn, wherever it is driven: it counts once it is stored."""

from __future__ import annotations

from sqlalchemy import Connection

from lap_mcp.clock import new_id
from lap_mcp.errors import Conflict, Unavailable
from lap_mcp.store import commands
from lap_mcp.store import events as event_store
from lap_mcp.store import turns as turn_store

from . import directing
from .engine import Engine
from .polling import eventually, until
from .runner import Runner
from .runners import Runners, unreachable_driver

_ELSEWHERE = 5.0
"""Seconds that the process which drives the session has, besides those of its runtime."""
_TAKEN_UP = 2.0
"""Seconds that a turn which was only just taken over has to find its runtime."""


async def steer(engine: Engine, runners: Runners, session_id: str, turn_id: str, text: str) -> None:
    """Raises: Unavailable, Conflict, where the message was not taken."""
    runner = runners.find(session_id)
    if runner is None and (seized := await runners.seize(session_id)):
        # The process that drove it is gone: take the turn up again.
        runner = runners.run(*seized, adopted=True)
        await until(lambda: _ready(runner), _TAKEN_UP)
    if runner is None:
        await _elsewhere(engine, runners, session_id, turn_id, text)
        return
    if runner.ended.is_set():
        raise _over()
    await directing.steer(runner, text)


def _ready(runner: Runner) -> bool:
    return runner.runtime is not None or runner.ended.is_set()


async def _elsewhere(
    engine: Engine, runners: Runners, session_id: str, turn_id: str, text: str
) -> None:
    word = new_id("cmd")
    payload = {"text": text, "turn": turn_id, "id": word}
    command = await runners.tell(session_id, "steer", payload)

    def look(connection: Connection) -> tuple[bool, bool]:
        # The turn first: a message that was stored just before its end is then seen.
        over = turn_store.find(connection, session_id, turn_id).ended
        return over, event_store.has(connection, turn_id, "user.message", word)

    async def settled() -> bool:
        return any(await engine.database.read(look))

    await eventually(settled, engine.limits.cancel_wait + _ELSEWHERE)
    withdrawn = await engine.database.write(
        lambda connection: commands.withdraw(connection, command)
    )
    over, stored = await engine.database.read(look)
    if stored:
        return
    if over:
        raise _over()
    if withdrawn:
        raise unreachable_driver(session_id)
    raise Unavailable(
        f"The process that drives session {session_id} has not said whether its runtime took the "
        "message.",
        remedy="get_session shows the message once it was taken.",
    )


def _over() -> Conflict:
    return Conflict(
        "The turn ended before it took the message.",
        remedy="Send it again without steer.",
    )
