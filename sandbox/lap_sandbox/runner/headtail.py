"""Keeps the beginning and the end of a stream that may be endless.  Knows nothing of encodings."""

from __future__ import annotations


class HeadTail:
    """The first `head` and the last `tail` bytes of what was fed; the rest is counted."""

    def __init__(self, head: int, tail: int) -> None:
        self._room = head
        self._tail_size = tail
        self._tail = bytearray()
        self.dropped = 0

    def feed(self, data: bytes) -> bytes:
        """What of `data` still belongs to the head, to be passed on at once."""
        head = data[: self._room]
        self._room -= len(head)
        rest = data[len(head) :]
        if rest:
            self._tail += rest
            excess = len(self._tail) - self._tail_size
            if excess > 0:
                self.dropped += excess
                del self._tail[:excess]
        return head

    def take_tail(self) -> bytes:
        """The end of the stream; empty where the head held all of it."""
        tail = bytes(self._tail)
        self._tail.clear()
        return tail
