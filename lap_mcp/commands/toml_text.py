"""Sets or removes one table in the text of a TOML file, and leaves everything else as it stands."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from lap_mcp.errors import Invalid

from .members import value_at, with_value, without

_HEADER = re.compile(r"^\s*\[([^\[\]]+)\]\s*(#.*)?$")


def set_table(text: str, path: Sequence[str], values: Mapping[str, Any]) -> str:
    """`text` with the table at `path` (and those below it) replaced, or added at the end.

    Raises:
        Invalid: it is not TOML, or the table is written in a way that is not replaced here (an
            inline table, dotted keys).
    """
    before = _parse(text)
    kept, place = _without(text, tuple(path))
    block = _block(path, values)
    if place is None:
        result = f"{kept.rstrip()}\n\n{block}" if kept.strip() else block
    else:
        lines = kept.splitlines(keepends=True)
        tail = "".join(lines[place:]).lstrip("\n")
        result = "".join(lines[:place]) + block + (f"\n{tail}" if tail.strip() else "")
    return _proved(result, with_value(before, path, dict(values)), path)


def remove_table(text: str, path: Sequence[str]) -> str:
    """`text` without the table at `path` and those below it.

    Raises:
        Invalid: as `set_table`.
    """
    before = _parse(text)
    if table_at(text, path) is None:
        return text
    kept, place = _without(text, tuple(path))
    lines = kept.splitlines(keepends=True)
    head, tail = "".join(lines[:place]).rstrip("\n"), "".join(lines[place:]).lstrip("\n")
    result = "\n\n".join(part for part in (head, tail) if part)
    if result and not result.endswith("\n"):
        result += "\n"
    return _proved(result, without(before, path), path)


def table_at(text: str, path: Sequence[str]) -> Any:
    """The value at `path`; `None`: there is none.  Raises: Invalid."""
    return value_at(_parse(text), path)


def _proved(text: str, expected: Mapping[str, Any], path: Sequence[str]) -> str:
    """The text, if it reads as it should.  Raises: Invalid."""
    if not _same(_parse(text), expected):
        raise Invalid(
            f"[{'.'.join(path)}] is written in a way that cannot be changed safely.",
            remedy="Remove it from that file by hand, then run this again.",
        )
    return text


def _same(one: Any, other: Any) -> bool:
    """Equal; a table that is empty is as good as none."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        names = {*one, *other}
        return all(_same(one.get(name, {}), other.get(name, {})) for name in names)
    return type(one) is type(other) and bool(one == other)


def _parse(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise Invalid(f"This file is not TOML: {exc}.") from exc


def _without(text: str, path: tuple[str, ...]) -> tuple[str, int | None]:
    """The text without that table's lines, and on which line it began.

    Comments at its end stay: they belong to what comes next."""
    kept: list[str] = []
    waiting: list[str] = []
    place: int | None = None
    inside = False
    for line in text.splitlines(keepends=True):
        name = _header(line)
        if name is not None:
            was, inside = inside, name[: len(path)] == path
            if inside and place is None:
                place = len(kept)
            if was and not inside:
                kept += waiting
            waiting = []
        if not inside:
            kept.append(line)
        elif not line.strip() or line.lstrip().startswith("#"):
            waiting.append(line)
        else:
            waiting = []
    return "".join(kept + waiting), place


def _header(line: str) -> tuple[str, ...] | None:
    match = _HEADER.match(line)
    if match is None:
        return None if not re.match(r"^\s*\[\[", line) else ()
    try:
        table: Any = tomllib.loads(f"[{match[1]}]")
    except tomllib.TOMLDecodeError:
        return None
    names: list[str] = []
    while table:
        name, table = next(iter(table.items()))
        names.append(name)
    return tuple(names)


def _block(path: Sequence[str], values: Mapping[str, Any]) -> str:
    lines = [f"[{'.'.join(_key(name) for name in path)}]"]
    lines += [f"{_key(name)} = {_value(value)}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_key(name)} = {_value(item)}" for name, item in value.items())
        return f"{{ {pairs} }}"
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    if not isinstance(value, str | int | float | bool):
        raise Invalid(f"{value} in this table cannot be written again.")
    # JSON's text is TOML's, but for one character that TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
