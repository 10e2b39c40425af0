"""Checks a request against the parameters that an official SDK declares for it (a `TypedDict`):
nothing that it does not know, everything that it requires.  For servers made of such types.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter


@cache
def _adapter(params: Any) -> TypeAdapter[Any]:
    return TypeAdapter(params)


def checked(params: Any, body: Any) -> None:
    """Raises `ValidationError`."""
    _drained(_adapter(params).validate_python(body, extra="forbid"))


def _drained(value: Any) -> None:
    """An `Iterable` is validated while it is iterated."""
    if isinstance(value, Mapping):
        for each in value.values():
            _drained(each)
    elif isinstance(value, list | tuple | Iterator) or type(value).__name__ == "ValidatorIterator":
        for each in value:
            _drained(each)
