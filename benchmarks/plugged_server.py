"""The product's server, put together as the product does it, with one more toolset: a tool that
does nothing, and one that counts what the process holds.

    python -m benchmarks.plugged_server CONFIG          MCP on stdin and stdout
    python -m benchmarks.plugged_server CONFIG --http   the first line on stdout: address and key
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import mcp.types as t

from lap_mcp.app import Program, open_services
from lap_mcp.config import surroundings
from lap_mcp.control.services import Services
from lap_mcp.hosting import ServiceOwner, face_options, owned
from lap_mcp.mcp_server.face import Face
from lap_mcp.mcp_server.results import text_result
from lap_mcp.mcp_server.stdio import Wire, claimed, run_stdio
from lap_mcp.mcp_server.toolset import Call, Caller, ToolResult, Toolset, tool
from lap_mcp.model import LOCAL
from lap_mcp.web import HttpOptions, build_app, keys, listen, serve

NOOP = tool("noop", "Does nothing.", {"code": {"type": "string"}, "sandbox": {"type": "string"}})
COUNTS = tool("process_counts", "What this process holds now.", {})


class BenchTools(Toolset):
    name = "bench"

    async def tools(
        self, caller: Caller, services: Callable[[], Awaitable[Services]]
    ) -> Sequence[t.Tool]:
        return [NOOP, COUNTS]

    async def call(self, call: Call, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        if name == NOOP.name:
            return text_result("ok")
        return text_result(json.dumps(await counts(await call.services())))


def descriptors() -> int:
    """Open ones, without the one that lists them."""
    return len(list(Path("/proc/self/fd").iterdir())) - 1


async def counts(services: Services) -> dict[str, int]:
    """Everything that a call which is over must not leave behind."""
    running = await services.sessions.list(LOCAL, status="running", limit=500)
    return {
        "pid": os.getpid(),
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "descriptors": descriptors(),
        "running": len(running),
    }


async def main(program: Program, wire: Wire | None) -> None:
    config = program.read()
    program.set_up_logs(config)

    def opened() -> Any:
        return open_services(program, config, lenient=True, server=True)

    async with owned(opened) as owner:
        face = Face(
            owner.services,
            face_options(config, program, http=wire is None),
            toolsets=[BenchTools()],
        )
        if wire is not None:
            await run_stdio(face, wire)
        else:
            await over_http(face, owner)


async def over_http(face: Face, owner: ServiceOwner) -> None:
    """Until stdin ends."""
    await owner.services()
    key = secrets.token_urlsafe(24)
    http = build_app(face, HttpOptions(authenticate=keys({key: LOCAL})))
    socket = listen("127.0.0.1", 0)
    print(json.dumps({"url": f"http://127.0.0.1:{socket.getsockname()[1]}/mcp", "key": key}))
    sys.stdout.flush()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, http, [socket])
        await anyio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        tasks.cancel_scope.cancel()


def run() -> None:
    program = Program(here=surroundings(), option=sys.argv[1])
    if "--http" in sys.argv:
        anyio.run(main, program, None)
        return
    with claimed() as wire:
        anyio.run(main, program, wire)


if __name__ == "__main__":
    run()
