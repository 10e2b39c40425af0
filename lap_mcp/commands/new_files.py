"""Files that commands write for a person: new ones only, and whole ones only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated

import anyio
import typer

from lap_mcp.control.output_names import check_output_name
from lap_mcp.errors import Invalid

from .console import say

Write = Callable[[bytes], Awaitable[None]]

Everything = Annotated[
    bool, typer.Option("--all", help="Also files that programs act on by their name: scripts, …")
]


def is_welcome(path: str, *, everything: bool) -> bool:
    """Whether a file of a sandbox is written under its name.  Code chose it, and programs act on
    some names (a hook of git, instructions to a model): said, where it is left out.

    `everything`: a person wants those too."""
    if everything:
        return True
    parts = PurePosixPath(path).parts
    try:
        if any(part.startswith(".") for part in parts[:-1]):
            raise Invalid("it is in a hidden folder.")
        check_output_name(parts[-1])
    except Invalid as error:
        say(f"{path} was left out: {error.message} Give --all to write it too.")
        return False
    return True


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
