"""The contract's cases of the `mcp` kind: a real server in both eras, over HTTP and stdio."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.canary import canary
from tests.runtimes import mcp_server
from tests.runtimes.bench import Case
from tests.runtimes.programs import ProgramCase


def _server(**options: Any) -> Callable[[str], tuple[Any, Any, Callable[[], int]]]:
    def make(url: str) -> tuple[Any, Any, Callable[[], int]]:
        ended: list[None] = []
        server = mcp_server.WordsServer(lambda: ended.append(None), **options)
        return mcp_server.application(server, canary("mcp")), server, lambda: len(ended)

    return make


MCP = {
    "kind": "mcp",
    "ask": "ask which color?",
    "ask_kind": "input",
    "file": "file a.txt body of it",
}
TOOL = {"tool": "agent"}

CASES: list[Case] = [
    Case(id="mcp-http", app=_server(), path="/mcp", settings=TOOL, **MCP),  # type: ignore[arg-type]
    Case(
        id="mcp-http-handshake",
        app=_server(),
        path="/mcp",
        settings={**TOOL, "protocol": "handshake"},
        **MCP,  # type: ignore[arg-type]
    ),
    Case(
        id="mcp-http-tasks",
        app=_server(tasks=True),
        path="/mcp",
        settings={**TOOL, "tasks": True},
        one_connection=False,
        **MCP,  # type: ignore[arg-type]
    ),
    ProgramCase(
        id="mcp-stdio",
        script=Path(mcp_server.__file__),
        settings=TOOL,
        **MCP,  # type: ignore[arg-type]
    ),
    ProgramCase(
        id="mcp-stdio-handshake",
        script=Path(mcp_server.__file__),
        settings={**TOOL, "protocol": "handshake"},
        at_once=3,
        **MCP,  # type: ignore[arg-type]
    ),
]
