"""Sets or removes one member in the text of a JSON file, and leaves everything else as it stands.

Clients keep comments, order and trailing commas in their files; parsing and writing those again
would lose them.  Knows JSON with comments (JSONC) and trailing commas.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lap_mcp.errors import Invalid

from .members import with_value, without

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|//[^\n]*|/\*.*?\*/)
    | (?P<string>"(?:\\.|[^"\\])*")
    | (?P<mark>[\[\]{}:,])
    | (?P<word>[^\s\[\]{}:,"/]+)
    """,
    re.VERBOSE | re.DOTALL,
)

_REST_OF_LINE = re.compile(r"[ \t]*(//[^\n]*|/\*[^\n]*?\*/)[ \t]*(?=\n)")
"""A comment that belongs to what stands before it on its line."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    start: int
    """Where its name begins."""
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class _Object:
    start: int
    end: int
    """After the closing brace."""
    members: tuple[_Member, ...]
    trailing_comma: bool


def parse(text: str) -> Any:
    """The value of JSON with comments and trailing commas.  Raises: Invalid."""
    try:
        return json.loads(text)  # most files have neither, and some have megabytes
    except (ValueError, RecursionError):
        return _parsed(text)


def _parsed(text: str) -> Any:
    kept = [token for token in _tokens(text)]
    words: list[str] = []
    for index, token in enumerate(kept):
        closing = index + 1 < len(kept) and kept[index + 1].text in ("}", "]")
        if not (token.text == "," and closing):
            words.append(token.text)
    try:
        return json.loads(" ".join(words) or "null")
    except json.JSONDecodeError as exc:
        raise Invalid(f"This is not JSON: {exc.msg}.") from exc
    except (RecursionError, ValueError) as exc:
        raise Invalid("This JSON is nested too deeply, or has a number that is too long.") from exc


def set_member(text: str, path: Sequence[str], value: Any) -> str:
    """`text` with the member at `path` set; objects on the way are made.

    Raises:
        Invalid: it is not a JSON object, or something on the way is not one, or it is written in
            a way that is not changed here (a name twice in one object).
    """
    if not text.strip():
        text = "{}\n"
    before = _whole(text)
    return _proved(_set(text, path, value), with_value(before, path, value), path)


def remove_member(text: str, path: Sequence[str]) -> str:
    """`text` without the member at `path`; objects on the way stay, also where one is empty then.

    Raises:
        Invalid: as `set_member`.
    """
    before = _whole(text) if text.strip() else {}
    if not has_member(before, path):
        return text
    at = 0
    for name in path[:-1]:
        at = _member(text, _object(text, at), name).value
    found = _object(text, at)
    member = _member(text, found, path[-1], last=True)
    return _proved(_removed(text, found, member), without(before, path), path)


def _member(text: str, found: _Object, name: str, *, last: bool = False) -> _Member:
    """That member, which the parser has seen; an object, unless it is the `last` of a path.

    Raises:
        Invalid: the parser saw another one of the same name.
    """
    for member in found.members:
        if member.name == name and (last or text[member.value] == "{"):
            return member
    raise Invalid(f"`{name}` is in this file twice.", remedy="Change it there by hand.")


def has_member(data: Any, path: Sequence[str]) -> bool:
    for name in path:
        if not isinstance(data, dict) or name not in data:
            return False
        data = data[name]
    return True


def _whole(text: str) -> dict[str, Any]:
    value = parse(text)
    if not isinstance(value, dict):
        raise Invalid("This file does not hold a JSON object.")
    return value


def _proved(text: str, expected: Any, path: Sequence[str]) -> str:
    """The text, if it reads as it should.  Raises: Invalid."""
    if parse(text) != expected:
        raise Invalid(
            f"`{'.'.join(path)}` is written in a way that cannot be changed safely.",
            remedy="Change it in that file by hand.",
        )
    return text


def _set(text: str, path: Sequence[str], value: Any) -> str:
    at = 0
    for depth, name in enumerate(path):
        found = _object(text, at)
        member = next((entry for entry in found.members if entry.name == name), None)
        rest = path[depth + 1 :]
        if member is None:
            return _inserted(text, found, name, _nested(rest, value))
        if not rest:
            return _replaced(text, member, value)
        if text[member.value] != "{":
            raise Invalid(f"`{name}` in this file is not an object.")
        at = member.value
    raise ValueError("an empty path")


def _nested(names: Sequence[str], value: Any) -> Any:
    for name in reversed(names):
        value = {name: value}
    return value


def _tokens(text: str, start: int = 0, *, one: bool = False) -> list[_Token]:
    """Those of the text from `start`, or of `one` value there."""
    found: list[_Token] = []
    at, depth = start, 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            line = text.count("\n", 0, at) + 1
            raise Invalid(f"This is not JSON: something unexpected on line {line}.")
        at = match.end()
        if match.lastgroup != "space":
            found.append(_Token(str(match.lastgroup), match[0], match.start(), match.end()))
            depth += _depth(found[-1])
            if one and depth == 0:
                break
    return found


def _depth(token: _Token) -> int:
    if token.kind != "mark":
        return 0
    return (token.text in ("{", "[")) - (token.text in ("}", "]"))


def _object(text: str, start: int) -> _Object:
    """The object that begins at or after `start`."""
    tokens = _tokens(text, start, one=True)
    members: list[_Member] = []
    index = 1
    while tokens[index].text != "}":
        if tokens[index].text == ",":
            index += 1
            continue
        name = tokens[index]
        value = index + 2
        after = _after_value(tokens, value)
        members.append(
            _Member(json.loads(name.text), name.start, tokens[value].start, tokens[after - 1].end)
        )
        index = after
    trailing = tokens[index - 1].text == ","
    return _Object(tokens[0].start, tokens[index].end, tuple(members), trailing)


def _after_value(tokens: Sequence[_Token], index: int) -> int:
    depth = 0
    while True:
        depth += _depth(tokens[index])
        index += 1
        if depth == 0:
            return index


def _replaced(text: str, member: _Member, value: Any) -> str:
    return text[: member.value] + _dump(value, _indent_at(text, member.start)) + text[member.end :]


def _inserted(text: str, found: _Object, name: str, value: Any) -> str:
    closing = found.end - 1
    if found.members:
        last = found.members[-1]
        indent = _indent_at(text, last.start)
        entry = f"\n{indent}{json.dumps(name)}: {_dump(value, indent)}"
        comma = "" if found.trailing_comma else ","
        at = _comma_after(text, last.end) if found.trailing_comma else last.end
        comment = _REST_OF_LINE.match(text, at)
        rest = comment.end() if comment else at
        return text[:at] + comma + text[at:rest] + entry + text[rest:]
    outer = _indent_at(text, found.start)
    indent = outer + _unit(text)
    entry = f"\n{indent}{json.dumps(name)}: {_dump(value, indent)}\n{outer}"
    inside = text[found.start + 1 : closing].rstrip()
    return text[: found.start + 1] + inside + entry + text[closing:]


def _removed(text: str, found: _Object, member: _Member) -> str:
    """Without the member, its comma, and its line, if nothing else is on it."""
    start, end = member.start, member.end
    if member is not found.members[-1] or found.trailing_comma:
        end = _comma_after(text, end)
    begin = text.rfind("\n", 0, start) + 1
    close = text.find("\n", end)
    alone = close >= 0 and not text[begin:start].strip() and not text[end:close].strip()
    left = text[:begin] + text[close + 1 :] if alone else text[:start] + text[end:]
    if member is found.members[-1] and not found.trailing_comma and len(found.members) > 1:
        comma = _comma_after(text, found.members[-2].end)
        left = left[: comma - 1] + left[comma:]
    return left


def _comma_after(text: str, at: int) -> int:
    """After the comma that follows, which a comment may precede."""
    return next(token.end for token in _tokens(text, at) if token.text == ",")


def _dump(value: Any, indent: str) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False).replace("\n", f"\n{indent}")


def _indent_at(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip())]


def _unit(text: str) -> str:
    match = re.search(r"\n([ \t]+)\S", text)
    return match[1] if match else "  "
