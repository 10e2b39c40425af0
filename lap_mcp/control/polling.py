"""Waiting for what nobody announces: another process's write, a runtime's first word."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

_PAUSE = 0.05


async def until(condition: Callable[[], bool], timeout: float) -> bool:
    """Wait until `condition` holds; whether it did within `timeout` seconds."""

    async def check() -> bool:
        return condition()

    return await eventually(check, timeout)


async def eventually(condition: Callable[[], Awaitable[bool]], timeout: float) -> bool:
    """The same for a condition that has to ask the store."""
    give_up = anyio.current_time() + timeout
    while not await condition():
        if anyio.current_time() >= give_up:
            return False
        await anyio.sleep(_PAUSE)
    return True
