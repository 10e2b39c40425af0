"""Text that every store and every JSON encoder takes.

PostgreSQL refuses NUL characters, UTF-8 has no halves of surrogate pairs, and a runtime may send
either: one of them in a message must not cost the turn that it is in.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

NOT_TEXT = "holds a NUL character or half of a surrogate pair, which cannot be stored"

MAX_ID = 300
"""Characters of an id of a runtime's that are kept."""


def storable(value: T) -> T:
    """The text, JSON value or event, with `\\ufffd` in place of what cannot be stored."""
    clean: Any = _clean(value)
    return clean  # type: ignore[no-any-return]


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None  # Python reads and writes NaN; in JSON there is none, and strict clients fail.
    if isinstance(value, Mapping):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    return value


def _fields(value: Any) -> Any:
    changes = {}
    for field in dataclasses.fields(value):
        old = getattr(value, field.name)
        new = _clean(old)
        if new != old:
            changes[field.name] = new
    return dataclasses.replace(value, **changes) if changes else value


def _text(text: str) -> str:
    if text.isascii() and "\x00" not in text:
        return text
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        # Through UTF-16, in which two halves that follow each other are one character.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def short_id(native: str) -> str:
    """An id that fits its column and is still the same for the same, and only the same, id."""
    if len(native) <= MAX_ID:
        return native
    return f"{native[:200]}…{hashlib.sha256(native.encode()).hexdigest()}"
