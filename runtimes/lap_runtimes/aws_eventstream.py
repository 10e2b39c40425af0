"""The binary event stream of AWS services (`application/vnd.amazon.eventstream`): bytes in,
messages out.  No I/O, and no opinion on what a message means.

botocore has such a parser too; this one is here because a harness that is called with an OAuth
token needs nothing else of botocore.  The tests hold the two against each other.
Wire format: AWS, "Event stream encoding": total length, length of the headers, CRC-32 of those two;
headers (name, type, value); payload; CRC-32 of everything before.  All numbers are big-endian.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

from lap_runtimes.errors import ProtocolError

MAX_MESSAGE = 25 * 1024 * 1024
"""Bytes of one message: 24 MB of payload is what AWS allows."""
_PRELUDE = struct.Struct("!III")
_OVERHEAD = _PRELUDE.size + 4
_FIXED = {2: "!b", 3: "!h", 4: "!i", 5: "!q", 8: "!q"}
"""Header types of a fixed size: byte, short, integer, long, timestamp (ms since 1970)."""

HeaderValue = bool | int | bytes | str


@dataclass(frozen=True, slots=True)
class EventMessage:
    """One message.  A service puts the kind into `:message-type` (`event`, `exception`, `error`)
    and its name into `:event-type` or `:exception-type`."""

    headers: Mapping[str, HeaderValue]
    payload: bytes

    def header(self, name: str) -> str:
        return str(self.headers.get(name, ""))


class EventStreamReader:
    """`feed` each chunk, then `close`.  Raises `ProtocolError` for what is no event stream, for a
    checksum that does not fit, and for a message over `limit` bytes."""

    def __init__(self, *, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._held = bytearray()
        self._wanted = _PRELUDE.size
        """Bytes needed before there is anything new to look at."""

    def feed(self, chunk: bytes) -> list[EventMessage]:
        self._held += chunk
        messages: list[EventMessage] = []
        while len(self._held) >= self._wanted:
            total = self._total()
            if len(self._held) < total:
                self._wanted = total
                break
            messages.append(_message(bytes(self._held[:total])))
            del self._held[:total]
            self._wanted = _PRELUDE.size
        return messages

    def close(self) -> None:
        """The end of the stream.  Raises `ProtocolError` where it ended inside a message."""
        if self._held:
            raise ProtocolError("the event stream ended in the middle of a message")

    def _total(self) -> int:
        """The length of the message that begins here, its prelude checked."""
        total, headers, checksum = _PRELUDE.unpack_from(self._held)
        if crc32(self._held[:8]) != checksum:
            raise ProtocolError("the event stream is broken: the checksum of a prelude is wrong")
        if total < _OVERHEAD + headers:
            raise ProtocolError(f"the event stream has a message of {total} bytes, which cannot be")
        if total > self._limit:
            raise ProtocolError(
                f"the runtime sent one event of {total} bytes, which is not read; "
                f"the most is {self._limit}"
            )
        return int(total)


def _message(raw: bytes) -> EventMessage:
    _, size, _ = _PRELUDE.unpack_from(raw)
    (checksum,) = struct.unpack_from("!I", raw, len(raw) - 4)
    if crc32(raw[:-4]) != checksum:
        raise ProtocolError("the event stream is broken: the checksum of a message is wrong")
    start = _PRELUDE.size
    return EventMessage(_headers(raw[start : start + size]), raw[start + size : -4])


def _headers(raw: bytes) -> dict[str, HeaderValue]:
    headers: dict[str, HeaderValue] = {}
    position = 0
    try:
        while position < len(raw):
            length = raw[position]
            name = _exactly(raw, position + 1, length).decode("utf-8")
            position += 1 + length
            value, position = _value(raw, position)
            if name in headers:
                raise ProtocolError(f"the event stream has a message with two headers {name!r}")
            headers[name] = value
    except (IndexError, struct.error, UnicodeDecodeError) as exc:
        raise ProtocolError(f"the event stream has a message with broken headers: {exc}") from exc
    return headers


def _value(raw: bytes, position: int) -> tuple[HeaderValue, int]:
    """A header's value, and where the next header begins."""
    kind = raw[position]
    position += 1
    if kind in (0, 1):
        return kind == 0, position
    if kind in _FIXED:
        form = struct.Struct(_FIXED[kind])
        return form.unpack_from(raw, position)[0], position + form.size
    if kind in (6, 7):
        (length,) = struct.unpack_from("!H", raw, position)
        value = _exactly(raw, position + 2, length)
        return (value.decode("utf-8") if kind == 7 else value), position + 2 + length
    if kind == 9:
        return str(uuid.UUID(bytes=_exactly(raw, position, 16))), position + 16
    raise ProtocolError(f"the event stream has a header of the unknown type {kind}")


def _exactly(raw: bytes, position: int, length: int) -> bytes:
    value = raw[position : position + length]
    if len(value) != length:
        raise IndexError("they are cut off")
    return value
