"""JSON that a model is still writing.  Pure.

Clients parse the pieces of a tool's input as they come, and the official one raises where they stop
being JSON.  What is passed on here never does: it is held back until it is known to be right, and
after the first fault nothing more is passed on.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from pydantic_core import from_json

_LITERAL: Final = re.compile(r"[-+.0-9a-zA-Z]+")
_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f]+')
_ESCAPE: Final = re.compile(
    r"\\(?:"
    r'["\\/bfnrt]'
    r"|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}"
    r"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r")"
)
"""As clients' parsers take them: a surrogate only as one of a pair."""
_MAX_DEPTH: Final = 100
_LONGEST_ESCAPE: Final = 12


class PartialJson:
    """`feed` pieces; each gives what may be passed on.  Then `value`."""

    def __init__(self) -> None:
        self._pending = ""
        self._whole: list[str] = []
        self._passed: list[str] = []
        self._stack: list[str] = []
        self._expected = "value"
        """`value`, `first_value`, `key`, `first_key`, `colon`, `comma`, `end`; inside of a string
        `text` or `name`."""
        self.broken = False

    def feed(self, piece: str) -> str:
        self._whole.append(piece)
        if self.broken:
            return ""
        text, at = self._pending + piece, 0
        while at < len(text):
            after = self._step(text, at)
            if after is None or self.broken:
                break
            at = after
        self._pending = text[at:]
        passed = text[:at]
        self._passed.append(passed)
        return passed

    @property
    def complete(self) -> bool:
        return not self.broken and self._expected == "end" and not self._pending

    @property
    def empty(self) -> bool:
        return not "".join(self._whole).strip()

    def shown(self) -> Any:
        """As a client reads what was passed on."""
        passed = "".join(self._passed)
        return from_json(passed, allow_partial=True) if passed.strip() else {}

    def _step(self, text: str, at: int) -> int | None:
        """The position after the next token; `None`: more is needed to know."""
        letter = text[at]
        if self._expected in ("text", "name"):
            return self._in_string(text, at)
        if letter in " \t\r\n":
            return at + 1
        if not self._stack and letter != "{":
            self.broken = True  # no input of a tool is anything but an object
            return None
        if letter == '"' and self._expected in ("value", "first_value", "key", "first_key"):
            self._expected = "name" if self._expected.endswith("key") else "text"
            return at + 1
        if letter in "{[" and self._expected.endswith("value") and len(self._stack) < _MAX_DEPTH:
            self._stack.append("}" if letter == "{" else "]")
            self._expected = "first_key" if letter == "{" else "first_value"
            return at + 1
        if letter in "}]" and self._stack and self._closes(letter):
            self._stack.pop()
            self._value_over()
            return at + 1
        if letter == ":" and self._expected == "colon":
            self._expected = "value"
            return at + 1
        if letter == "," and self._expected == "comma":
            self._expected = "key" if self._stack[-1] == "}" else "value"
            return at + 1
        if self._expected.endswith("value") and (match := _LITERAL.match(text, at)):
            return self._literal(match, len(text))
        self.broken = True
        return None

    def _closes(self, letter: str) -> bool:
        opened = "first_key" if letter == "}" else "first_value"
        return letter == self._stack[-1] and self._expected in ("comma", opened)

    def _value_over(self) -> None:
        self._expected = "comma" if self._stack else "end"

    def _literal(self, match: re.Match[str], size: int) -> int | None:
        if match.end() == size:
            self.broken = len(match[0]) > 400
            return None
        try:
            json.loads(match[0], parse_constant=_refuse)
        except ValueError:
            self.broken = True
            return None
        self._value_over()
        return match.end()

    def _in_string(self, text: str, at: int) -> int | None:
        if text[at] == '"':
            if self._expected == "name":
                self._expected = "colon"
            else:
                self._value_over()
            return at + 1
        match = _PLAIN.match(text, at) or _ESCAPE.match(text, at)
        if match is not None:
            return match.end()
        self.broken = text[at] != "\\" or len(text) - at >= _LONGEST_ESCAPE
        return None


def _refuse(constant: str) -> None:
    raise ValueError(constant)
