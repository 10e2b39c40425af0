"""The JSON objects of a stream, whichever way its bytes were cut.  Pure.

How a stream is framed is `lap_runtimes.stream`'s; what is no JSON object (a comment, a ping) says
nothing here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from lap_runtimes.stream import Frame, StreamReader

from .wire import Json

MAX_OBJECT: Final = 64 * 1024 * 1024


class Objects:
    """`feed` bytes, then `close`; after `done` nothing more comes.

    Raises ProtocolError for an object of more than `MAX_OBJECT` bytes."""

    def __init__(self) -> None:
        self._reader = StreamReader(limit=MAX_OBJECT)

    @property
    def done(self) -> bool:
        return self._reader.done

    def feed(self, piece: bytes) -> list[Json]:
        return _objects(self._reader.feed(piece))

    def close(self) -> list[Json]:
        return _objects(self._reader.close())


def _objects(frames: Iterable[Frame]) -> list[Json]:
    found = []
    for frame in frames:
        try:
            value = json.loads(frame.data)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            if frame.event and "type" not in value:
                value["type"] = frame.event
            found.append(value)
    return found
