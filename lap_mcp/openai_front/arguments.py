"""Code out of the arguments of a function call, while a model writes them.

Models and their servers differ: `{"code": "…"}` is usual; bare code, a fenced block, another key
or an object instead of text are seen.  Pure: text in, text out.

    >>> decoder = CodeArguments()
    >>> [decoder.feed(part) for part in ('{"co', 'de": "a=', '1\\\\n"}')]
    ['', 'a=', '1\\n']
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, Literal

KEY: Final = "code"
_FENCE: Final = re.compile(r"\A\s*```[ \t]*[\w+.-]*[ \t]*\r?\n(.*?)\r?\n?```\s*\Z", re.DOTALL)
_PLAIN: Final = re.compile(r'[^"\\]+')
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_HEX: Final = re.compile(r"[0-9a-fA-F]{4}")
_MARK: Final = "\N{REPLACEMENT CHARACTER}"

State = Literal["start", "object", "key", "after_key", "value", "code", "skip", "bare", "over"]


@dataclass(frozen=True, slots=True)
class Code:
    """What came of the arguments as a whole."""

    shown: str
    """All that `feed` gave, and `rest` after it."""
    rest: str
    """What a reader of the pieces still lacks."""
    source: str
    """What is to be run: `shown` without a fence around it."""
    problem: str = ""
    """Why nothing can be run, in words for the model."""


class CodeArguments:
    """`feed` pieces, then `finish`.  The pieces given are a prefix of the code that `finish` gives,
    however the arguments were cut."""

    def __init__(self) -> None:
        self._whole: list[str] = []
        self._state: State = "start"
        self._pending = ""
        """The beginning of something that the next piece decides."""
        self._key = ""
        self._depth = 0
        self._in_text = False
        self._given: list[str] = []
        self._high = ""
        """A high surrogate whose other half has not come."""
        self._complete = False

    def feed(self, piece: str) -> str:
        """More of the arguments; the code in it."""
        self._whole.append(piece)
        text, self._pending = self._pending + piece, ""
        found: list[str] = []
        position = 0
        while position < len(text):
            after = getattr(self, f"_at_{self._state}")(text, position, found)
            if after is None:
                self._pending = text[position:]
                break
            position = after
        given = "".join(found)
        self._given.append(given)
        return given

    def finish(self, arguments: Any = None) -> Code:
        """`arguments`: the whole of them, where the end of the call repeats them."""
        whole = "".join(self._whole)
        if isinstance(arguments, str):
            if arguments.startswith(whole):
                self.feed(arguments[len(whole) :])
            elif not whole:
                self.feed(arguments)
            whole = arguments if arguments.strip() else whole
        given = "".join(self._given)
        code, problem = _code_of(arguments if isinstance(arguments, dict) else whole)
        if self._complete:
            # The pieces are told already; a later key of the same name does not replace them.
            code = given
        if not problem and not code.startswith(given):
            code, problem = given, "the arguments were repeated differently at the end of the call"
        if problem:
            return Code(given, "", "", problem)
        return Code(code, code[len(given) :], unfenced(code))

    # One state each: the position after what was taken, or None to wait for more. -------------

    def _at_start(self, text: str, at: int, found: list[str]) -> int | None:
        if text[at].isspace() or text[at] == "\ufeff":
            return at + 1
        self._state = "object" if text[at] == "{" else "bare"
        return at + 1

    def _at_bare(self, text: str, at: int, found: list[str]) -> int | None:
        return len(text)

    _at_over = _at_bare

    def _at_object(self, text: str, at: int, found: list[str]) -> int | None:
        if text[at] == '"':
            self._state, self._key = "key", ""
        elif text[at] == "}":
            self._state = "over"
        return at + 1

    def _at_key(self, text: str, at: int, found: list[str]) -> int | None:
        end, piece = self._text(text, at)
        if end is None:
            return None
        self._key += piece
        if end < len(text) and text[end] == '"':
            self._state = "after_key"
            return end + 1
        return end

    def _at_after_key(self, text: str, at: int, found: list[str]) -> int | None:
        if text[at] == ":":
            self._state = "value"
        return at + 1

    def _at_value(self, text: str, at: int, found: list[str]) -> int | None:
        if text[at].isspace():
            return at + 1
        if text[at] == '"' and self._key == KEY and not self._complete:
            self._state = "code"
            return at + 1
        self._state, self._depth, self._in_text = "skip", 0, False
        return at

    def _at_code(self, text: str, at: int, found: list[str]) -> int | None:
        end, piece = self._text(text, at)
        if end is None:
            return None
        found.append(piece)
        if end < len(text) and text[end] == '"':
            found.append(self._half_over())
            self._state, self._complete = "object", True
            return end + 1
        return end

    def _at_skip(self, text: str, at: int, found: list[str]) -> int | None:
        letter = text[at]
        if self._in_text:
            if letter == "\\":
                return at + 2 if at + 1 < len(text) else None
            self._in_text = letter != '"'
        elif letter == '"':
            self._in_text = True
        elif letter in "{[":
            self._depth += 1
        elif letter in "}]" and self._depth:
            self._depth -= 1
        elif letter in ",}" and not self._depth:
            self._state = "object" if letter == "," else "over"
        return at + 1

    def _text(self, text: str, at: int) -> tuple[int | None, str]:
        """A stretch of a JSON string: where it ends, and what it says; None: wait for more."""
        if text[at] == '"':
            return at, ""
        if match := _PLAIN.match(text, at):
            return match.end(), self._half_over() + _whole_letters(match[0])
        if at + 1 >= len(text):
            return None, ""
        escape = text[at + 1]
        if escape != "u":
            return at + 2, self._half_over() + _ESCAPES.get(escape, escape)
        digits = _HEX.match(text, at + 2)
        if digits is None:
            if len(text) - at < 6 and all(c in "0123456789abcdefABCDEF" for c in text[at + 2 :]):
                return None, ""
            return at + 2, self._half_over() + "\\u"
        return at + 6, self._unit(int(digits[0], 16))

    def _unit(self, unit: int) -> str:
        """One UTF-16 unit; of a pair, the first half waits for the other."""
        if 0xDC00 <= unit < 0xE000 and self._high:
            high, self._high = ord(self._high), ""
            return chr(0x10000 + ((high - 0xD800) << 10) + (unit - 0xDC00))
        before = self._half_over()
        if 0xD800 <= unit < 0xDC00:
            self._high = chr(unit)
            return before
        return before + (_MARK if 0xDC00 <= unit < 0xE000 else chr(unit))

    def _half_over(self) -> str:
        """A half whose other half never came."""
        alone, self._high = self._high, ""
        return _MARK if alone else ""


def _whole_letters(text: str) -> str:
    """Without lone surrogates, which nothing can be encoded with."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def unfenced(code: str) -> str:
    """The inside of a fenced block, where the code is nothing but one."""
    match = _FENCE.match(code)
    return match[1] if match else code


def _code_of(arguments: Any) -> tuple[str, str]:
    """The code, or why there is none."""
    value = arguments
    if isinstance(arguments, str):
        text = arguments.strip().removeprefix("\ufeff")
        if not text:
            return "", "the arguments are empty"
        if text[0] not in '{"':
            return _whole_letters(text), ""
        try:
            value = json.loads(text, strict=False)
        except (ValueError, RecursionError) as error:
            words = str(error) if isinstance(error, ValueError) else "it nests too deep"
            return "", f"the arguments are not valid JSON ({words})"
    if isinstance(value, dict):
        texts = [each for each in value.values() if isinstance(each, str)]
        value = value[KEY] if KEY in value else (texts[0] if len(texts) == 1 else None)
    if not isinstance(value, str):
        return "", f"the arguments have no text `{KEY}`"
    return _whole_letters(value), ""
