"""A round of code: the model asks for it, it runs, the model answers."""

from __future__ import annotations

import json
import os
from contextlib import AsyncExitStack
from typing import Any, Final

from benchmarks.measure import Samples, Variant, interleaved
from benchmarks.report import Report, Row, timed
from benchmarks.sandbox import ours as sandboxes
from benchmarks.surroundings import Place

from . import serving
from .passing import PLAIN
from .wire_client import Wire

ADDED_MS: Final = 4.0
TOOL: Final = {"type": "code_interpreter", "container": {"type": "auto"}}
CODE: Final = "x = 1"
"""What the model's server writes."""
NOTE: Final = (
    "Beyond the code: without two direct calls of the model and without the same code in a sandbox "
    "of the same image, driven without a server."
)


async def code(place: Place, n: int) -> list[Report]:
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(serving.model(place))
        server = await stack.enter_async_context(serving.ours(place, model.url, "rounds", warm=1))
        sandbox = await stack.enter_async_context(sandboxes.sandbox(place))
        direct = await stack.enter_async_context(model.wire())
        through = await stack.enter_async_context(server.wire())
        body = await _warm(through)

        async def twice() -> None:
            await direct.post("/v1/responses", PLAIN)
            await direct.post("/v1/responses", PLAIN)

        variants = [
            Variant("the model, directly, twice", twice),
            Variant("the code by itself", lambda: sandbox.execute(CODE, timeout=10), os.getpid()),
            Variant("lap-mcp", lambda: through.post("/v1/responses", body), server.pid),
        ]
        found = await interleaved(variants, n)
        rows = [timed(name, samples) for name, samples in found.items()]
        calls, alone, mine = found.values()
        added = (mine.p50() - calls.p50() - alone.p50()) * 1e3
        rows.append(Row("added by lap-mcp beyond the code", n, added, bars={"value": ADDED_MS}))
        note = NOTE
        if place.peers:
            rows += await _theirs(place, model.url, n, calls)
            note += " LiteLLM: its SDK in one process, no hop, a sandbox that answers at once."
    return [Report("openai-front-code", "OpenAI face: a round of code", rows, note)]


async def _warm(wire: Wire) -> dict[str, Any]:
    """Open a container; a request that uses it again.  Raises: RuntimeError."""
    first = await wire.post("/v1/responses", {**PLAIN, "tools": [TOOL]})
    call = json.loads(first.body)["output"][0]
    if call["status"] != "completed":
        raise RuntimeError(f"no code runs here: {call}")
    tool = {"type": "code_interpreter", "container": call["container_id"]}
    return {**PLAIN, "tools": [tool], "store": False}


async def _theirs(place: Place, url: str, n: int, calls: Samples) -> list[Row]:
    async with serving.interception(place) as peer:
        order: dict[str, Any] = {"url": url, "sandbox": "free", "body": {**PLAIN, "tools": [TOOL]}}
        await peer.ask(**order, times=20)
        found = Samples((await peer.ask(**order, times=n))["all_seconds"])
    added = (found.p50() - calls.p50()) * 1e3
    return [timed("LiteLLM", found), Row("added by LiteLLM, which runs nothing", n, added)]
