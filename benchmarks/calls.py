"""What a call costs above the least it could cost: the code interpreter above a tool that does
nothing, an agent through us above the same agent called with the A2A SDK."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
from a2a.client import Client as A2AClient
from a2a.client import ClientConfig, create_client
from a2a.types import a2a_pb2 as wire
from mcp import Client

from .measure import Variant, interleaved
from .plain_client import PlainClient, plain_http, plain_stdio
from .report import Report, above, timed
from .surroundings import Place, call, counts, over_http, over_stdio

CODE = {"code": "1+1"}
PROMPT = "hello there"
READY = 900.0
"""Seconds for the sandbox image, which may have to be built first."""


async def interpreter(place: Place, n: int) -> list[Report]:
    reports = []
    for name, opened in (("stdio", over_stdio), ("HTTP", over_http)):
        async with opened(place) as client:
            pid = (await counts(client))["pid"]
            reports.append(await _interpreter(by_sdk(client), pid, name, n))
    for name, begun in (("stdio", plain_stdio), ("HTTP", plain_http)):
        with begun(place) as plain:
            how = f"{name}, plain client"
            reports.append(await _interpreter(plainly(plain), plain.pid, how, n))
    return reports


Call = Callable[[str, Mapping[str, Any]], Awaitable[str]]
"""A tool's name and arguments to the text of its answer."""


def by_sdk(client: Client) -> Call:
    return lambda tool, arguments: call(client, tool, dict(arguments))


def plainly(client: PlainClient) -> Call:
    async def called(tool: str, arguments: Mapping[str, Any]) -> str:
        return client.call(tool, arguments)

    return called


async def _interpreter(called: Call, pid: int, how: str, n: int) -> Report:
    """`how`: over which transport, and with which client where it is not the SDK's."""
    arguments = {**CODE, "sandbox": await a_sandbox(called)}
    variants = [
        Variant("code_interpreter 1+1", lambda: called("code_interpreter", arguments), pid),
        Variant("no-op tool", lambda: called("noop", arguments), pid),
    ]
    found = await interleaved(variants, n, block=20, warm_up=50)
    ours, noop = (found[variant.name] for variant in variants)
    return Report(
        "interpreter-" + "-".join(how.lower().replace(",", "").split()[:2]),
        f"(2) code_interpreter over {how}",
        [
            timed("code_interpreter 1+1", ours),
            timed("no-op tool, same server", noop),
            above(ours, noop, {"value": 1.0, "cpu": 0.5}),
        ],
        "CPU is that of our server process.",
    )


async def a_sandbox(called: Call) -> str:
    """The id of a sandbox that answers, waiting for the image where it is being built."""
    with anyio.fail_after(READY):
        while True:
            try:
                words = await called("code_interpreter", CODE)
            except RuntimeError as error:
                if "being prepared" not in str(error):
                    raise
                await anyio.sleep(1)
            else:
                return next(word for word in words.split() if word.startswith("sbx_"))


async def agent(place: Place, n: int) -> list[Report]:
    async with over_stdio(place) as client, direct(place.agent) as peer:
        pid = (await counts(client))["pid"]
        variants = [
            Variant("through us", lambda: call(client, "helper", {"prompt": PROMPT}), pid),
            Variant("direct", lambda: send(peer, PROMPT)),
        ]
        found = await interleaved(variants, n)
    ours, alone = found["through us"], found["direct"]
    return [
        Report(
            "agent",
            "(3) A2A agent call, streamed, a new session each",
            [
                timed("through LAP MCP, on stdio", ours),
                timed("a2a-sdk client, direct", alone),
                above(ours, alone, {"value": 5.0}),
            ],
            "Both against the same server; through us, everything is stored as well.",
        )
    ]


@asynccontextmanager
async def direct(url: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[A2AClient]:
    """The A2A SDK's own client, with one connection pool for all calls."""
    async with httpx.AsyncClient(timeout=60, trust_env=False, headers=headers) as http:
        yield await create_client(url, ClientConfig(httpx_client=http, streaming=True))


async def send(client: A2AClient, text: str) -> str:
    """One call to its end; the answer's text."""
    message = wire.Message(message_id=uuid.uuid4().hex, role=wire.Role.ROLE_USER)
    message.parts.append(wire.Part(text=text))
    answer: list[str] = []
    async for response in client.send_message(wire.SendMessageRequest(message=message)):
        answer += _texts(response)
    if not answer:
        raise RuntimeError("the agent gave no answer")
    return "".join(answer)


def _texts(response: Any) -> list[str]:
    if not response.HasField("artifact_update"):
        return []
    return [part.text for part in response.artifact_update.artifact.parts]
