"""`lap-mcp sandbox list|prune|export|import`: the sandboxes that this `LAP_HOME` keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import anyio
import anyio.to_thread
import typer

from lap_mcp.app import open_parts
from lap_mcp.clock import SystemClock
from lap_mcp.config import Config, make_private_folder
from lap_mcp.config.units import parse_duration
from lap_mcp.control.shelf import Shelf, Shelved
from lap_mcp.errors import Invalid
from lap_mcp.model import LOCAL
from lap_mcp.sandbox_parts import sandbox_launcher, sandbox_shelf

from .console import (
    Json,
    fail,
    patience,
    program,
    put,
    put_json,
    put_table,
    put_text,
    read_config,
    run,
)
from .new_files import Everything, is_welcome, make_folder, new_file

Id = Annotated[str, typer.Argument(metavar="SANDBOX", help="sbx_…")]
NOTEBOOK = "sandbox.ipynb"


@asynccontextmanager
async def _shelf(context: typer.Context, config: Config) -> AsyncIterator[Shelf]:
    async with open_parts(program(context), config, lenient=False) as parts:
        yield sandbox_shelf(parts.database, config, parts.home)


def list_(
    context: typer.Context,
    everybody: Annotated[bool, typer.Option("--all", help="Also those of keys.")] = False,
    containers: Annotated[
        bool, typer.Option("--containers", help="What runs on the engine instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the sandboxes of this LAP_HOME, open or kept, last used first."""
    config = read_config(context)
    if containers:
        _list_containers(context, config, as_json=as_json)
        return

    async def work() -> Sequence[Shelved]:
        async with _shelf(context, config) as shelf:
            return await shelf.list(None if everybody else LOCAL)

    found = run(work)
    if as_json:
        put_json([_as_json(one) for one in found])
        return
    rows = [
        (
            one.record.id,
            datetime.fromtimestamp(one.record.used_at).strftime("%Y-%m-%d %H:%M"),
            one.record.executions,
            one.record.files,
            f"{one.record.size / 1e6:.1f} MB",
            "kept" if one.process is None else f"open in process {one.process}",
        )
        for one in found
    ]
    columns = ("sandbox", "used", "cells", "files", "size", "state")
    put_table(columns, rows, "There are no sandboxes.")


def _as_json(one: Shelved) -> Mapping[str, Any]:
    record = one.record
    return {
        "id": record.id,
        "principal": record.principal,
        "created_at": record.created_at,
        "used_at": record.used_at,
        "cells": record.executions,
        "files": record.files,
        "size": record.size,
        "process": one.process,
    }


def _list_containers(context: typer.Context, config: Config, *, as_json: bool) -> None:
    async def work() -> Sequence[Mapping[str, str]]:
        launcher = sandbox_launcher(config, program(context).here, config.home)
        try:
            return await launcher.running()
        finally:
            await launcher.aclose()

    found = run(work)
    if as_json:
        put_json(found)
        return
    rows = [(entry["container"], entry["state"], entry["owner"]) for entry in found]
    put_table(("container", "state", "process"), rows, "No container is running.")


def prune(
    context: typer.Context,
    older: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Forget kept sandboxes unused for so long: 7d, 12h."),
    ] = None,
) -> None:
    """Remove containers that servers which ended left behind; their number.

    With --older: forget kept sandboxes instead, with their files; their number."""
    config = read_config(context)
    try:
        age = None if older is None else float(parse_duration(older))
    except ValueError as exc:
        fail(Invalid(f"--older {exc}."))

    async def work() -> int:
        await anyio.to_thread.run_sync(make_private_folder, config.home)
        if age is not None:
            async with _shelf(context, config) as shelf:
                return await shelf.forget(SystemClock().now() - age)
        launcher = sandbox_launcher(config, program(context).here, config.home)
        try:
            return await launcher.reap()
        finally:
            await launcher.aclose()

    put(str(run(work)))


def export(
    context: typer.Context,
    sandbox: Id,
    ipynb: Annotated[
        bool, typer.Option("--ipynb", help="Its cells and what they showed, as a notebook.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the files; for the notebook, too.")
    ] = None,
    everything: Everything = False,
) -> None:
    """Export what is kept of a sandbox: its files, its cells as a notebook, or both.

    Without --output, the notebook goes to standard output.  Nothing is overwritten."""
    config = read_config(context)
    if not ipynb and output is None:
        fail(Invalid("There is nothing to do.", remedy="Give --ipynb, --output FOLDER or both."))

    async def work() -> str:
        async with _shelf(context, config) as shelf:
            text = await shelf.notebook(LOCAL, sandbox) if ipynb else ""
            if output is not None:
                await _export_files(shelf, sandbox, output, everything=everything)
                if ipynb:
                    await _write_new(output / NOTEBOOK, _once(text.encode()))
            return text

    text = run(work)
    if output is None:
        put_text(text, end="")


async def _export_files(shelf: Shelf, sandbox: str, folder: Path, *, everything: bool) -> None:
    """Paths were checked when the files were kept; they are below /mnt/data, so below `folder`."""
    files = await shelf.files(LOCAL, sandbox)
    await make_folder(folder)
    for file in files:
        if not is_welcome(file.path, everything=everything):
            continue
        path = folder.joinpath(*PurePosixPath(file.path).parts)
        await _write_new(path, shelf.blobs.pieces(file.sha256))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _write_new(path: Path, pieces: AsyncIterator[bytes]) -> None:
    async with new_file(path) as write:
        if write is None:
            return
        async for piece in pieces:
            await write(piece)
    put(str(path))


def import_(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(help="Files, and folders with all in them.")],
) -> None:
    """Make a new sandbox with these files; its id.  `code_interpreter` goes on with it."""
    config = read_config(context)

    async def work() -> str:
        async with _shelf(context, config) as shelf, patience("copying the files"):
            return await shelf.import_(LOCAL, paths)

    put(run(work))


def add_to(app: typer.Typer) -> None:
    """The commands, beside those that run code."""
    app.command("list")(list_)
    app.command()(prune)
    app.command()(export)
    app.command("import")(import_)
