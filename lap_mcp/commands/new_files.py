"""Files that commands write for a person: new ones only, and whole ones only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from .console import say

Write = Callable[[bytes], Awaitable[None]]


async def make_folder(folder: Path) -> None:
    """Raises: OSError, if nothing can be written there: before work was done for it."""
    await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
    async with anyio.TemporaryFile(dir=str(folder)):
        pass


@asynccontextmanager
async def new_file(path: Path) -> AsyncIterator[Write | None]:
    """Where a new file is written; `None`, and words, where there is one already.

    What cannot be finished is removed again.  Raises: OSError."""
    await anyio.Path(path.parent).mkdir(parents=True, exist_ok=True)
    try:
        out = await anyio.open_file(path, "xb")
    except FileExistsError:
        say(f"{path} exists and was left as it is.")
        yield None
        return

    async def write(data: bytes) -> None:
        await out.write(data)

    try:
        async with out:
            yield write
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.Path(path).unlink(missing_ok=True)
        raise
