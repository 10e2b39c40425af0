"""Tokens, summed over the rounds of one response.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .wire import Json, mapping


def added(total: Mapping[str, Any], more: Any, deep: int = 8) -> Json:
    """Every number of both; of what is no number, or nests deeper than `deep`, the newer."""
    result = dict(total)
    for key, value in mapping(more).items():
        before = result.get(key)
        if isinstance(value, dict) and deep:
            result[key] = added(mapping(before), value, deep - 1)
        elif _number(value) and _number(before):
            result[key] = before + value
        elif value is not None or key not in result:
            result[key] = value
    return result


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def complete(usage: Mapping[str, Any]) -> Json | None:
    """With every field that the Responses types require; `None` where nobody counted."""
    if not usage:
        return None
    before, after = usage.get("input_tokens") or 0, usage.get("output_tokens") or 0
    cached = {"cached_tokens": 0, "cache_write_tokens": 0}
    return {
        **usage,
        "input_tokens": before,
        "input_tokens_details": {**cached, **mapping(usage.get("input_tokens_details"))},
        "output_tokens": after,
        "output_tokens_details": {
            "reasoning_tokens": 0,
            **mapping(usage.get("output_tokens_details")),
        },
        "total_tokens": usage.get("total_tokens") or before + after,
    }


def from_chat(usage: Any) -> Json:
    """The usage of a Chat Completions answer in the words of Responses."""
    given = mapping(usage)
    if not given:
        return {}
    return {
        "input_tokens": given.get("prompt_tokens") or 0,
        "input_tokens_details": {
            "cached_tokens": mapping(given.get("prompt_tokens_details")).get("cached_tokens") or 0
        },
        "output_tokens": given.get("completion_tokens") or 0,
        "output_tokens_details": {
            "reasoning_tokens": mapping(given.get("completion_tokens_details")).get(
                "reasoning_tokens"
            )
            or 0
        },
        "total_tokens": given.get("total_tokens") or 0,
    }
