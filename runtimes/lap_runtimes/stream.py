"""One tolerant reader of event streams: server-sent events (WHATWG HTML, 9.2), newline-delimited
JSON, and JSON text sequences (RFC 7464).  No I/O, and no opinion on what an event means.

Content types lie, so the first bytes decide.  Inside server-sent events a line that is plainly JSON
counts as an event of its own, which the specification would drop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Literal

from lap_runtimes.errors import ProtocolError

MAX_EVENT = 16 * 1024 * 1024
"""Bytes of one event, unless the reader is told otherwise."""
Form = Literal["auto", "sse", "ndjson", "json-seq"]

_BOM = b"\xef\xbb\xbf"
_RECORD = b"\x1e"
_END = "[DONE]"
_FORMS: dict[bytes, Form] = {b"{": "ndjson", b"[": "ndjson", _RECORD: "json-seq"}
"""What the first byte tells."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One event as it was sent."""

    data: str
    event: str = ""
    """Its name (`event:`); empty where it has none."""
    id: str = ""
    """The last event id at this point of the stream (`id:`); empty where there was none."""


class StreamReader:
    """Bytes in, frames out.  `feed` each chunk, then `close`; `done` tells that `[DONE]` was seen,
    after which nothing more is given.  Raises `ProtocolError` for an event over `limit` bytes."""

    def __init__(self, form: Form = "auto", *, limit: int = MAX_EVENT) -> None:
        self.done = False
        self._form: Form = form
        self._limit = limit
        self._first = b""
        self._begun = False
        # Not a list of pieces: a line may come byte by byte, each of which would cost eight.
        self._held = bytearray()
        self._after_cr = False
        self._data: list[str] = []
        self._data_size = 0
        self._event = ""
        self._id = ""

    def feed(self, chunk: bytes) -> list[Frame]:
        if not self._begun:
            chunk = self._begin(self._first + chunk)
        return list(self._frames(chunk)) if chunk and not self.done else []

    def close(self) -> list[Frame]:
        """The end of the stream: what it ended in the middle of, if that may be an event."""
        frames: list[Frame] = []
        if not self._begun and self._first:
            self._begun = True
            frames += self._frames(self._first)
        rest = self._release()
        if self._form == "json-seq":
            frames += self._record(rest)
        else:
            frames += [*(self._line(rest) if rest else ()), *self._dispatch()]
        return frames

    def _begin(self, start: bytes) -> bytes:
        """Drop a byte order mark and find out the form; empty while there is too little to tell."""
        if _BOM.startswith(start) and start != _BOM:
            self._first = start
            return b""
        start = start.removeprefix(_BOM)
        head = start.lstrip()[:1]
        if not head and self._form == "auto":
            # Up to here only white space: blank lines, which mean nothing in any form.
            self._first = b"" if len(start) > 64 else start
            return b""
        if self._form == "auto":
            self._form = _FORMS.get(head, "sse")
        self._begun, self._first = True, b""
        return start

    def _frames(self, chunk: bytes) -> Iterator[Frame]:
        if self._form == "json-seq":
            *whole, rest = chunk.split(_RECORD)
            for piece in whole:
                self._hold(piece)
                yield from self._record(self._release())
            self._hold(rest)
            return
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r") if chunk else False
        for piece in chunk.splitlines(keepends=True):
            line = piece.rstrip(b"\r\n")
            if len(line) == len(piece):  # its end has not come
                self._hold(piece)
                continue
            if self._held:
                self._hold(piece)
                line = self._release().rstrip(b"\r\n")
            elif len(piece) + self._data_size > self._limit:
                raise too_large(self._limit)
            if line.startswith(b"data: {") and self._form == "sse":
                # What most lines are, and nothing else can be meant by them.
                self._data.append(line[6:].decode("utf-8", "replace"))
                self._data_size += len(line)
                continue
            yield from self._line(line)
            if self.done:
                return

    def _hold(self, piece: bytes) -> None:
        self._held += piece
        if len(self._held) + self._data_size > self._limit:
            raise too_large(self._limit)

    def _release(self) -> bytes:
        held, self._held = bytes(self._held), bytearray()
        return held

    def _record(self, record: bytes) -> Iterator[Frame]:
        text = record.decode("utf-8", "replace").strip()
        if text:
            yield Frame(text)

    def _line(self, line: bytes) -> Iterator[Frame]:
        text = line.decode("utf-8", "replace")
        if self._form == "ndjson" or text[:1] in ("{", "["):
            yield from self._whole(text.strip())
            return
        if not text:
            yield from self._dispatch()
            return
        name, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._data_size += len(line)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value

    def _whole(self, text: str) -> Iterator[Frame]:
        """A line that is an event."""
        if text.startswith("data:"):
            text = text.removeprefix("data:").strip()
        if text == _END:
            self.done = True
        elif text:
            yield Frame(text, self._event, self._id)

    def _dispatch(self) -> Iterator[Frame]:
        data, event = self._data, self._event
        self._data, self._data_size, self._event = [], 0, ""
        if not data:
            return
        text = "\n".join(data)
        if text.strip() == _END:
            self.done = True
        else:
            yield Frame(text, event, self._id)


class EventMeter:
    """Counts a stream that somebody else parses, so that no event of it (`events`), or no body,
    grows over `limit` bytes."""

    def __init__(self, limit: int, *, events: bool) -> None:
        self._limit = limit
        self._events = events
        self._size = 0
        self._tail = b""

    def count(self, chunk: bytes) -> None:
        """Raises `ProtocolError`."""
        self._size += len(chunk)
        if self._events:
            seen = self._tail + chunk
            last = max(seen.rfind(blank) for blank in (b"\n\n", b"\r\n\r\n", b"\r\r"))
            self._tail = seen[-3:]
            if last >= 0:
                self._size = len(seen) - last
        if self._size > self._limit:
            raise too_large(self._limit)


def too_large(limit: int) -> ProtocolError:
    return ProtocolError(
        f"the runtime sent one event of more than {limit // (1024 * 1024)} MB, which is not read"
    )


async def frames(
    chunks: AsyncIterator[bytes], reader: StreamReader
) -> AsyncGenerator[Frame | None, None]:
    """Frames as bytes arrive; None for bytes that completed none.  Ends at `[DONE]`."""
    async for chunk in chunks:
        found = reader.feed(chunk)
        for frame in found:
            yield frame
        if reader.done:
            return
        if not found:
            yield None
    for frame in reader.close():
        yield frame
