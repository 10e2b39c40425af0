"""Both front doors over a scripted upstream and scripted sandboxes, served for real on loopback."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
from anthropic import AsyncAnthropic
from lap_sandbox.base import Execution
from lap_sandbox.testing import Script, Scripted, ScriptedLauncher
from openai import AsyncOpenAI
from pydantic import SecretStr

from lap_mcp.anthropic_front.front import AnthropicFront
from lap_mcp.config import AnthropicTable, ModelTable, OpenAITable
from lap_mcp.control.front import front_door
from lap_mcp.control.sandboxes import Sandboxes
from lap_mcp.control.services import Services
from lap_mcp.front_parts.wire import new_id
from lap_mcp.mcp_server.face import Face
from lap_mcp.mcp_server.options import FaceOptions
from lap_mcp.openai_front.front import OpenAIFront
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import open_database
from lap_mcp.web import HttpOptions, build_app, keys, listen, serve
from tests.anthropic_front.upstream import Upstream, playing
from tests.mcp.scripted import World
from tests.mcp.serving import ALICE_KEY, BOB_KEY, KEYS
from tests.openai_front.fronting import UPSTREAM_KEY, language

PYTHON = {"type": "code_execution_20250522", "name": "code_execution"}
SHELL = {"type": "code_execution_20250825", "name": "code_execution"}
ALL = {"type": "code_execution_20260120", "name": "code_execution"}


def script(code: str) -> Scripted:
    """`language`, and canned outcomes of the programs for bash (`hi`, 3) and the editor."""
    if "/bin/bash" in code:
        return Scripted(execution=Execution(id="", status="ok", stdout="hi\n", value="3"))
    if "view_range" in code:
        made = json.dumps({"is_file_update": False})
        return Scripted(execution=Execution(id="", status="ok", stdout=made))
    return language(code)


@dataclass
class Served:
    url: str
    upstream: Upstream
    launcher: ScriptedLauncher
    stack: AsyncExitStack

    def client(self, key: str = ALICE_KEY, **options: Any) -> AsyncAnthropic:
        """The official client; closed with the face."""
        values: dict[str, Any] = {"max_retries": 0, "timeout": 30, **options}
        client = AsyncAnthropic(base_url=self.url, api_key=key, **values)
        self.stack.push_async_callback(client.close)
        return client

    def openai(self) -> AsyncOpenAI:
        client = AsyncOpenAI(base_url=f"{self.url}/v1", api_key=ALICE_KEY, max_retries=0)
        self.stack.push_async_callback(client.close)
        return client

    def raw(self, **headers: str) -> httpx2.AsyncClient:
        client = httpx2.AsyncClient(base_url=f"{self.url}/v1", headers=headers, timeout=30)
        self.stack.push_async_callback(client.aclose)
        return client


@asynccontextmanager
async def serving(
    upstream: Upstream,
    folder: Path,
    *,
    run: Script = script,
    settings: Mapping[str, Any] | None = None,
) -> AsyncIterator[Served]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(playing(upstream))
        database = await open_database(folder / "lap.db")
        stack.push_async_callback(database.aclose)
        launcher, blobs = ScriptedLauncher(run), BlobStore(folder / "blobs")
        sandboxes = Sandboxes(launcher, database, blobs)
        await stack.enter_async_context(sandboxes.running(_no_files))
        world = World()
        await stack.enter_async_context(world.running())
        scripted = await world.services()
        services = Services(
            sessions=scripted.sessions,
            registry=scripted.registry,
            sandboxes=sandboxes,
            changes=scripted.changes,
            status=scripted.status,
            front=front_door(
                database, blobs, sandboxes, new_id, 1024 * 1024, scrub=lambda value: value
            ),
        )

        async def get() -> Services:
            return services

        context = {"resolve_secret": lambda _: SecretStr(UPSTREAM_KEY)}
        table = {"base_url": upstream.url, "api": "anthropic", "api_key": "env:X"}
        models = {"claude-test": ModelTable.model_validate(table, context=context)}
        ours = AnthropicFront(get, models, AnthropicTable(**(settings or {})))
        theirs = OpenAIFront(get, {}, OpenAITable())

        @asynccontextmanager
        async def running() -> AsyncIterator[None]:
            async with ours.running(), theirs.running():
                yield

        face = Face(get, FaceOptions(transport="http"))
        options = HttpOptions(authenticate=keys(KEYS))
        http = build_app(face, options, [*ours.routes, *theirs.routes], running=running)
        socket = listen("127.0.0.1", 0)
        stack.callback(socket.close)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        tasks.start_soon(serve, http, [socket])
        url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        async with AsyncExitStack() as clients:
            yield Served(url, upstream, launcher, clients)


async def _no_files(principal: Any, given: Any) -> Any:
    raise AssertionError("no file is given this way")


__all__ = ["ALICE_KEY", "ALL", "BOB_KEY", "PYTHON", "SHELL", "UPSTREAM_KEY", "Served", "serving"]
