"""The session engine put together: opened with a server, closed with it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from lap_mcp.clock import Clock, SystemClock
from lap_mcp.errors import LapError
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import Database

from . import keeper
from .changes import Changes
from .driving import Drive, drive
from .engine import Engine, Runtimes, SessionLimits, unscrubbed
from .live import Hub
from .prompt_files import GivenFiles
from .runners import Runners, owner_id
from .sessions import Sessions

log = logging.getLogger(__name__)

_GOODBYE = 2.0
"""Seconds for the last word to the store."""


@asynccontextmanager
async def open_sessions(
    database: Database,
    blobs: BlobStore,
    runtimes: Runtimes,
    given: GivenFiles,
    *,
    changes: Changes | None = None,
    clock: Clock | None = None,
    limits: SessionLimits | None = None,
    drive: Drive = drive,
    scrub: Callable[[str], str] = unscrubbed,
) -> AsyncIterator[Sessions]:
    """Sessions of one server process: its background work lives inside this block.

    Leaving it hands on the turns that can go on without us and ends the others in words.
    """
    async with anyio.create_task_group() as tasks:
        engine = Engine(
            database=database,
            blobs=blobs,
            runtimes=runtimes,
            changes=changes or Changes(),
            clock=clock or SystemClock(),
            owner=owner_id(),
            limits=limits or SessionLimits(),
            drive=drive,
            hub=Hub(),
            spawn=_spawner(tasks),
            scrub=scrub,
        )
        runners = Runners(engine)
        await keeper.enter(engine)
        tasks.start_soon(keeper.Keeper(engine, runners).run, name="session keeper")
        try:
            yield Sessions(engine, runners, given)
        finally:
            with anyio.CancelScope(shield=True):
                await runners.leave()
                with anyio.move_on_after(_GOODBYE):
                    await _leave(engine)
            tasks.cancel_scope.cancel()


def _spawner(tasks: TaskGroup) -> Callable[[Callable[[], Awaitable[None]], str], None]:
    def spawn(function: Callable[[], Awaitable[None]], name: str) -> None:
        async def guarded() -> None:
            """Boundary: a fault of ours in one session is logged and ends that session's task
            only; its lease runs out, and the turn is taken over or ended in words."""
            try:
                await function()
            except Exception:
                log.exception("the task of %s broke", name)

        tasks.start_soon(guarded, name=name)

    return spawn


async def _leave(engine: Engine) -> None:
    try:
        await keeper.leave(engine)
    except LapError as error:
        log.warning("could not say goodbye to the store: %s", error)
