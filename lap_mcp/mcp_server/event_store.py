"""What a handshake-era HTTP client may have missed while its stream was cut, for a short while.

In memory and bounded: after a restart, or after too much, a client starts a new session.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from typing import Final

import mcp.types as t
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore

MAX_STREAMS: Final = 2000
MAX_EVENTS: Final = 100
"""Kept per stream; of a longer one the last."""
MAX_BYTES: Final = 32 * 1024 * 1024
"""Of all streams together, as JSON."""


class BoundedEventStore(EventStore):
    """Streams in the order of their last event; the oldest are dropped first."""

    def __init__(self) -> None:
        self._number = itertools.count(1)
        self._streams: OrderedDict[str, deque[tuple[int, t.JSONRPCMessage | None, int]]] = (
            OrderedDict()
        )
        self._bytes = 0

    async def store_event(self, stream_id: str, message: t.JSONRPCMessage | None) -> str:
        """The event's id.  `None` is the priming event of a stream."""
        number = next(self._number)
        size = 0 if message is None else len(message.model_dump_json(by_alias=True))
        stream = self._streams.setdefault(stream_id, deque())
        stream.append((number, message, size))
        self._bytes += size
        self._streams.move_to_end(stream_id)
        if len(stream) > MAX_EVENTS:
            self._bytes -= stream.popleft()[2]
        while self._bytes > MAX_BYTES or len(self._streams) > MAX_STREAMS:
            _, dropped = self._streams.popitem(last=False)
            self._bytes -= sum(size for _, _, size in dropped)
        return f"{stream_id}/{number}"

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
