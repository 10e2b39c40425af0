"""The peer: the SDK's own low-level server with one tool that does nothing, over stdio."""

from __future__ import annotations

from typing import Any

import anyio
import mcp.types as t
from mcp.server import Server
from mcp.server.stdio import stdio_server

NOOP = t.Tool(name="noop", description="Does nothing.", input_schema={"type": "object"})


async def list_tools(ctx: Any, params: t.PaginatedRequestParams | None) -> t.ListToolsResult:
    return t.ListToolsResult(tools=[NOOP])


async def call_tool(ctx: Any, params: t.CallToolRequestParams) -> t.CallToolResult:
    return t.CallToolResult(content=[t.TextContent(text="ok")])


async def main() -> None:
    server = Server("bare", version="0", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    anyio.run(main)
