"""Time and identity: the two things that tests replace."""

from __future__ import annotations

import secrets
import time
from typing import Literal, Protocol

Prefix = Literal["ses", "trn", "qst", "sbx", "exe", "own", "cmd", "tsk"]


def new_id(prefix: Prefix) -> str:
    """`prefix_` and 32 hex digits: 128 random bits."""
    return f"{prefix}_{secrets.token_hex(16)}"


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch."""
        ...


class SystemClock:
    def now(self) -> float:
        return time.time()
