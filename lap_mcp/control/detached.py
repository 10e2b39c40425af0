"""Work that a request asks for and that must not end half-way with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from lap_mcp.errors import Unavailable

from .engine import Engine

T = TypeVar("T")


async def to_its_end(engine: Engine, function: Callable[[], Awaitable[T]], name: str) -> T:
    """Do it in a task of the server: a caller that is cancelled stops waiting, nothing else.

    Raises: what `function` raises; Unavailable when the server stops meanwhile.
    """
    results: list[T] = []
    errors: list[Exception] = []
    over = anyio.Event()

    async def run() -> None:
        try:
            results.append(await function())
        except Exception as error:
            errors.append(error)  # for the caller, if it still waits
        finally:
            over.set()

    engine.spawn(run, name)
    await over.wait()
    if errors:
        raise errors[0]
    if not results:
        raise Unavailable("The server stops.", remedy="Ask again once it has started.")
    return results[0]
