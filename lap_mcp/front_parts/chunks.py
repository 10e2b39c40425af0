"""The body of an answer in chunks (RFC 9112, 7.1), taken apart.  Pure: bytes in, bytes out.

A model's server sends each event as a chunk of its own, and h11 takes five steps for each; here
they come out in one piece.  As strict as h11: what is no chunk is an error, never a guess.
"""

from __future__ import annotations

import re
from typing import Final

_HEAD: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[^\r\n\0]*)?[ \t]*\r\n")
_TRAILER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0\v\f\x7f]*\r\n")
MAX_HEAD: Final = 16 * 1024
"""Bytes of the head of a chunk, or of all trailers."""


class BadChunk(Exception):
    """What came is not a chunked body."""


class Chunks:
    """`feed` bytes; nothing is to be fed once it is `over`."""

    def __init__(self) -> None:
        self.over = False
        self.rest = b""
        """What came behind its end."""
        self._held = b""
        """The beginning of a head, an end of a chunk, or trailers."""
        self._left = 0
        """Bytes of the present chunk that have not come."""
        self._behind = False
        """A chunk is whole, but for the line end behind it."""
        self._trailers = -1
        """Bytes of trailers so far; -1: none can come yet."""

    def feed(self, data: bytes) -> bytes:
        """Raises: BadChunk."""
        if self._held:
            data, self._held = self._held + data, b""
        found: list[bytes] = []
        at = 0
        while at < len(data) and not self.over:
            if self._left:
                piece = data[at : at + self._left]
                found.append(piece)
                self._left -= len(piece)
                self._behind = not self._left
                at += len(piece)
                continue
            after = self._line(data, at)
            if after is None:
                self._held = data[at:]
                break
            at = after
        if self.over:
            self.rest = data[at:]
        return found[0] if len(found) == 1 else b"".join(found)

    def _line(self, data: bytes, at: int) -> int | None:
        """Where the line at `at` ends; `None`: later."""
        if self._behind:
            if not b"\r\n".startswith(data[at : at + 2]):
                raise BadChunk("no line end behind a chunk")
            if len(data) - at < 2:
                return None
            self._behind = False
            return at + 2
        if self._trailers >= 0 and data.startswith(b"\r\n", at):
            self.over = True
            return at + 2
        match = (_HEAD if self._trailers < 0 else _TRAILER).match(data, at)
        if match is None:
            if b"\n" in data[at:] or len(data) - at > MAX_HEAD:
                raise BadChunk("neither the head of a chunk nor a trailer")
            return None
        if self._trailers < 0:
            self._left = int(match[1], 16)
            self._trailers = -1 if self._left else 0
        else:
            self._trailers += len(match[0])
            if self._trailers > MAX_HEAD:
                raise BadChunk("too many trailers")
        return match.end()
