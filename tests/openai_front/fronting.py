"""The face over a scripted model and scripted sandboxes, served for real on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
from lap_sandbox.base import Execution, ExecutionError, Output
from lap_sandbox.testing import Script, Scripted, ScriptedLauncher
from openai import AsyncOpenAI

from lap_mcp.config import ModelTable, OpenAITable
from lap_mcp.control.front import front_door
from lap_mcp.control.sandboxes import Sandboxes, SandboxLimits
from lap_mcp.control.services import Services
from lap_mcp.mcp_server.face import Face
from lap_mcp.mcp_server.options import FaceOptions
from lap_mcp.openai_front.front import OpenAIFront
from lap_mcp.openai_front.wire import new_id
from lap_mcp.scrub import Scrubber
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import open_database
from lap_mcp.web import HttpFace, HttpOptions, build_app, keys, listen, serve
from tests.canary import canary
from tests.mcp.scripted import World
from tests.mcp.serving import ALICE_KEY, BOB_KEY, KEYS
from tests.openai_front.model import Model, playing

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 64
UPSTREAM_KEY = canary("upstream-model")
TOOL = {"type": "code_interpreter", "container": {"type": "auto"}}


def language(code: str) -> Scripted:
    """A tiny one, a line each: `say X`, `value X`, `err X`, `raise X`, `plot`, `write NAME TEXT`,
    `forever`, `die`; anything else does nothing."""
    stdout, stderr, value, error, outputs, writes = "", "", None, None, [], {}
    for line in code.splitlines():
        verb, _, rest = line.partition(" ")
        match verb:
            case "say":
                stdout += f"{rest}\n"
            case "err":
                stderr += f"{rest}\n"
            case "value":
                value = rest
            case "plot":
                outputs.append(Output(mime="image/png", data=PNG))
            case "write":
                name, _, text = rest.partition(" ")
                writes[name] = text.encode()
            case "raise":
                trace = f"Traceback (most recent call last):\nValueError: {rest}"
                error = ExecutionError(name="ValueError", value=rest, traceback=trace)
            case "forever":
                return Scripted(live=[("stdout", "started\n")], endless=True)
            case "die":
                return Scripted(dies=True)
    execution = Execution(
        id="",
        status="error" if error else "ok",
        stdout=stdout,
        stderr=stderr,
        value=value,
        error=error,
        outputs=outputs,
    )
    live = [("stdout", stdout)] if stdout else []
    return Scripted(execution=execution, live=live, writes=writes)  # type: ignore[arg-type]


@dataclass
class Fronted:
    """A served face, and everything around it."""

    url: str
    model: Model
    launcher: ScriptedLauncher
    http: HttpFace
    world: World
    services: Services
    stack: AsyncExitStack

    def client(self, key: str = ALICE_KEY, **options: Any) -> AsyncOpenAI:
        """The official client; closed with the face."""
        values: dict[str, Any] = {"max_retries": 0, "timeout": 30, **options}
        client = AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, **values)
        self.stack.push_async_callback(client.close)
        return client

    def raw(self, key: str = ALICE_KEY) -> httpx2.AsyncClient:
        headers = {"Authorization": f"Bearer {key}"}
        client = httpx2.AsyncClient(base_url=f"{self.url}/v1", headers=headers, timeout=30)
        self.stack.push_async_callback(client.aclose)
        return client


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        import time

        return time.time() + self.offset


@asynccontextmanager
async def fronted(
    model: Model,
    folder: Path,
    *,
    api: str = "responses",
    script: Script = language,
    settings: Mapping[str, Any] | None = None,
    table: Mapping[str, Any] | None = None,
    tables: Callable[[str], Mapping[str, Mapping[str, Any]]] | None = None,
    clock: Any = None,
    launcher: Any = None,
    store: Path | str | None = None,
) -> AsyncIterator[Fronted]:
    """`table`: more keys of the model's table; `tables`: from the model's address to all tables;
    `store`: another database than a new file."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(playing(model))
        database = await open_database(store or folder / "lap.db")
        stack.push_async_callback(database.aclose)
        launcher = launcher or ScriptedLauncher(script)
        kept = BlobStore(folder / "blobs" / "sandboxes")
        sandboxes = Sandboxes(launcher, database, kept, SandboxLimits(), clock)
        await stack.enter_async_context(sandboxes.running(_no_files))
        world = World()
        await stack.enter_async_context(world.running())
        blobs = BlobStore(folder / "blobs")
        door = front_door(
            database, blobs, sandboxes, new_id, 1024 * 1024, scrub=_scrubbed, clock=clock
        )
        services = await world.services()
        services = Services(
            sessions=services.sessions,
            registry=services.registry,
            sandboxes=sandboxes,
            changes=services.changes,
            status=services.status,
            front=door,
        )

        async def get() -> Services:
            return services

        usual = {"gpt-test": {"base_url": model.url, "api": api, **(table or {})}}
        wanted = usual if tables is None else tables(model.url)
        context = {"resolve_secret": lambda _: _secret()}
        models = {
            name: ModelTable.model_validate({"api_key": "env:X", **values}, context=context)
            for name, values in wanted.items()
        }
        front = OpenAIFront(get, models, OpenAITable(**(settings or {})))
        face = Face(get, FaceOptions(transport="http"))
        options = HttpOptions(authenticate=keys(KEYS))
        http = build_app(face, options, front.routes, running=front.running)
        socket = listen("127.0.0.1", 0)
        stack.callback(socket.close)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        tasks.start_soon(serve, http, [socket])
        url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        async with AsyncExitStack() as clients:
            yield Fronted(url, model, launcher, http, world, services, clients)


def _secret() -> Any:
    from pydantic import SecretStr

    return SecretStr(UPSTREAM_KEY)


def _scrubbed(value: Any) -> Any:
    scrubber = Scrubber()
    scrubber.add(UPSTREAM_KEY)
    return scrubber.data(value)


async def _no_files(principal: Any, given: Any) -> Any:
    raise AssertionError("no file is given this way")


__all__ = ["ALICE_KEY", "BOB_KEY", "PNG", "TOOL", "UPSTREAM_KEY", "Clock", "Fronted", "fronted"]
