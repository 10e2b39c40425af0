"""`lap-mcp sandbox`: the image of the code interpreter, and one run of code without a client.

What concerns sandboxes that are kept is in `shelf.py`."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import anyio.to_thread
import typer
from lap_sandbox.base import Execution, Sandbox

from lap_mcp.app import Program
from lap_mcp.config import Config, make_private_folder
from lap_mcp.errors import Invalid
from lap_mcp.sandbox_parts import sandbox_launcher

from .console import (
    FAILED,
    OK,
    Json,
    fail,
    program,
    put,
    put_json,
    put_text,
    read_config,
    run,
    say,
    standard_input,
    system_words,
)
from .new_files import Everything, Write, is_welcome, make_folder, new_file

if TYPE_CHECKING:
    from lap_mcp.sandbox_parts import AnyLauncher

app = typer.Typer(no_args_is_help=True, help="Where code_interpreter runs Python.")

REPORT_SECONDS = 1.0
PIECE = 1024 * 1024
_STEP = re.compile(r"step \d+ of \d+")
_SECONDS = re.compile(r" \(\d+ s\)$")
_EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/svg+xml": "svg",
    "text/html": "html",
    "text/markdown": "md",
    "text/latex": "tex",
    "application/json": "json",
}


@asynccontextmanager
async def _launcher(started: Program, config: Config) -> AsyncIterator[AnyLauncher]:
    launcher = sandbox_launcher(config, started.here, config.home)
    try:
        yield launcher
    finally:
        await launcher.aclose()


@asynccontextmanager
async def _progress(launcher: AnyLauncher) -> AsyncIterator[None]:
    """Say how far the launcher is: one moving line on a terminal, else a line for each step."""

    async def report(tell: Callable[[str], None]) -> None:
        told = ""
        while True:
            await anyio.sleep(REPORT_SECONDS)
            words = launcher.preparation().words
            if words != told:
                tell(words)
                told = words

    with _teller() as tell:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(report, tell)
            yield
            tasks.cancel_scope.cancel()


@contextmanager
def _teller() -> Iterator[Callable[[str], None]]:
    if not sys.stderr.isatty():
        yield each_step(say)
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("starting") as status:
        yield lambda words: status.update(Text(words))


def each_step(tell: Callable[[str], None]) -> Callable[[str], None]:
    """Tells words only where they differ in more than their seconds and the work in one step."""
    told: list[str] = []

    def step(words: str) -> None:
        found = _STEP.search(words)
        key = found[0] if found else _SECONDS.sub("", words)
        if told != [key]:
            told[:] = [key]
            tell(words)

    return step


class LauncherName(StrEnum):
    auto = "auto"
    docker = "docker"
    bubblewrap = "bubblewrap"


@app.command()
def build(
    context: typer.Context,
    force: Annotated[bool, typer.Option("--force", help="Even if it is there.")] = False,
    launcher: Annotated[
        LauncherName | None, typer.Option(help="Instead of `sandbox.launcher`.")
    ] = None,
) -> None:
    """Build what `sandbox.image` names, if it is not there or not current: an image, or for
    bubblewrap an environment in LAP_HOME."""
    started = program(context)
    if launcher is not None:
        overrides = dict(started.overrides)
        overrides["sandbox", "launcher"] = ("--launcher", launcher.value)
        context.obj = started = replace(started, overrides=overrides)
    config = read_config(context)

    async def work() -> None:
        await anyio.to_thread.run_sync(make_private_folder, config.home)
        async with _launcher(started, config) as made, _progress(made):
            await made.build(force=force)

    run(work)
    put(config.sandbox.image)


@app.command("run")
def run_(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="FILE", help="`-` reads standard input.")],
    files: Annotated[
        list[Path] | None, typer.Option("--file", help="Put it into /mnt/data.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for images and the files that the code made.")
    ] = None,
    everything: Everything = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds.")] = 45.0,
    as_json: Json = False,
) -> None:
    """Run Python in a new sandbox.  Ends with 1 if the code did not end well."""
    config = read_config(context)
    try:
        code = standard_input() if source == "-" else Path(source).read_text(encoding="utf-8")
        for path in files or []:
            path.open("rb").close()
    except OSError as exc:
        fail(Invalid(system_words(exc)))
    except UnicodeError as exc:
        fail(Invalid(f"{source} is not UTF-8 text: {exc}."))

    async def work() -> Execution:
        if output is not None:
            await make_folder(output)
        async with _launcher(program(context), config) as launcher:
            async with _progress(launcher):
                sandbox = await launcher.open(launcher.limits)
            for path in files or []:
                await sandbox.put(path.name, _pieces(path))
            live = None if as_json else _live
            done = await sandbox.execute(code, timeout=timeout, on_output=live)
            if not as_json:
                _report(done)
            saved: list[str] = []
            if output is not None:
                names = [file.path for file in done.files]
                wanted = [name for name in names if is_welcome(name, everything=everything)]
                saved = await _save(sandbox, done, wanted, output, say if as_json else put)
            if as_json:
                put_json({**_as_json(done), "saved": saved})
            return done

    done = run(work)
    raise typer.Exit(OK if done.status == "ok" else FAILED)


def _live(stream: str, text: str) -> None:
    if stream == "stdout":
        put_text(text, end="")
    else:
        sys.stderr.write(text)
        sys.stderr.flush()


def _report(done: Execution) -> None:
    if done.value is not None:
        put_text(done.value)
    if done.error is not None:
        say(done.error.traceback or f"{done.error.name}: {done.error.value}")
    if done.notice:
        say(done.notice)


def _as_json(done: Execution) -> Mapping[str, Any]:
    return {
        "status": done.status,
        "stdout": done.stdout,
        "stderr": done.stderr,
        "value": done.value,
        "error": done.error,
        "outputs": [{"mime": item.mime, "size": len(item.data)} for item in done.outputs],
        "files": done.files,
        "notice": done.notice,
        "duration": done.duration,
    }


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        while piece := await file.read(PIECE):
            yield piece


async def _save(
    sandbox: Sandbox,
    done: Execution,
    wanted: Sequence[str],
    folder: Path,
    tell: Callable[[str], None],
) -> list[str]:
    """Write its images and the files that are wanted, and tell where; names come from the sandbox,
    so only their last part is used, and nothing is overwritten."""
    saved: list[str] = []

    async def save(name: str, fill: Callable[[Write], Awaitable[object]]) -> None:
        path = folder / name
        async with new_file(path) as write:
            if write is None:
                return
            await fill(write)
        saved.append(str(path))
        tell(str(path))

    for number, item in enumerate(done.outputs, 1):
        name = f"output-{number}.{_EXTENSIONS.get(item.mime, 'bin')}"
        await save(name, partial(_whole, item.data))
    for name in wanted:
        await save(Path(name).name, partial(sandbox.copy, name))
    return saved


async def _whole(data: bytes, write: Write) -> None:
    await write(data)


FileArgument = Annotated[Path, typer.Argument(metavar="FILE")]


@app.command("export-image")
def export_image(context: typer.Context, file: FileArgument) -> None:
    """Write the sandbox image to a new file, for a machine without a registry."""
    config = read_config(context)

    async def work() -> None:
        async with _launcher(program(context), config) as launcher:
            await launcher.export_image(file.absolute())

    run(work)
    put(str(file))


@app.command("import-image")
def import_image(context: typer.Context, file: FileArgument) -> None:
    """Take a sandbox image that `export-image` wrote on another machine."""
    config = read_config(context)

    async def work() -> str:
        async with _launcher(program(context), config) as launcher:
            return await launcher.import_image(file.absolute())

    put(run(work))
