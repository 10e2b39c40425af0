"""A small MCP server over scripted services, as a process: `python -m tests.mcp.server`."""

from __future__ import annotations

import sys

import anyio

from lap_mcp.mcp_server.face import Face
from lap_mcp.mcp_server.options import FaceOptions
from lap_mcp.mcp_server.stdio import Wire, claimed, run_stdio
from tests.mcp.scripted import World


async def main(grace: float, wire: Wire) -> None:
    world = World()
    async with world.running():
        face = Face(world.services, FaceOptions(grace=grace, heartbeat=0.5))
        print("a library prints this to stdout")
        await run_stdio(face, wire)


if __name__ == "__main__":
    with claimed() as taken:
        print("this too, before anything runs")
        anyio.run(main, float(sys.argv[1]) if len(sys.argv) > 1 else 0.3, taken)
