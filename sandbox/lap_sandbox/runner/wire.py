"""Frames between host and supervisor, and between supervisor and worker.  Bytes in, frames out.

A frame is `u32 length | u8 type | u32 id | u16 header length | header | body`, big-endian.  The
length counts what follows it.  The header is a JSON object in UTF-8, the body raw bytes.  The id
is the request's that the frame belongs to, 0 for none.  No input or output happens here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

PROTOCOL = 1
"""Raised when the two ends could not understand one another; `READY` carries it."""

_FIXED = struct.Struct("!IBIH")
_LENGTH = 4
_AFTER_LENGTH = _FIXED.size - _LENGTH
_TO_JSON = json.JSONEncoder(separators=(",", ":")).encode

MAX_HEADER = 0xFFFF
MAX_BODY = 256 * 1024
MAX_FRAME = _AFTER_LENGTH + MAX_HEADER + MAX_BODY
CHUNK = 128 * 1024
"""What longer content is cut into."""


class WireError(Exception):
    """Bytes that are not this protocol.  The stream cannot be read any further."""


class Kind(IntEnum):
    """Frame types.  0x40–0x5f and 0xc0–0xdf are reserved for calls from code in the sandbox to
    the host (answers, and the calls themselves): neither end sends them yet."""

    # host → supervisor
    EXECUTE = 0x01
    """header: the limits of this execution; body: the code, or with `more` its first part, the rest
    in `DATA`, then `END`"""
    INTERRUPT = 0x02
    KILL = 0x03
    """end everything but the supervisor; a fresh worker"""
    PUT = 0x04
    GET = 0x05
    LIST = 0x06
    DELETE = 0x07
    PING = 0x08
    DATA = 0x09
    """a part of what the request with this id is about; both ways"""
    END = 0x0A
    """no more parts; both ways"""
    ABORT = 0x0B
    """the host gives the `PUT` with this id up"""
    # supervisor → host
    READY = 0x81
    STDOUT = 0x82
    STDERR = 0x83
    OUTPUT = 0x84
    """a part of a rich output; header of the first part: `mime`, `size`"""
    VALUE = 0x85
    ERROR = 0x86
    DONE = 0x87
    REPLY = 0x88
    """a request was done"""
    FAIL = 0x89
    """a request was refused: `reason`, `words`"""


@dataclass(frozen=True, slots=True)
class Frame:
    kind: int
    id: int = 0
    header: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = b""


def encode(
    kind: int, id: int = 0, header: Mapping[str, Any] | None = None, body: bytes = b""
) -> bytes:
    """One frame as bytes.

    Raises:
        WireError: header or body are larger than a frame holds.
    """
    head = _TO_JSON(header).encode() if header else b""
    if len(head) > MAX_HEADER or len(body) > MAX_BODY:
        raise WireError(f"a frame of {len(head)} + {len(body)} bytes is too large")
    length = _AFTER_LENGTH + len(head) + len(body)
    return _FIXED.pack(length, kind, id, len(head)) + head + body


def _parse(data: bytes) -> Frame:
    _, kind, id, head_length = _FIXED.unpack_from(data)
    end = _FIXED.size + head_length
    if end > len(data):
        raise WireError("a header is longer than its frame")
    if len(data) - end > MAX_BODY:
        raise WireError("a body is larger than a frame holds")
    if not head_length:
        return Frame(kind, id, {}, data[end:])
    try:
        header = json.loads(data[_FIXED.size : end].decode())
    except (ValueError, RecursionError) as error:
        raise WireError(f"a header is not JSON: {type(error).__name__}") from None
    if not isinstance(header, dict):
        raise WireError("a header is not a JSON object")
    return Frame(kind, id, header, data[end:])


class Decoder:
    """Cuts a byte stream into frames.  Holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes.

        Raises:
            WireError: and from then on always.
        """
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        position = 0
        while len(buffer) - position >= _LENGTH:
            length = int.from_bytes(buffer[position : position + _LENGTH], "big")
            if not _AFTER_LENGTH <= length <= MAX_FRAME:
                raise WireError(f"a frame of {length} bytes")
            end = position + _LENGTH + length
            if end > len(buffer):
                break
            frames.append(_parse(bytes(buffer[position:end])))
            position = end
        if position:
            del buffer[:position]
        return frames

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame."""
        return len(self._buffer)
