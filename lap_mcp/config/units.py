"""How sizes and durations are written in the configuration: `"1g"`, `"10m"`, or plain numbers."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(value: Any) -> Any:
    """Bytes; `"512m"` is 512 MiB.  Raises `ValueError` for text that is no size."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError('is not a size; write for example "512m" or "1g"')
    return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])


def parse_duration(value: Any) -> Any:
    """Seconds; `"10m"` is 600.  Raises `ValueError` for text that is no duration."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError('is not a duration; write for example "30s", "10m", "24h" or "7d"')
    return float(match[1]) * _SECONDS[match[2].lower()]


Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
"""Bytes, configured as a number or with one of the units k, m, g, t (powers of 1024)."""

Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
"""Seconds, configured as a number or with one of the units ms, s, m, h, d."""
