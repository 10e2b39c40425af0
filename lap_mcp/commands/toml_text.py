"""Sets one table in the text of a TOML file, and leaves everything else as it stands."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from lap_mcp.errors import Invalid

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
        tail = "".join(lines[place:])
        result = "".join(lines[:place]) + block + (f"\n{tail}" if tail.strip() else "")
    if _parse(result) != _with(before, path, dict(values)):
        raise Invalid(
            f"[{'.'.join(path)}] is written in a way that cannot be changed safely.",
            remedy="Remove it from that file by hand, then run this again.",
        )
    return result


def _parse(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise Invalid(f"This file is not TOML: {exc}.") from exc


def _with(data: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    below = data.get(path[0], {})
    inner = value if len(path) == 1 else _with(below, path[1:], value)
    return {**data, path[0]: inner}


def _without(text: str, path: tuple[str, ...]) -> tuple[str, int | None]:
    """The text without that table's lines, and on which line it began."""
    kept: list[str] = []
    place: int | None = None
    inside = False
    for line in text.splitlines(keepends=True):
        name = _header(line)
        if name is not None:
            inside = name[: len(path)] == path
            if inside and place is None:
                place = len(kept)
        if not inside:
            kept.append(line)
    return "".join(kept), place


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
    return json.dumps(value, ensure_ascii=False)
