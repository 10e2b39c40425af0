"""Our face over scripted services, served for real: a stdio process, or HTTP on loopback."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx2
import mcp.types as t
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from lap_mcp.mcp_server.face import Face
from lap_mcp.mcp_server.options import FaceOptions
from lap_mcp.model import Principal
from lap_mcp.web import HttpFace, HttpOptions, build_app, keys, listen, serve
from tests.canary import canary
from tests.mcp.scripted import World

ROOT = Path(__file__).resolve().parent.parent.parent
PATH = os.pathsep.join(str(ROOT / part) for part in ("", "runtimes", "sandbox"))
Mode = Literal["auto", "legacy"]
MODES: tuple[Mode, ...] = ("auto", "legacy")

ALICE = Principal(id="key:alice", kind="key")
BOB = Principal(id="key:bob", kind="key")
ALICE_KEY, BOB_KEY = canary("alice"), canary("bob")
KEYS = {ALICE_KEY: ALICE, BOB_KEY: BOB}


def stdio_server(*arguments: str, module: str = "tests.mcp.server") -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", module, *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": PATH, "PATH": os.environ.get("PATH", "")},
    )


@dataclass
class Served:
    """An HTTP face that answers, and the world behind it."""

    world: World
    face: Face
    http: HttpFace
    url: str

    def client(self, mode: Mode = "auto", key: str = ALICE_KEY, **options: Any) -> Any:
        """A client as a context manager, in the modern era or (`legacy`) the handshake's."""
        return _http_client(self.url, mode, key, options)


@asynccontextmanager
async def _http_client(
    url: str, mode: Mode, key: str, options: dict[str, Any]
) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode, **options) as client:
            yield client


@asynccontextmanager
async def served(world: World | None = None, **options: Any) -> AsyncIterator[Served]:
    """Serve on a loopback port until the block is left; then it must have ended in order."""
    world = world or World()
    values: dict[str, Any] = {"transport": "http", "grace": 0.2, "heartbeat": 0.3, **options}
    face = Face(world.services, FaceOptions(**values))
    http = build_app(face, HttpOptions(authenticate=keys(KEYS)))
    socket = listen("127.0.0.1", 0)
    port = socket.getsockname()[1]
    async with world.running(), anyio.create_task_group() as group:
        group.start_soon(serve, http, [socket])
        yield Served(world, face, http, f"http://127.0.0.1:{port}/mcp")
        group.cancel_scope.cancel()


def text(result: t.CallToolResult) -> str:
    """The text of a result."""
    return "\n".join(block.text for block in result.content if isinstance(block, t.TextContent))


def last_line(result: t.CallToolResult) -> str:
    return text(result).splitlines()[-1]


def session_of(result: t.CallToolResult) -> str:
    """The session id in the last line."""
    return next(word for word in last_line(result).split() if word.startswith("ses_"))


async def until(condition: Any, within: float = 10) -> None:
    """Poll until `condition()` is true."""
    with anyio.fail_after(within):
        while not condition():  # noqa: ASYNC110 - anything may make it true
            await anyio.sleep(0.01)
