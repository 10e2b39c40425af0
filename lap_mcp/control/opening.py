"""The session engine put together: opened with a server, closed with it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from lap_mcp.clock import Clock, SystemClock
from lap_mcp.errors import LapError
from lap_mcp.scrub import Scrubber
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import Database

from . import keeper
from .changes import Changes
from .driving import Drive, drive
from .engine import Engine, Runtimes, SessionLimits
from .live import Hub
from .nested import Nested
from .pacing import paced
from .prompt_files import GivenFiles
from .runners import Runners, owner_id
from .sessions import Sessions

log = logging.getLogger(__name__)

_GOODBYE = 2.0
"""Seconds for the last word to the store."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    changes: Changes = field(default_factory=Changes)
    clock: Clock = field(default_factory=SystemClock)
    limits: SessionLimits = field(default_factory=SessionLimits)
    drive: Drive = drive
    """`drive`, wrapped by governance."""
    scrubber: Scrubber = field(default_factory=Scrubber)
    nested: Nested | None = None
    adopt: bool = True
    """Drive what nobody drives.  Not for a command that ends in a second: it would begin turns
    only to stop them."""


@asynccontextmanager
async def open_sessions(
    database: Database,
    blobs: BlobStore,
    runtimes: Runtimes,
    given: GivenFiles,
    options: EngineOptions | None = None,
) -> AsyncIterator[Sessions]:
    """Sessions of one server process: its background work lives inside this block.

    Leaving it hands on the turns that can go on without us and ends the others in words.
    """
    chosen = options or EngineOptions()
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        engine = Engine(
            database=database,
            blobs=blobs,
            runtimes=runtimes,
            changes=chosen.changes,
            clock=chosen.clock,
            owner=owner_id(),
            limits=chosen.limits,
            drive=paced(chosen.drive),
            hub=Hub(),
            spawn=_spawner(tasks),
            nested=chosen.nested,
            scrubber=chosen.scrubber,
        )
        runners = Runners(engine)
        try:
            await keeper.enter(engine)
            tasks.start_soon(
                keeper.Keeper(engine, runners, adopt=chosen.adopt).run, name="session keeper"
            )
            yield Sessions(engine, runners, given)
        except Exception as error:
            # Not from inside the task group, which would wrap it.
            failure = error
        finally:
            with anyio.CancelScope(shield=True):
                await runners.leave()
                with anyio.move_on_after(_GOODBYE):
                    await _leave(engine)
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


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
