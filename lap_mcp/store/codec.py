"""JSON in columns: compact, unicode kept, keys as given."""

from __future__ import annotations

import json
from typing import Any

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
"""`json.dumps` makes one for each value."""


def dump(value: Any) -> str:
    return _ENCODER.encode(value)


def load(text: str | None) -> Any:
    return None if text is None else json.loads(text)
