"""Who wants to know what changed: a hub inside one process.

The store notices what other processes did and publishes it here too; nothing in this file knows
about MCP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Literal

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

Topic = Literal["tools", "prompts", "resources", "resource"]


@dataclass(frozen=True, slots=True)
class Change:
    """`resource` names a `uri` whose content changed; the others are lists that changed."""

    topic: Topic
    uri: str = ""


class Changes:
    """Fan-out of changes.  A follower that does not read loses the oldest, never blocks others."""

    def __init__(self, buffer: int = 256) -> None:
        self._buffer = buffer
        self._followers: set[MemoryObjectSendStream[Change]] = set()

    def publish(self, change: Change) -> None:
        for send in tuple(self._followers):
            try:
                send.send_nowait(change)
            except anyio.WouldBlock:
                continue
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                self._followers.discard(send)

    @contextmanager
    def _registered(self) -> Iterator[MemoryObjectReceiveStream[Change]]:
        send, receive = anyio.create_memory_object_stream[Change](self._buffer)
        self._followers.add(send)
        try:
            yield receive
        finally:
            self._followers.discard(send)
            send.close()
            receive.close()

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[AsyncIterator[Change]]:
        with self._registered() as receive:
            yield receive
