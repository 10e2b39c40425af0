"""Members of parsed JSON or TOML by their path: what an edit of its text has to come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def value_at(data: Any, path: Sequence[str]) -> Any:
    """`None` where there is none."""
    for name in path:
        data = data.get(name) if isinstance(data, Mapping) else None
    return data


def with_value(data: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy with `value` at `path`; what is in its way and holds no members gives way."""
    below = data.get(path[0])
    inner = below if isinstance(below, Mapping) else {}
    return {**data, path[0]: value if len(path) == 1 else with_value(inner, path[1:], value)}


def without(data: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """A copy without the member at `path`, which is there."""
    if len(path) == 1:
        return {name: item for name, item in data.items() if name != path[0]}
    return {**data, path[0]: without(data[path[0]], path[1:])}
