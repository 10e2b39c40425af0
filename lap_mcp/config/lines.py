"""On which line of a TOML file a key stands.  Only for text that `tomllib` has accepted.

`tomllib` gives no positions, and an error without a line number is half an error.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Path = tuple[str, ...]

_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r]+|\#[^\n]*)
    | (?P<newline>\n)
    | (?P<string>\"\"\"(?:\\.|[^\\])*?\"{3,5}|'''.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*')
    | (?P<mark>[\[\]{}=,.])
    | (?P<word>[^\s\[\]{}=,."'\#]+)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


def line_numbers(text: str) -> Mapping[Path, int]:
    """Each key's path, inline tables and arrays of tables included, and its line from 1.

    Elements of arrays are keyed by their index as text.
    """
    return _Reader(text).read()


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        kind = str(match.lastgroup)
        if kind != "space":
            yield _Token(kind, match[0], line)
        line += match[0].count("\n")
    yield _Token("end", "", line)


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._lines: dict[Path, int] = {}
        self._arrays: dict[Path, int] = {}

    def read(self) -> Mapping[Path, int]:
        table: Path = ()
        while (token := self._peek()).kind != "end":
            if token.kind == "newline":
                self._at += 1
            elif token.text == "[":
                table = self._header()
            else:
                self._pair(table)
        return self._lines

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        self._at += 1
        return self._tokens[self._at - 1]

    def _skip_newlines(self) -> None:
        while self._peek().kind == "newline":
            self._at += 1

    def _key(self) -> Path:
        parts: list[str] = []
        while self._peek().text not in ("=", "]") and self._peek().kind != "end":
            token = self._take()
            if token.kind == "string":
                parts.append(str(tomllib.loads(f"k = {token.text}")["k"]))
            elif token.kind == "word":
                parts.append(token.text)
        return tuple(parts)

    def _header(self) -> Path:
        line = self._take().line
        array = self._peek().text == "["
        if array:
            self._at += 1
        path = self._key()
        self._at += 2 if array else 1
        if array:
            index = self._arrays[path] = self._arrays.get(path, -1) + 1
            path = (*path, str(index))
        self._note(path, line)
        return path

    def _pair(self, table: Path) -> None:
        line = self._peek().line
        path = (*table, *self._key())
        self._at += 1
        self._note(path, line)
        self._value(path)

    def _note(self, path: Path, line: int) -> None:
        for length in range(1, len(path) + 1):
            self._lines.setdefault(path[:length], line)

    def _value(self, path: Path) -> None:
        opening = self._peek().text
        if opening == "{":
            self._inline_table(path)
        elif opening == "[":
            self._array(path)
        else:
            self._scalar()

    def _scalar(self) -> None:
        while self._peek().kind not in ("newline", "end") and self._peek().text not in ",]}":
            self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        self._skip_newlines()
        while self._peek().text != "}" and self._peek().kind != "end":
            if self._peek().text == ",":
                self._at += 1
            else:
                self._pair(path)
            self._skip_newlines()
        self._at += 1

    def _array(self, path: Path) -> None:
        self._at += 1
        self._skip_newlines()
        index = 0
        while self._peek().text != "]" and self._peek().kind != "end":
            if self._peek().text == ",":
                self._at += 1
                index += 1
            else:
                self._note((*path, str(index)), self._peek().line)
                self._value((*path, str(index)))
            self._skip_newlines()
        self._at += 1
