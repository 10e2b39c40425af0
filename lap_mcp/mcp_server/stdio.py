"""The MCP face on stdin and stdout of this process, for one client."""

from __future__ import annotations

from mcp.server.stdio import stdio_server

from .face import Face


async def run_stdio(face: Face) -> None:
    """Serve until stdin ends.  Meanwhile file descriptor 1 is stderr: what a library prints does
    not get into the protocol."""
    async with face.running(), stdio_server() as (read, write):
        await face.server.run(read, write, face.server.create_initialization_options())
