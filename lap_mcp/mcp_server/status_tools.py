"""`lap_status`: what works, what does not, and what to do about it.  Always a tool."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import mcp.types as t

from lap_mcp.control.services import Services
from lap_mcp.errors import LapError

from .options import TEXT_LIMIT
from .results import both
from .text import clean, shorten
from .toolset import READ_ONLY, Call, Caller, ToolResult, Toolset, tool

DEFINITION: Final = tool(
    "lap_status",
    "Show what this server can do now: runtimes, agents, sandbox, and problems with remedies. "
    "Use it when an agent is missing or a call says that something is unavailable.",
    {},
    annotations=READ_ONLY,
)


class StatusTools(Toolset):
    name = "status"

    async def tools(
        self, caller: Caller, services: Callable[[], Awaitable[Services]]
    ) -> Sequence[t.Tool]:
        return [DEFINITION]

    async def call(self, call: Call, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        try:
            services = await call.services()
        except LapError as error:
            return both(status_text(closed_status(error)), closed_status(error))
        status = dict(services.status())
        return both(status_text(status), status)


def closed_status(error: LapError) -> dict[str, Any]:
    """The status of a server whose services could not be opened."""
    problem = {"where": "server", "message": error.message, "remedy": error.remedy}
    return {"problems": [problem]}


def status_text(status: Mapping[str, Any]) -> str:
    """Problems first, then everything else as indented JSON, in the limit of text."""
    lines = []
    for problem in status.get("problems", ()):
        lines.append(f"- {problem['where']}: {problem['message']} {problem.get('remedy', '')}")
    head = "Problems:\n" + "\n".join(lines) if lines else "No problems."
    rest = {key: value for key, value in status.items() if key != "problems"}
    body = json.dumps(rest, ensure_ascii=False, indent=1, default=str)
    return shorten(clean(f"{head}\n\n{body}"), TEXT_LIMIT - 100)[0]
