"""Frames between host and supervisor, and between supervisor and worker.  Bytes in, frames out.

A frame is `u32 length | u8 type | u32 id | u16 header length | header | body`, big-endian.  The
length counts what follows it.  The header is a JSON object in UTF-8, the body raw bytes.  The id
is the request's that the frame belongs to, 0 for none.  No input or output happens here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

PROTOCOL = 2
"""Raised when the two ends could not understand one another; `READY` carries it."""

_FIXED = struct.Struct("!IBIH")
_LENGTH = 4
_AFTER_LENGTH = _FIXED.size - _LENGTH
_TO_JSON = json.JSONEncoder(separators=(",", ":")).encode
_NOTHING: Mapping[str, Any] = {}

MAX_HEADER = 0xFFFF
MAX_BODY = 256 * 1024
MAX_FRAME = _AFTER_LENGTH + MAX_HEADER + MAX_BODY
CHUNK = 128 * 1024
"""What longer content is cut into."""


class WireError(Exception):
    """Bytes that are not this protocol.  The stream cannot be read any further."""


class Kind:
    """Frame types.  0x40–0x5f and 0xc0–0xdf are reserved for calls from code in the sandbox to
    the host (answers, and the calls themselves): neither end sends them yet.

    Plain numbers: to look at a member of an enum costs ten times as much, several times a frame.
    """

    # host → supervisor
    EXECUTE: Final = 0x01
    """header: the limits of this execution; body: the code, or with `more` its first part, the rest
    in `DATA`, then `END`.  The supervisor hands it on to the worker as it is."""
    INTERRUPT: Final = 0x02
    KILL: Final = 0x03
    """end everything but the supervisor; a fresh worker"""
    PUT: Final = 0x04
    GET: Final = 0x05
    LIST: Final = 0x06
    DELETE: Final = 0x07
    PING: Final = 0x08
    DATA: Final = 0x09
    """a part of what the request with this id is about; both ways"""
    END: Final = 0x0A
    """no more parts; both ways"""
    ABORT: Final = 0x0B
    """the host gives the `PUT` with this id up"""
    WARM_UP: Final = 0x0C
    """have a worker with everything imported, as soon as there is one to be had"""
    # supervisor → host
    READY: Final = 0x81
    """requests are taken; header: `protocol`, `python`, and `direct` where all that follows goes
    over the socket that was mounted"""
    STDOUT: Final = 0x82
    STDERR: Final = 0x83
    OUTPUT: Final = 0x84
    """a part of a rich output; header of the first part: `mime`, `size`"""
    VALUE: Final = 0x85
    ERROR: Final = 0x86
    DONE: Final = 0x87
    """the end of an execution; what its header does not say is `ok`, `False`, nothing or 0"""
    REPLY: Final = 0x88
    """a request was done"""
    FAIL: Final = 0x89
    """a request was refused: `reason`, `words`"""
    WARM: Final = 0x8A
    """a worker with everything imported waits"""


KINDS: Final = frozenset(v for v in vars(Kind).values() if isinstance(v, int))


class Frame(NamedTuple):
    kind: int
    id: int = 0
    header: Mapping[str, Any] = _NOTHING
    """Not to be changed: frames may share it."""
    body: bytes = b""


def header_bytes(header: Mapping[str, Any] | None) -> bytes:
    """A header as it stands in a frame, for `frame`: where many frames have the same."""
    return _TO_JSON(header).encode() if header else b""


def frame(kind: int, id: int = 0, head: bytes = b"", body: bytes = b"") -> bytes:
    """One frame as bytes, its header encoded already.

    Raises:
        WireError: header or body are larger than a frame holds.
    """
    if len(head) > MAX_HEADER or len(body) > MAX_BODY:
        raise WireError(f"a frame of {len(head)} + {len(body)} bytes is too large")
    length = _AFTER_LENGTH + len(head) + len(body)
    return _FIXED.pack(length, kind, id, len(head)) + head + body


def encode(
    kind: int, id: int = 0, header: Mapping[str, Any] | None = None, body: bytes = b""
) -> bytes:
    """One frame as bytes.

    Raises:
        WireError: header or body are larger than a frame holds.
    """
    return frame(kind, id, header_bytes(header), body)


def _read_header(data: bytes) -> Mapping[str, Any]:
    try:
        header = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise WireError(f"a header is not JSON: {type(error).__name__}") from None
    if not isinstance(header, dict):
        raise WireError("a header is not a JSON object")
    return header


class Decoder:
    """Cuts a byte stream into frames.  Holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head = b""
        self._header = _NOTHING
        self._error: WireError | None = None

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """The frames that `data` completes.  Nothing of `data` itself is kept.

        Raises:
            WireError: and from then on always.
        """
        if self._error is not None:
            raise self._error
        try:
            return self._cut(data)
        except WireError as error:
            self._error = error
            raise

    def _cut(self, data: bytes | memoryview) -> list[Frame]:
        if self._buffer:
            self._buffer += data
            if not self._complete():
                return []
            data, self._buffer = memoryview(self._buffer), bytearray()
        frames: list[Frame] = []
        position, size = 0, len(data)
        while size - position >= _LENGTH:
            length = int.from_bytes(data[position : position + _LENGTH], "big")
            end = position + _LENGTH + _checked(length)
            if end > size:
                break
            frames.append(self._parse(data, position, end))
            position = end
        if position < size:
            self._buffer += data[position:]
        return frames

    def _complete(self) -> bool:
        """What is held has a whole frame, or cannot become one."""
        buffer = self._buffer
        if len(buffer) < _LENGTH:
            return False
        return len(buffer) - _LENGTH >= _checked(int.from_bytes(buffer[:_LENGTH], "big"))

    def _parse(self, data: bytes | memoryview, start: int, end: int) -> Frame:
        _, kind, id, head_length = _FIXED.unpack_from(data, start)
        start += _FIXED.size
        body = start + head_length
        if body > end:
            raise WireError("a header is longer than its frame")
        if end - body > MAX_BODY:
            raise WireError("a body is larger than a frame holds")
        if not head_length:
            return Frame(kind, id, _NOTHING, bytes(data[body:end]))
        head = bytes(data[start:body])
        if head != self._head:  # else it is the one before again, as limits are
            self._header = _read_header(head)
            self._head = head
        return Frame(kind, id, self._header, bytes(data[body:end]))

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame."""
        return len(self._buffer)


def _checked(length: int) -> int:
    """
    Raises:
        WireError: no frame has this length.
    """
    if not _AFTER_LENGTH <= length <= MAX_FRAME:
        raise WireError(f"a frame of {length} bytes")
    return length
