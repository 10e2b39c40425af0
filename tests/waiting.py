"""Waiting for something to become true, with a deadline instead of a guess."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

EVERY = 0.02


def eventually(condition: Callable[[], object], *, within: float = 30.0, words: str = "") -> None:
    """Block until `condition()` is true.

    Raises:
        AssertionError: it is not, after `within` seconds.
    """
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, words or f"still not so after {within} s"
        time.sleep(EVERY)


async def eventually_async(
    condition: Callable[[], object], *, within: float = 30.0, words: str = ""
) -> None:
    """The same on an event loop."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, words or f"still not so after {within} s"
        await anyio.sleep(EVERY)
