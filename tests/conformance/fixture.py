"""Our face over HTTP with the suite's tools, prompts and resources plugged into its seams:
`python -m tests.conformance.fixture`.  The first line on stdout is its address.

The suite sends no key, so `WithKey` adds one to each request on its way in; the Host and origin
checks, which the suite does test, are the product's own.
"""

from __future__ import annotations

import secrets

import anyio
import mcp.types as t
from starlette.types import ASGIApp, Receive, Scope, Send

from lap_mcp.mcp_server import sdk
from lap_mcp.mcp_server.face import Face
from lap_mcp.mcp_server.options import FaceOptions
from lap_mcp.model import Principal
from lap_mcp.web import HttpOptions, build_app, keys, listen, serve
from tests.conformance.browsing import ConformancePrompts, ConformanceResources
from tests.conformance.tools import ConformanceTools
from tests.mcp.scripted import World


class WithKey:
    """ASGI: the same request with the key of the test's principal."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._header = (b"authorization", f"Bearer {key}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"], self._header]}
        await self._app(scope, receive, send)


def _logging_level(server: sdk.LapServer) -> None:
    """Our server sends no logs over MCP; the suite's tool does, so it needs the handler."""

    async def set_level(ctx: sdk.Ctx, params: t.SetLevelRequestParams) -> t.EmptyResult:
        return t.EmptyResult()

    server.add_request_handler("logging/setLevel", t.SetLevelRequestParams, set_level)


async def main() -> None:
    world = World()
    world.registry.found.clear()
    face = Face(
        world.services,
        FaceOptions(transport="http", toolsets=("code", "sessions"), version="0"),
        toolsets=[ConformanceTools(world.changes)],
        resources=[ConformanceResources()],
        prompts=[ConformancePrompts()],
        extend=_logging_level,
    )
    key = secrets.token_urlsafe(24)
    socket = listen("127.0.0.1", 0)
    port = socket.getsockname()[1]
    origins = (f"http://127.0.0.1:{port}", f"http://localhost:{port}")
    http = build_app(
        face,
        HttpOptions(
            authenticate=keys({key: Principal(id="key:suite", kind="key")}),
            allowed_origins=origins,
            retry_ms=100,
        ),
    )
    async with world.running():
        print(f"http://127.0.0.1:{port}/mcp", flush=True)
        await serve(http, [socket], app=WithKey(http.app, key))


if __name__ == "__main__":
    anyio.run(main)
