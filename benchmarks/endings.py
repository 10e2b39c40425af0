"""Calls cut off half-way, by the thousand: nothing of them may stay behind."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
from mcp import Client

from .calls import a_sandbox, by_sdk
from .containers import count_of
from .measure import memory
from .report import Report, Row
from .surroundings import Place, call, counts, over_stdio, until

AT_ONCE = 8
LONG = "slow 1200 0.05"
"""A prompt that keeps the example agent busy for a minute."""
DEADLINE = 30.0
KINDS = ("running", "tasks", "threads", "descriptors", "containers")
WORDS = {
    "running": "running turns",
    "tasks": "asyncio tasks",
    "threads": "threads",
    "descriptors": "file descriptors",
    "containers": "containers",
}


@dataclass(frozen=True)
class Held:
    """What the server process holds, and its memory."""

    counts: dict[str, int]
    rss: float


async def endings(place: Place, n: int) -> list[Report]:
    reports = []
    async with over_stdio(place) as client:
        await a_sandbox(by_sdk(client))
        for key, title, cut, count in (
            ("cancelled", "cut off, then ended by cancel_session", cancelled, n),
            ("fleeting", "cut off, ended by cancel_on_disconnect", fleeting, n),
            ("interrupted", "code_interpreter cut off", interrupted, max(AT_ONCE, n // 10)),
        ):
            reports.append(await _left_behind(place, client, key, title, cut, count))
    return reports


Cut = Callable[[Client, int], Awaitable[None]]


async def _left_behind(
    place: Place, client: Client, key: str, title: str, cut: Cut, n: int
) -> Report:
    await cut(client, 2 * AT_ONCE)
    before = await _settled(place, client, None)
    began = time.perf_counter()
    done = 0
    while done < n:
        await cut(client, AT_ONCE)
        done += AT_ONCE
    each = (time.perf_counter() - began) / done * 1e3
    after = await _settled(place, client, before)
    rows = [
        Row(
            name=f"{WORDS[kind]} more than before ({before.counts[kind]} → {after.counts[kind]})",
            n=done,
            value=after.counts[kind] - before.counts[kind],
            unit="",
            bars={"value": 0},
        )
        for kind in KINDS
    ]
    rows.append(Row("memory more than before (RSS)", done, after.rss - before.rss, unit="MiB"))
    return Report(
        f"endings-{key}",
        f"(5) {title}",
        rows,
        f"{AT_ONCE} calls at once; {each:.0f} ms a call, cut and ending together.",
    )


async def _settled(place: Place, client: Client, before: Held | None) -> Held:
    """What is held when nothing changes any more, or is no more than `before`."""
    last: Held | None = None
    with anyio.move_on_after(DEADLINE):
        while True:
            now = await _held(place, client)
            if before is None and last is not None and now.counts == last.counts:
                return now
            if before is not None and all(now.counts[k] <= before.counts[k] for k in KINDS):
                return now
            last = now
            await anyio.sleep(0.5)
    return last or await _held(place, client)


async def _held(place: Place, client: Client) -> Held:
    found = await counts(client)
    found["containers"] = await anyio.to_thread.run_sync(count_of, place.folder / "lap")
    return Held(counts=found, rss=memory(found["pid"])["Rss"])


async def _cut_off(
    client: Client, tool: str, arguments: dict[str, Any], half_way: Callable[[], Awaitable[object]]
) -> None:
    """Call, and go away when `half_way` returns.  Every other call asks for progress."""

    async def report(progress: float, total: float | None, message: str | None) -> None:
        return None

    callback = report if random.random() < 0.5 else None
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            result = await client.call_tool(tool, arguments, progress_callback=callback)
            raise RuntimeError(f"{tool} ended before it was cut off: {result.content}")

        tasks.start_soon(run)
        await half_way()
        await anyio.sleep(random.uniform(0.01, 0.2))
        tasks.cancel_scope.cancel()


async def cancelled(client: Client, count: int) -> None:
    """Cut off; the turns go on without us; `cancel_session` ends each."""
    await _cut_off_many(client, "helper", {"prompt": LONG}, count)
    running = await _running(client)
    if len(running) != count:
        raise RuntimeError(f"{len(running)} turns of {count} went on after their calls were cut")
    async with anyio.create_task_group() as tasks:
        for session in running:
            tasks.start_soon(call, client, "cancel_session", {"session": session})


async def fleeting(client: Client, count: int) -> None:
    """Cut off; that ends the turns."""
    await _cut_off_many(client, "fleeting", {"prompt": LONG}, count)

    async def none_runs() -> bool:
        return not await _running(client)

    await until(none_runs, DEADLINE)


async def interrupted(client: Client, count: int) -> None:
    """One after the other in one sandbox, whose variables must stay."""
    await call(client, "code_interpreter", {"code": "kept = 41"})
    endless = {"code": "while True: pass"}
    for _ in range(count):
        await _cut_off(client, "code_interpreter", endless, anyio.lowlevel.checkpoint)
    answer = await call(client, "code_interpreter", {"code": "kept + 1"})
    if "42" not in answer:
        raise RuntimeError(f"the variables of the sandbox are gone: {answer}")


async def _cut_off_many(client: Client, tool: str, arguments: dict[str, Any], count: int) -> None:
    """All at once, when all of their turns run."""
    begun = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(_cut_off, client, tool, arguments, begun.wait)

        async def all_run() -> bool:
            return len(await _running(client)) == count

        await until(all_run, DEADLINE)
        begun.set()


async def _running(client: Client) -> list[str]:
    result = await client.call_tool("list_sessions", {"status": "running", "limit": 50})
    if result.is_error or result.structured_content is None:
        raise RuntimeError(f"list_sessions: {result.content}")
    return [entry["id"] for entry in result.structured_content["sessions"]]
