"""Telling clients what changed, in both eras: list changes and updated resources.

2026-07-28 clients hear it on their `subscriptions/listen` stream, handshake-era ones on their
connection.  Changes are coalesced, and a client that does not read holds up nobody else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import anyio
import anyio.abc
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)

from lap_mcp.control.changes import Change, Changes

from .sdk import Peer

logger = logging.getLogger(__name__)

PACE: Final = 0.1
"""Seconds in which equal changes become one."""
SEND_DEADLINE: Final = 30.0
"""Seconds that one notification to a handshake-era client may take."""
MAX_WATCHED: Final = 1000
"""Resources that one connection may watch."""

_SESSION: Final = re.compile(r"lap://sessions/[^/]+")
_EVENTS: Final[dict[str, ServerEvent]] = {
    "tools": ToolsListChanged(),
    "prompts": PromptsListChanged(),
    "resources": ResourcesListChanged(),
}


@dataclass(slots=True)
class _Mailbox:
    """What a handshake-era connection has yet to be told."""

    peer: Peer
    watched: set[str] = field(default_factory=set)
    pending: dict[Change, None] = field(default_factory=dict)
    news: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def put(self, change: Change) -> None:
        if change.topic == "resource" and change.uri not in self.watched:
            return
        self.pending[change] = None
        self.news.set()


class Notifier:
    """Owns the subscriptions of one face."""

    def __init__(self, on_tools: Callable[[], None]) -> None:
        self._on_tools = on_tools
        self._bus = InMemorySubscriptionBus()
        self._boxes: dict[int, _Mailbox] = {}
        self._group: anyio.abc.TaskGroup | None = None
        self.listen = ListenHandler(self._bus)

    def open(self, group: anyio.abc.TaskGroup) -> None:
        self._group = group

    def close(self) -> None:
        """End all `subscriptions/listen` streams, in order."""
        self.listen.close()

    @property
    def connections(self) -> int:
        return len(self._boxes)

    def add(self, peer: Peer) -> None:
        """A handshake-era connection that may be told from now on until it closes."""
        if peer.key in self._boxes or self._group is None:
            return
        box = self._boxes[peer.key] = _Mailbox(peer)

        async def remove() -> None:
            self._boxes.pop(peer.key, None)
            box.scope.cancel()

        peer.on_close(remove)
        self._group.start_soon(self._deliver, box)

    def watch(self, peer: Peer, uri: str) -> bool:
        """Whether the connection is told of this resource from now on."""
        self.add(peer)
        box = self._boxes.get(peer.key)
        if box is None or len(box.watched) >= MAX_WATCHED:
            return False
        box.watched.add(uri)
        return True

    def unwatch(self, peer: Peer, uri: str) -> None:
        box = self._boxes.get(peer.key)
        if box is not None:
            box.watched.discard(uri)

    async def pump(
        self,
        changes: Changes,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Pass changes on until cancelled.  Started once it follows, so that none is missed."""
        async with changes.follow() as found:
            task_status.started()
            async for change in found:
                burst = dict.fromkeys(self._seen(change))
                with anyio.move_on_after(PACE):
                    async for other in found:
                        burst |= dict.fromkeys(self._seen(other))
                for item in burst:
                    await self._pass(item)

    def _seen(self, change: Change) -> list[Change]:
        """What a change means to a client: agents are tools, prompts and resources at once, and
        a session is also its list of events."""
        if change.topic == "tools":
            self._on_tools()
            return [change, Change("prompts"), Change("resources")]
        if change.topic == "resource" and _SESSION.fullmatch(change.uri):
            return [change, Change("resource", f"{change.uri}/events")]
        return [change]

    async def _pass(self, change: Change) -> None:
        await self._bus.publish(_EVENTS.get(change.topic) or ResourceUpdated(change.uri))
        for box in self._boxes.values():
            box.put(change)

    async def _deliver(self, box: _Mailbox) -> None:
        """Tell one connection, one thing after the other.  One that stops reading is left."""
        with box.scope:
            while True:
                await box.news.wait()
                pending, box.pending, box.news = box.pending, {}, anyio.Event()
                for change in pending:
                    with anyio.move_on_after(SEND_DEADLINE) as sending:
                        await _send(box.peer, change)
                    if sending.cancelled_caught:
                        logger.info("a client does not read its notifications; it gets no more")
                        self._boxes.pop(box.peer.key, None)
                        return


async def _send(peer: Peer, change: Change) -> None:
    match change.topic:
        case "tools":
            await peer.tools_changed()
        case "prompts":
            await peer.prompts_changed()
        case "resources":
            await peer.resources_changed()
        case "resource":
            await peer.resource_updated(change.uri)
