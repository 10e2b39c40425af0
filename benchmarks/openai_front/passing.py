"""Requests that are only passed on: what a hop through us adds, and one through LiteLLM."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import anyio

from benchmarks.measure import Samples, cpu_seconds, memory
from benchmarks.report import Measure, Report, Row, timed
from benchmarks.surroundings import Place

from . import serving
from .wire_client import Timed, Wire

PLAIN: Final = {"model": "m", "input": "hello"}
STREAMED: Final = {**PLAIN, "stream": True}
ADDED_MS: Final = 1.5
SHARE: Final = 0.1
"""We add at most that of what LiteLLM adds."""
RSS_MIB: Final = 120
CLIENTS: Final = 64
BLOCK: Final = 25

CLAIMED: Final = (
    "Claimed by others, on machines of theirs, not measured here: agentgateway (Rust) 0.83 ms p50 "
    "at 36,933 requests a second, where it says LiteLLM took 12.3 ms at 3,198; Bifrost (Go) 0.011 "
    "ms added at 5,000 requests a second."
)

Servers = Mapping[str, serving.Served]
"""By name: `direct` first, then `lap-mcp`, then `LiteLLM`."""


async def passing(place: Place, n: int) -> list[Report]:
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(serving.model(place))
        servers = {
            "direct": model,
            "lap-mcp": await stack.enter_async_context(serving.ours(place, model.url, "passing")),
        }
        if place.peers:
            servers["LiteLLM"] = await stack.enter_async_context(serving.proxy(place, model.url))
        wires = {
            name: await stack.enter_async_context(each.wire()) for name, each in servers.items()
        }
        plain = await _by_turns(servers, wires, PLAIN, n)
        streamed = await _by_turns(servers, wires, STREAMED, n)
        crowd = {name: Samples() for name in servers}
        for name, server in [*servers.items(), *reversed(servers.items())]:
            await _crowd(server, n, crowd[name])
        used = [_resident(name, server) for name, server in servers.items() if name != "direct"]
    return [
        _report("openai-front-plain", "a request passed on", plain, "whole", bar=True),
        _report("openai-front-first", "a stream passed on: first event", streamed, "first"),
        _report("openai-front-stream", "a stream passed on: whole", streamed, "whole"),
        _many(crowd),
        Report("openai-front-memory", "OpenAI face: resident after all that", used, CLAIMED),
    ]


class Found:
    """What one server was measured at."""

    def __init__(self) -> None:
        self.calls: list[Timed] = []
        self.cpu: list[float] = []

    def samples(self, pick: str) -> Samples:
        return Samples([getattr(each, pick) for each in self.calls], self.cpu)


async def _by_turns(
    servers: Servers, wires: Mapping[str, Wire], body: Any, n: int
) -> Mapping[str, Found]:
    """In blocks that take turns, so that the machine's mood is shared; their order is reversed
    with every round."""
    found = {name: Found() for name in servers}
    order = list(servers)
    for name in order:
        for _ in range(20):
            await wires[name].post("/v1/responses", body)
    for _ in range(max(1, n // BLOCK)):
        for name in order:
            before = cpu_seconds(servers[name].pid)
            for _ in range(min(n, BLOCK)):
                found[name].calls.append(await wires[name].post("/v1/responses", body))
            used = cpu_seconds(servers[name].pid) - before
            found[name].cpu.append(used / min(n, BLOCK))
        order.reverse()
    return found


def _report(
    key: str, title: str, found: Mapping[str, Found], pick: str, *, bar: bool = False
) -> Report:
    samples = {name: each.samples(pick) for name, each in found.items()}
    rows = [timed(name, each) for name, each in samples.items()]
    direct = samples.pop("direct").p50()
    added = {name: (each.p50() - direct) * 1e3 for name, each in samples.items()}
    bars: Mapping[Measure, float] | None = None
    if bar:
        most = min([ADDED_MS, *(SHARE * ms for name, ms in added.items() if name != "lap-mcp")])
        bars = {"value": round(most, 2)}
    for name, ms in added.items():
        n = samples[name].n
        rows.append(Row(f"added by {name}", n, ms, bars=bars if name == "lap-mcp" else None))
    return Report(key, f"OpenAI face: {title}", rows, _said(added) if bar else "")


def _said(added: Mapping[str, float]) -> str:
    words = f"The bar: {ADDED_MS} ms, and a tenth of what LiteLLM adds"
    if "LiteLLM" not in added:
        return f"{words}, which was not measured."
    return f"{words}: it adds {added['LiteLLM'] / max(added['lap-mcp'], 1e-3):.0f} times as much."


async def _crowd(server: serving.Served, n: int, found: Samples) -> None:
    """So many clients at once."""

    async def one() -> None:
        async with server.wire() as wire:
            for _ in range(max(1, n // CLIENTS // 2)):
                call = await wire.post("/v1/responses", PLAIN)
                found.wall.append(call.whole)

    async with anyio.create_task_group() as tasks:
        for _ in range(CLIENTS):
            tasks.start_soon(one)


def _many(found: Mapping[str, Samples]) -> Report:
    rows: list[Row] = []
    for name, samples in found.items():
        rate = CLIENTS * samples.n / sum(samples.wall)
        rows += [timed(name, samples), Row(f"{name}: requests a second", samples.n, rate, unit="")]
    return Report("openai-front-many", f"OpenAI face: {CLIENTS} clients at once", rows)


def _resident(name: str, server: serving.Served) -> Row:
    bars: Mapping[Measure, float] = {"value": RSS_MIB}
    used = memory(server.pid)["Rss"]
    return Row(name, 1, used, unit="MiB", bars=bars if name == "lap-mcp" else None)
