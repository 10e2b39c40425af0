"""The executable `lap-mcp`.  Without a command it is the MCP server on stdio, which harnesses
start and wait for: that path imports nothing of the command line's libraries.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lap_mcp.commands.options import StdioOptions

STDIO_HELP = """\
LAP MCP is an MCP server: it offers your registered agents, and Python in a sandbox, to a client
such as Claude Code, Cursor, Codex, VS Code or OpenCode, which starts it and talks to it over
stdin and stdout.  This is a terminal, so there is no client here.

  lap-mcp install claude-code    add it to a client (also cursor, codex, vscode, opencode)
  lap-mcp init                   write a configuration file to fill in
  lap-mcp doctor                 see what works and what is missing
  lap-mcp serve                  serve over HTTP instead
  lap-mcp --help                 all commands
"""


def main() -> None:
    try:
        run(sys.argv[1:])
    except KeyboardInterrupt:  # also while libraries are imported, which takes a while
        sys.exit(130)


def run(arguments: list[str]) -> None:
    from lap_mcp.commands.options import stdio_options

    options = stdio_options(arguments)
    if options is None:
        from lap_mcp.commands.main import run as run_command

        run_command(arguments)
    elif sys.stdin is None or sys.stdout is None:
        sys.exit("lap-mcp: stdin or stdout is closed, and a client talks to the server over both.")
    elif sys.stdin.isatty():
        sys.stdout.write(STDIO_HELP)
    else:
        serve(options)


def serve(options: StdioOptions) -> None:
    """Serve on stdio until stdin ends or a signal comes."""
    import anyio

    from lap_mcp.app import Program
    from lap_mcp.config import surroundings
    from lap_mcp.hosting import serve_stdio
    from lap_mcp.mcp_server.stdio import claimed

    with claimed() as wire:
        program = Program(here=surroundings(), option=options.config, overrides=options.overrides)
        config = program.read()
        program.set_up_logs(config)
        received = anyio.run(serve_stdio, program, config, wire)
    if received:
        sys.exit(128 + received)
