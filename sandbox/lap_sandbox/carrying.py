"""Carrying the image to a machine without a registry, and what is seen to on the way."""

from __future__ import annotations

from pathlib import Path

from lap_sandbox.engine import Engine
from lap_sandbox.errors import LauncherUnavailable, SandboxError


async def export_image(engine: Engine, tag: str, file: Path) -> None:
    """Write the image `tag`, with its name and labels, to a new file.

    Raises:
        LauncherUnavailable: there is no such image yet.
        SandboxError: the file cannot be written, or exists.
    """
    found = await engine.image_id(tag)
    if found is None:
        raise LauncherUnavailable(
            f"The sandbox image `{tag}` is not there.", remedy="Run `lap-mcp sandbox build` first."
        )
    try:
        await engine.export_image(tag, file)
    except OSError as error:
        raise SandboxError(f"{file} cannot be written: {error.strerror or error}.") from None


async def import_image(engine: Engine, tag: str, file: Path) -> str:
    """Take an image that was exported; its id.

    Raises:
        LauncherUnavailable: the file holds no image named `tag`.
        SandboxError: it cannot be read.
    """
    try:
        await engine.import_image(file)
    except OSError as error:
        raise SandboxError(f"{file} cannot be read: {error.strerror or error}.") from None
    found = await engine.image_id(tag)
    if found is None:
        raise LauncherUnavailable(
            f"{file} holds no image `{tag}`.",
            remedy="Set `image` of `[sandbox]` to the name that it was exported under.",
        )
    return found[0]
