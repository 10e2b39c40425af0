"""All commands, put together.  Imported only when a command was given."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from lap_mcp.app import VERSION, Program
from lap_mcp.config import surroundings

from . import agents, doctor, init, install, keys, questions, sandbox, serve, sessions, shelf
from .console import EXIT_CODES, TOLD, open_streams, told
from .options import StdioOptions, take

app = typer.Typer(
    name="lap-mcp",
    help="One MCP server for every remote agent you have, and a Python sandbox that you control. "
    "Without a command: the MCP server on stdio.",
    epilog=EXIT_CODES,
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("init")(init.init)
app.command("doctor")(doctor.doctor)
app.command("install")(install.install)
app.command("uninstall")(install.uninstall)
app.add_typer(agents.app, name="agents")
app.add_typer(sessions.app, name="sessions")
app.add_typer(questions.app, name="questions")
shelf.add_to(sandbox.app)
app.add_typer(sandbox.app, name="sandbox")
app.add_typer(keys.app, name="keys")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        str | None, typer.Option(help="Configuration file.", metavar="FILE", show_default=False)
    ] = None,
    toolsets: Annotated[
        str | None,
        typer.Option(help="Toolsets to show: agents,code,sessions.", show_default=False),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Show only tools that change nothing.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    given = StdioOptions(config=config)
    if toolsets is not None:
        take(given, "--toolsets", toolsets)
    if read_only:
        given.overrides[("mcp", "read_only")] = ("--read-only", True)
    context.obj = Program(here=surroundings(), option=given.config, overrides=given.overrides)


def run(arguments: Sequence[str]) -> None:
    """Boundary: what has words is told in them, wherever in a command it was raised."""
    open_streams()
    try:
        app(args=list(arguments), prog_name="lap-mcp")
    except TOLD as error:
        sys.exit(told(error))
