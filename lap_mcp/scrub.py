"""Secret values, taken out of text by value wherever text leaves this process or is stored."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus

MIN_LENGTH = 6
"""A shorter value is not scrubbed: replacing `abc` everywhere would destroy text and hide
nothing."""
REPLACEMENT = "[secret]"
_LONGEST_KEY = 5000
"""Characters of a key that is known by how it begins: no real one is longer."""


MAX_ISSUED = 32
"""Newest values that expire, of all runtimes."""


def _forms(value: str) -> set[str]:
    return {value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]}


class Scrubber:
    """Replaces every known secret value, also URL-encoded and JSON-escaped, by `[secret]`."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._kinds: set[str] = set()
        self._fixed: set[str] = set()
        self._issued: deque[str] = deque(maxlen=MAX_ISSUED)
        self._pattern: re.Pattern[str] | None = None

    def add(self, value: str) -> bool:
        """Scrub this value from now on.  False: it is too short to be."""
        value = value.strip()
        if len(value) < MIN_LENGTH:
            return False
        if value not in self._fixed:
            self._fixed |= _forms(value)
            self._compile()
        return True

    def add_kind(self, prefix: str) -> None:
        """Scrub every key that begins so and goes on in the letters of base64url, from now on:
        such keys are made for each turn, and would be too many to know one by one."""
        if prefix not in self._kinds:
            self._kinds.add(prefix)
            self._compile()

    def issued(self, value: str) -> None:
        """Scrub this value, which expires, until so many newer ones have come."""
        value = value.strip()
        if len(value) >= MIN_LENGTH and value not in self._issued:
            self._issued.append(value)
            self._compile()

    def _compile(self) -> None:
        self._values = self._fixed.union(*map(_forms, self._issued))
        longest_first = sorted(self._values, key=len, reverse=True)
        forms = [*map(_key, sorted(self._kinds)), *map(re.escape, longest_first)]
        self._pattern = re.compile("|".join(forms))

    def text(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(REPLACEMENT, text)

    def unsettled(self, text: str) -> int:
        """How many characters at the end of `text` may be the beginning of a secret value, so
        that what follows decides."""
        for prefix in self._kinds:
            if (length := _unfinished(prefix, text)) > 0:
                return length
        longest = min(max(map(len, self._values), default=0), len(text))
        for length in range(longest, 0, -1):
            tail = text[-length:]
            if any(len(value) > length and value.startswith(tail) for value in self._values):
                return length
        return 0

    def data(self, value: Any) -> Any:
        """A JSON value with its strings, and the keys of its objects, scrubbed."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.data(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.data(item) for item in value]
        return value

    def bytes(self, data: bytes) -> bytes:
        """Bytes that are UTF-8 text, scrubbed; others as they are."""
        if self._pattern is None:
            return data
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return data
        return self.text(text).encode()


def _key(prefix: str) -> str:
    return re.escape(prefix) + "[A-Za-z0-9_-]+"


def _unfinished(prefix: str, text: str) -> int:
    """How long the key, or the beginning of its prefix, is with which the text ends."""
    end = text[-_LONGEST_KEY:]
    found = re.search(f"{re.escape(prefix)}[A-Za-z0-9_-]*$", end)
    if found is not None:
        return len(end) - found.start()
    most = min(len(prefix) - 1, len(end))
    return next((n for n in range(most, 0, -1) if end.endswith(prefix[:n])), 0)
