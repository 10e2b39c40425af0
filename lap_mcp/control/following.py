"""Reading a session while it goes on: stored events in order, deltas between them.

The store is the truth.  What this process drives arrives through the hub; what another process
drives is noticed by the database's change token, at most `ELSEWHERE` seconds late.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import anyio
from sqlalchemy import Connection

from lap_mcp.model import Delta, StoredEvent, Turn
from lap_mcp.store import events as event_store
from lap_mcp.store import turns as turn_store

from .engine import Engine
from .live import Inbox, Live
from .services import Followed

ELSEWHERE = 0.1
_HERE = 1.0
_PAGE = 500


@asynccontextmanager
async def follow(
    engine: Engine, session_id: str, after: int
) -> AsyncIterator[AsyncIterator[Followed]]:
    with engine.hub.join(session_id) as (live, inbox):
        async with aclosing(_Follower(engine, live, inbox, after).items()) as items:
            yield items


class _Follower:
    def __init__(self, engine: Engine, live: Live, inbox: Inbox, after: int) -> None:
        self._engine = engine
        self._live = live
        self._inbox = inbox
        self._seq = after
        self._shown: dict[str, str] = {}
        """Checkpoints already passed on."""

    async def items(self) -> AsyncGenerator[Followed, None]:
        token = await self._engine.database.token()
        for first in await self._news():
            yield first
        while True:
            items = await self._inbox.take(_HERE if self._live.driven else ELSEWHERE)
            if self._gap(items):
                self._inbox.lagged = False
                items = ()
                token = ""
            for item in items:
                if isinstance(item, Delta):
                    yield item
                elif item.seq > self._seq:
                    self._seq = item.seq
                    yield item
            if self._live.driven and token != "":
                continue
            newest = await self._engine.database.token()
            if newest != token:
                token = newest
                for wanted in await self._news():
                    yield wanted

    async def _news(self) -> Sequence[Followed]:
        return [*await self._missed(), *await self._open()]

    def _gap(self, items: Sequence[Followed]) -> bool:
        """Events are missing: the store has them, and deltas are no longer in their place."""
        expected = self._seq + 1
        for item in items:
            if isinstance(item, StoredEvent) and item.seq >= expected:
                if item.seq > expected:
                    return True
                expected += 1
        return self._inbox.lagged

    async def _missed(self) -> Sequence[StoredEvent]:
        found: list[StoredEvent] = []
        while True:
            page = await self._engine.database.read(
                lambda connection: event_store.read(
                    connection, self._live.session_id, after=self._seq, limit=_PAGE
                )
            )
            found.extend(page)
            if page:
                self._seq = page[-1].seq
            if len(page) < _PAGE:
                return found

    async def _open(self) -> Sequence[Delta]:
        # What they brought is in the snapshot, or finished.
        self._inbox.forget_deltas()
        if self._live.driven:
            return self._live.snapshot()
        kept = await self._engine.database.read(
            lambda connection: event_store.checkpoints(connection, self._live.session_id)
        )
        fresh = [delta for delta in kept if self._shown.get(delta.message_id) != delta.text]
        self._shown = {delta.message_id: delta.text for delta in kept}
        return fresh


async def wait(
    engine: Engine, principal: str, session_id: str, turn_id: str, timeout: float
) -> Turn:
    """The turn when it ended or stopped for questions, or as it is when the time is over.

    Raises:
        NotFound
    """

    def query(connection: Connection) -> Turn:
        return turn_store.find_owned(connection, principal, session_id, turn_id)

    give_up = anyio.current_time() + timeout
    token = turn = None
    with engine.hub.join(session_id, deltas=False) as (live, inbox):
        while True:
            known = live.turn(principal, turn_id)
            if known is not None:
                turn = known
            else:
                newest = None if live.driven else await engine.database.token()
                if turn is None or live.driven or newest != token:
                    token, turn = newest, await engine.database.read(query)
            if turn.ended or turn.outcome == "requires_action":
                return turn
            left = give_up - anyio.current_time()
            if left <= 0:
                return turn
            await _until_status(inbox, live, left)


async def _until_status(inbox: Inbox, live: Live, left: float) -> None:
    """Return when a status may have changed: deltas alone are no reason to ask the store."""
    give_up = anyio.current_time() + min(left, _HERE if live.driven else ELSEWHERE)
    while (rest := give_up - anyio.current_time()) > 0:
        items = await inbox.take(rest)
        if not live.driven or any(_is_status(item) for item in items):
            return


def _is_status(item: Followed) -> bool:
    return isinstance(item, StoredEvent) and item.type.startswith("session.status")
