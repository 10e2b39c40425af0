"""What has to be done again and again while a server lives: renew leases, consume commands, adopt
what nobody drives, let questions expire.

One task a process.  A store that fails is asked again at the next turn of the clock.
"""

from __future__ import annotations

import logging
from functools import partial

import anyio
import anyio.to_thread
from sqlalchemy import Connection

from lap_mcp.errors import StoreError
from lap_mcp.store import owners, questions, retention
from lap_mcp.store.leases import RENEW

from . import cancelling
from .engine import Engine
from .runners import Runners

log = logging.getLogger(__name__)

_TICK = 0.1
_FORGET_FIRST = 120.0
"""Seconds after the start: a server that lives for a moment has better things to do."""
_FORGET_EVERY = 3600.0


class Keeper:
    def __init__(self, engine: Engine, runners: Runners, *, adopt: bool = True) -> None:
        self._adopt = adopt
        self._engine = engine
        self._runners = runners
        self._token = ""
        self._slow_at = 0.0
        self._forget_at = anyio.current_time() + _FORGET_FIRST

    async def run(self) -> None:
        while True:
            try:
                await self._beat()
            except StoreError as error:
                log.warning("the store is not usable now: %s", error)
                await anyio.sleep(1.0)
            await anyio.sleep(_TICK if len(self._runners) else 1.0)

    async def _beat(self) -> None:
        now = anyio.current_time()
        if len(self._runners):
            token = await self._engine.database.token()
            if token != self._token:
                await self._runners.consume()
                self._token = token
        if now - self._slow_at >= RENEW or self._slow_at == 0.0:
            self._slow_at = now
            await self._runners.renew()
            if self._adopt:
                await self._runners.adopt()
            await self._expire()
        await self._engine.database.tidy()
        if now >= self._forget_at:
            self._forget_at = now + _FORGET_EVERY
            self._engine.spawn(self._forget, "forgetting")

    async def _forget(self) -> None:
        """Drop what is older than the retention allows."""
        before = self._engine.clock.now() - self._engine.limits.retention
        database, blobs = self._engine.database, self._engine.blobs
        forgotten = 0
        while count := await database.write(
            lambda connection: retention.forget_sessions(connection, before)
        ):
            forgotten += count
        candidates = await blobs.old(before)
        if candidates:
            unnamed = await database.read(
                lambda connection: retention.unnamed(connection, candidates)
            )
            await blobs.discard(unnamed, before)
        if forgotten:
            log.info("forgot %d sessions that nobody used for long", forgotten)

    async def _expire(self) -> None:
        now = self._engine.clock.now()
        overdue = await self._engine.database.read(
            lambda connection: questions.overdue(connection, now)
        )
        for session_id in overdue:
            # Beside us: a runtime that is slow to stop must not cost us our leases.
            expire = partial(cancelling.expire, self._engine, self._runners, session_id)
            self._engine.spawn(expire, f"expiry {session_id}")


_LONG_AGO = 30 * 86400.0
"""Seconds after which a process that holds nothing is forgotten, wherever it was."""


async def enter(engine: Engine) -> None:
    """Say who we are, so that others can see when we are gone."""
    me = await anyio.to_thread.run_sync(owners.this_process, engine.owner)
    now = engine.clock.now()

    def query(connection: Connection) -> None:
        owners.sweep(connection, ended, before=now - _LONG_AGO)
        owners.register(connection, me, now)

    everybody = await engine.database.read(owners.everybody)
    ended = await anyio.to_thread.run_sync(
        lambda: [owner.id for owner in everybody if owners.gone(owner)]
    )
    await engine.database.write(query)


async def leave(engine: Engine) -> None:
    await engine.database.write(lambda connection: owners.leave(connection, engine.owner))
