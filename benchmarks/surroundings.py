"""What benchmarks run against: a home of their own, the example agent, servers and their clients.

Everything is started as a child of the benchmark and ended with the block that started it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp.types as t
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

ROOT = Path(__file__).resolve().parent.parent
LAP_MCP = Path(sys.executable).parent / "lap-mcp"
PYTHONPATH = os.pathsep.join(str(ROOT / part) for part in ("", "runtimes", "sandbox"))
PLUGGED = (sys.executable, "-m", "benchmarks.plugged_server")
BARE = (sys.executable, "-m", "benchmarks.bare_server")
END_SECONDS = 20.0

CONFIG = """
[runtimes.example]
kind = "a2a"
url = "{url}"

[agents.helper]
runtime = "example"
description = "Echoes."

[agents.fleeting]
runtime = "example"
description = "Echoes; ends with the call."
cancel_on_disconnect = true

[sandbox]
image = "{image}"

[limits]
running_turns = 64

[logs]
level = "warning"
"""


@dataclass(frozen=True)
class Place:
    """A home, a configuration, and the agent it names."""

    folder: Path
    config: Path
    agent: str
    """Address of the example agent."""
    image: str
    """The sandbox image by its id, so that nobody who builds another meanwhile changes what is
    measured."""
    peers: bool = True
    """Whether others are measured beside us, which installs them."""

    @property
    def environ(self) -> dict[str, str]:
        """Nothing of the person who runs this, but how to reach the engine."""
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "DOCKER_HOST")}
        home = {"HOME": str(self.folder), "LAP_HOME": str(self.folder / "lap")}
        return {**kept, **home, "PYTHONPATH": PYTHONPATH}


@contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A child with pipes, whose stdin is closed at the end; killed where that does not end it."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, **options
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextmanager
def place(folder: Path, image: str, *, peers: bool = True) -> Iterator[Place]:
    """A place with the example agent running."""
    agent = ("examples/a2a_agent.py", "--port", "0", "--with-stdin")
    with started([sys.executable, *agent]) as process:
        assert process.stdout is not None
        words = process.stdout.readline().decode().split()
        if len(words) != 2:
            raise RuntimeError("the example agent did not start; is the `bench` group installed?")
        config = folder / "lap.toml"
        config.write_text(CONFIG.format(url=words[1], image=image))
        config.chmod(0o600)
        yield Place(folder=folder, config=config, agent=words[1], image=image, peers=peers)


@asynccontextmanager
async def over_stdio(place: Place, *, mode: Any = "auto") -> AsyncIterator[Client]:
    """A client of the product with the benchmarks' tools."""
    params = StdioServerParameters(
        command=PLUGGED[0],
        args=[*PLUGGED[1:], str(place.config)],
        cwd=ROOT,
        env=place.environ,
    )
    async with Client(stdio_client(params), mode=mode, read_timeout_seconds=120) as client:
        yield client


@asynccontextmanager
async def over_http(place: Place) -> AsyncIterator[Client]:
    command = [*PLUGGED, str(place.config), "--http"]
    with started(command, env=place.environ) as process:
        assert process.stdout is not None
        served = json.loads(process.stdout.readline())
        headers = {"Authorization": f"Bearer {served['key']}"}
        async with httpx2.AsyncClient(headers=headers, timeout=120) as http:
            transport = streamable_http_client(served["url"], http_client=http)
            async with Client(transport) as client:
                yield client


def text(result: t.CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, t.TextContent))


async def call(client: Client, name: str, arguments: dict[str, Any]) -> str:
    """The text of a tool's answer.  Raises: RuntimeError where it is an error."""
    result = await client.call_tool(name, arguments)
    if result.is_error:
        raise RuntimeError(f"{name}: {text(result)}")
    return text(result)


async def counts(client: Client) -> dict[str, int]:
    found: dict[str, int] = json.loads(await call(client, "process_counts", {}))
    return found


async def until(condition: Callable[[], Awaitable[object]], within: float) -> None:
    """Ask again and again until it is so.  Raises: TimeoutError."""
    with anyio.fail_after(within):
        while not await condition():  # noqa: ASYNC110 - another process makes it true
            await anyio.sleep(0.05)
