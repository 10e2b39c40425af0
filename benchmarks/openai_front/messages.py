"""`/v1/messages`: requests that are only passed on, and a round of code, beside the model's server
itself."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

from benchmarks.measure import Variant, interleaved
from benchmarks.report import Measure, Report, Row, timed
from benchmarks.sandbox import ours as sandboxes
from benchmarks.surroundings import Place

from . import serving
from .passing import ADDED_MS as PASSING_MS
from .rounds import ADDED_MS as CODE_MS
from .rounds import CODE, NOTE
from .wire_client import Wire

PATH: Final = "/v1/messages"
PLAIN: Final[dict[str, Any]] = {
    "model": "claude",
    "max_tokens": 1024,
    "messages": [{"role": "user", "content": "hello"}],
}
STREAMED: Final = {**PLAIN, "stream": True}
TOOL: Final = {"type": "code_execution_20250522", "name": "code_execution"}


async def passing(place: Place, n: int) -> list[Report]:
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(serving.model(place))
        server = await stack.enter_async_context(serving.ours(place, model.url, "messages"))
        direct = await stack.enter_async_context(model.wire())
        through = await stack.enter_async_context(server.wire())
        rows: list[Row] = []
        for what, body in (("", PLAIN), (", streamed", STREAMED)):
            variants = [
                Variant(f"direct{what}", partial(direct.post, PATH, body), model.pid),
                Variant(f"lap-mcp{what}", partial(through.post, PATH, body), server.pid),
            ]
            alone, mine = (await interleaved(variants, n)).values()
            rows += [timed(v.name, s) for v, s in zip(variants, (alone, mine), strict=True)]
            added = (mine.p50() - alone.p50()) * 1e3
            bars: Mapping[Measure, float] | None = None if what else {"value": PASSING_MS}
            rows.append(Row(f"added by lap-mcp{what}", n, added, bars=bars))
    return [Report("anthropic-front-passing", "Anthropic face: a request passed on", rows)]


async def code(place: Place, n: int) -> list[Report]:
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(serving.model(place))
        server = await stack.enter_async_context(
            serving.ours(place, model.url, "message-rounds", warm=1)
        )
        sandbox = await stack.enter_async_context(sandboxes.sandbox(place))
        direct = await stack.enter_async_context(model.wire())
        through = await stack.enter_async_context(server.wire())
        body = await _warm(through)

        async def twice() -> None:
            await direct.post(PATH, PLAIN)
            await direct.post(PATH, PLAIN)

        variants = [
            Variant("the model, directly, twice", twice),
            Variant("the code by itself", lambda: sandbox.execute(CODE, timeout=10), os.getpid()),
            Variant("lap-mcp", lambda: through.post(PATH, body), server.pid),
        ]
        found = await interleaved(variants, n)
        rows = [timed(name, samples) for name, samples in found.items()]
        calls, alone, mine = found.values()
        added = (mine.p50() - calls.p50() - alone.p50()) * 1e3
        rows.append(Row("added by lap-mcp beyond the code", n, added, bars={"value": CODE_MS}))
    return [Report("anthropic-front-code", "Anthropic face: a round of code", rows, NOTE)]


async def _warm(wire: Wire) -> dict[str, Any]:
    """Open a container; a request that uses it again.  Raises: RuntimeError."""
    first = json.loads((await wire.post(PATH, {**PLAIN, "tools": [TOOL]})).body)
    outcomes = [each["content"] for each in first["content"] if each["type"].endswith("_result")]
    if not outcomes or outcomes[0].get("return_code") != 0:
        raise RuntimeError(f"no code runs here: {first['content']}")
    return {**PLAIN, "tools": [TOOL], "container": first["container"]["id"]}
