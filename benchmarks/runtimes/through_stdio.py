"""The same agent as a tool of the product's MCP server on stdio:

    python -m benchmarks.runtimes.through_stdio CONFIG

CPU is that of the server process.
"""

from __future__ import annotations

import sys

import anyio
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from benchmarks.measure import cpu_seconds
from benchmarks.surroundings import PLUGGED, ROOT, call, counts
from lap_mcp.config import surroundings

from .direct import PROMPT
from .ours import SECONDS
from .worker import said, serve


async def main() -> None:
    params = StdioServerParameters(
        command=PLUGGED[0],
        args=[*PLUGGED[1:], sys.argv[1]],
        cwd=ROOT,
        env=dict(surroundings().environ),
    )
    async with Client(stdio_client(params), read_timeout_seconds=SECONDS) as client:
        pid = (await counts(client))["pid"]

        async def once() -> str:
            return said(await call(client, "it", {"prompt": PROMPT}), PROMPT)

        await serve(once, lambda: cpu_seconds(pid))


if __name__ == "__main__":
    anyio.run(main)
