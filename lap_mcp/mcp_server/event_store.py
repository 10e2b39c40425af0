"""What a handshake-era HTTP client may have missed while its stream was cut, for a short while.

One store a session, never shared: the SDK names streams by request ids, which are the same in
every session, so that a shared store would replay one client's messages to another.  In memory
and bounded, all together by a `Budget`; after too much, a client asks again.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

import mcp.types as t
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore

MAX_STREAMS: Final = 200
"""Per session."""
MAX_EVENTS: Final = 100
"""Kept per stream; of a longer one the last."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Per session, as JSON."""


@dataclass(slots=True)
class Budget:
    """Bytes of the stores of all sessions together."""

    limit: int = 64 * 1024 * 1024
    used: int = 0


class SessionEvents(EventStore):
    """The streams of one session, in the order of their last event; the oldest go first."""

    def __init__(self, budget: Budget) -> None:
        self._number = itertools.count(1)
        self._streams: OrderedDict[str, deque[tuple[int, t.JSONRPCMessage | None, int]]] = (
            OrderedDict()
        )
        self._budget = budget
        self._bytes = 0

    async def store_event(self, stream_id: str, message: t.JSONRPCMessage | None) -> str:
        """The event's id.  `None` is the priming event of a stream."""
        number = next(self._number)
        size = 0 if message is None else len(message.model_dump_json(by_alias=True))
        stream = self._streams.setdefault(stream_id, deque())
        stream.append((number, message, size))
        self._count(size)
        self._streams.move_to_end(stream_id)
        if len(stream) > MAX_EVENTS:
            self._count(-stream.popleft()[2])
        while self._streams and self._is_full():
            _, dropped = self._streams.popitem(last=False)
            self._count(-sum(size for _, _, size in dropped))
        return f"{stream_id}/{number}"

    def _is_full(self) -> bool:
        too_many = self._bytes > MAX_BYTES or len(self._streams) > MAX_STREAMS
        return too_many or self._budget.used > self._budget.limit

    def _count(self, size: int) -> None:
        self._bytes += size
        self._budget.used += size

    def close(self) -> None:
        """Give back what it holds; it stays empty but usable."""
        self._streams.clear()
        self._count(-self._bytes)

    async def replay_events_after(
        self, last_event_id: str, send_callback: EventCallback
    ) -> str | None:
        """The stream of that event, after sending what came later; `None` if it is not known."""
        stream_id, _, number = last_event_id.rpartition("/")
        stream = self._streams.get(stream_id)
        if stream is None or not number.isdecimal():
            return None
        for event, message, _ in tuple(stream):
            if event > int(number) and message is not None:
                await send_callback(EventMessage(message, f"{stream_id}/{event}"))
        return stream_id
