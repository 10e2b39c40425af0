"""Tokens of an answer that took several rounds.  Pure."""

from __future__ import annotations

from typing import Any, Final

from lap_mcp.front_parts.wire import Json

AT_THE_END: Final = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "server_tool_use",
    "output_tokens_details",
    "iterations",
)
"""What the end of a stream says of the whole; clients take it in place of what its start said."""


def added(total: Json, more: Json, deep: int = 8) -> Json:
    """Counts summed, lists joined; the newest of everything else, or of what nests deeper."""
    return {key: _sum(total.get(key), more.get(key), deep) for key in {**total, **more}}


def _sum(one: Any, other: Any, deep: int) -> Any:
    if isinstance(one, bool) or isinstance(other, bool):
        return one if other is None else other
    if isinstance(one, int) and isinstance(other, int):
        return one + other
    if isinstance(one, dict) and isinstance(other, dict) and deep:
        return added(one, other, deep - 1)
    if isinstance(one, list) and isinstance(other, list):
        return [*one, *other]
    return one if other is None else other


def at_the_end(total: Json) -> Json:
    return {key: total[key] for key in AT_THE_END if total.get(key) is not None}
