"""Each row of the comparison: ours, and beside it, in the same run, every peer that can do it."""

from __future__ import annotations

import gc
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread
from lap_sandbox.base import Sandbox

from benchmarks.containers import docker_left
from benchmarks.measure import Samples, memory
from benchmarks.report import Measure, Report, Row, timed
from benchmarks.sandbox import ours
from benchmarks.sandbox.peers import NAMES, Peer, PeerFailed, peer
from benchmarks.surroundings import Place

SIZE = 100 * 1000 * 1000
SLOW = 30
"""How often peers do what takes them a good part of a second."""
PRINT = "print('x' * 99 + '\\n' * 1, end=''); [print('x' * 99) for _ in range(100)];"
FIGURE = (
    "import matplotlib.pyplot as plt\nplt.figure(); plt.plot(range(1000), [n % 7 for n in "
    "range(1000)]); plt.savefig('/tmp/f.png') if {save} else plt.show()"
)
IMPORTS = "import numpy, pandas, matplotlib.pyplot\n1 + 1"


async def _beside(
    name: str, place: Place, measure: Callable[[Peer], Awaitable[list[Row]]]
) -> list[Row]:
    """A peer's rows.  What it cannot do is a line that says so."""
    async with peer(name, place) as opened:
        try:
            await opened.ask("open")
            return await measure(opened)
        except PeerFailed as error:
            return [Row(name=f"{name}: {str(error)[:60]}", n=0, value=0.0, unit="")]


async def cold(place: Place, n: int) -> list[Report]:
    """From nothing to the first result of `1 + 1`."""
    found = Samples()
    async with ours.launcher(place) as made:
        for _ in range(n):
            began = time.perf_counter()
            opened = await made.open(made.limits)
            await ours.well(opened, "1 + 1")
            found.wall.append(time.perf_counter() - began)
            await opened.close()
    rows = [timed("ours", found, {"value": 1000.0})]
    for name in NAMES:
        samples = Samples()
        for _ in range(min(n, 5)):
            async with peer(name, place) as opened_peer:
                opening = await opened_peer.ask("open")
                first = await opened_peer.ask("execute", "print(1 + 1)")
                samples.wall.append(opening[0] + first[0])
        rows.append(timed(name, samples))
    return [Report("sandbox-cold", "sandbox: cold start to first result", rows)]


async def claim(place: Place, n: int) -> list[Report]:
    """From the call to the first result, with everything imported, where one waits."""
    found = Samples()
    async with ours.launcher(place, warm=1) as made:
        for _ in range(n):
            await ours.warm_one(made)
            began = time.perf_counter()
            opened = await made.open(made.limits)
            await ours.well(opened, IMPORTS)
            found.wall.append(time.perf_counter() - began)
            await opened.close()
    row = timed("ours", found, {"value": 12.0, "p99": 25.0})
    return [Report("sandbox-claim", "sandbox: warm claim to first result, imports done", [row])]


async def execute(place: Place, n: int) -> list[Report]:
    """`x=1`, 10 kB of output and a figure, in blocks by turns with the peers."""
    codes: Sequence[tuple[str, str, str, int, Mapping[Measure, float] | None]] = (
        ("x=1", "x=1", "x=1", n, {"value": 0.4, "p99": 1.5}),
        ("print 10 kB", PRINT, PRINT, max(n // 10, 1), None),
        ("figure of 1,000 points", FIGURE.format(save=False), FIGURE.format(save=True),
         max(n // 500, 1), None),
    )  # fmt: skip
    reports = []
    async with ours.sandbox(place) as mine:
        peers: dict[str, list[Row]] = {}
        measured: dict[str, Samples] = {}
        for title, code, _, count, _ in codes:
            await ours.again(lambda code=code: ours.well(mine, code), min(100, count))
            cpu = time.process_time()
            measured[title] = await ours.again(lambda code=code: ours.well(mine, code), count)
            measured[title].cpu.append((time.process_time() - cpu) / count)
        for name in NAMES:

            async def all_of_it(opened: Peer, name: str = name) -> list[Row]:
                rows = []
                for _, _, code, count, _ in codes:
                    few = min(count, n if name == "ipykernel" else SLOW)
                    await opened.ask("execute", code)
                    rows.append(timed(name, Samples(await opened.ask("execute", code, n=few))))
                return rows

            peers[name] = await _beside(name, place, all_of_it)
        for number, (title, _, _, _, bars) in enumerate(codes):
            beside = [rows[number] for rows in peers.values() if number < len(rows)]
            rows = [timed("ours", measured[title], bars), *beside]
            rows += _shares(title, measured[title], beside)
            reports.append(Report("sandbox-execute", f"sandbox: execute, {title}", rows))
    return reports


def _shares(title: str, mine: Samples, beside: Sequence[Row]) -> list[Row]:
    """How much of a peer's time ours is, where the issue has a bar for it."""
    if title != "x=1":
        return []
    bars = {"ipykernel": 1e6 / 15, "llm-sandbox": 1e6 / 400}
    return [
        Row(
            name=f"ours in millionths of {row.name}",
            n=row.n,
            value=mine.p50() * 1e9 / row.value,
            unit="",
            bars={"value": bars[row.name]},
        )
        for row in beside
        if row.name in bars and row.value
    ]


async def files(place: Place, n: int) -> list[Report]:
    """100 MB in, out, and back into a new sandbox as a hundred files."""
    data = secrets.token_bytes(SIZE // 100) * 100
    source = place.folder / "hundred.bin"
    source.write_bytes(data)
    into, out, restore = Samples(), Samples(), Samples()
    async with ours.launcher(place) as made:
        for _ in range(n):
            opened = await made.open(made.limits)
            await ours.well(opened, "1")
            into.wall += (await ours.again(lambda o=opened: o.put("f", data), 1)).wall
            out.wall += (await ours.again(lambda o=opened: o.get("f"), 1)).wall
            await opened.delete("f")
            restore.wall += (await ours.again(lambda o=opened: _restored(o, data), 1)).wall
            await opened.close()
    rows = [
        timed("ours: in", into),
        timed("ours: out", out),
        timed("ours: restore of 100 files", restore, {"value": 1000.0}),
    ]
    for name in ("llm-sandbox", "docker exec"):

        async def both(opened: Peer, name: str = name) -> list[Row]:
            put = Samples(await opened.ask("put", str(source), n=min(n, 3)))
            got = Samples(await opened.ask("get", source.name, n=min(n, 3)))
            return [timed(f"{name}: in", put), timed(f"{name}: out", got)]

        rows += await _beside(name, place, both)
    return [Report("sandbox-files", "sandbox: 100 MB of files", rows)]


async def _restored(sandbox: Sandbox, data: bytes) -> None:
    part = SIZE // 100
    for number in range(100):
        await sandbox.put(f"f{number}", data[number * part : (number + 1) * part])


async def interrupt(place: Place, n: int) -> list[Report]:
    """From the interrupt to the end of the execution: where the interpreter lets go, and where
    it does not and is replaced."""
    soft, hard = Samples(), Samples()
    async with ours.sandbox(place) as mine:
        for code, samples, times in (
            ("while True: pass", soft, n),
            ("sum(range(10**12))", hard, min(n, 5)),
        ):
            for _ in range(times):
                samples.wall.append(await _interrupted(mine, code))
    rows = [
        timed("ours: while True", soft, {"value": 50.0}),
        timed("ours: sum(range(10**12)), interpreter replaced", hard, {"value": 2500.0}),
    ]

    async def theirs(opened: Peer) -> list[Row]:
        found = [
            float(await opened.value("interrupt", "while True: pass")) for _ in range(min(n, 5))
        ]
        return [timed("ipykernel: while True", Samples(found))]

    rows += await _beside("ipykernel", place, theirs)
    note = "llm-sandbox and docker exec have no interrupt; ipykernel does not end the second one."
    return [Report("sandbox-interrupt", "sandbox: interrupt", rows, note)]


async def _interrupted(sandbox: Sandbox, code: str) -> float:
    ended = 0.0

    async def run() -> None:
        nonlocal ended
        await sandbox.execute(code, timeout=30)
        ended = time.perf_counter()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await anyio.sleep(0.3)
        began = time.perf_counter()
        await sandbox.interrupt()
    return ended - began


async def idle(place: Place, n: int) -> list[Report]:
    """Memory of a sandbox that has imported numpy, pandas and pyplot, and does nothing."""
    async with ours.sandbox(place) as mine:
        rows = [_mib("ours", await ours.memory_of(mine.container_id))]
    for name in NAMES:

        async def theirs(opened: Peer, name: str = name) -> list[Row]:
            await opened.ask("execute", "import numpy, pandas, matplotlib.pyplot")
            return [_mib(name, await ours.memory_of(str(await opened.value("id"))))]

        rows += await _beside(name, place, theirs)
    return [
        Report(
            "sandbox-memory",
            "sandbox: memory while idle, imports done",
            rows,
            "llm-sandbox and docker exec keep no interpreter between executions, hence no imports.",
        )
    ]


def _mib(name: str, value: float) -> Row:
    return Row(name=name, n=1, value=value, unit="MiB")


async def many(place: Place, n: int) -> list[Report]:
    """Executions in 1, 10 and 50 sandboxes at once: how long each takes, and how many a second."""
    rows: list[Row] = []
    async with ours.launcher(place) as made:
        opened: list[Sandbox] = []
        for count in (1, 10, 50):
            while len(opened) < count:
                opened.append(await made.open(made.limits))
                await ours.well(opened[-1], "1")
            samples = Samples()
            began = time.perf_counter()
            async with anyio.create_task_group() as group:
                for each in opened:
                    group.start_soon(_several, each, max(n // count, 5), samples)
            rate = samples.n / (time.perf_counter() - began)
            rows.append(timed(f"{count} at once", samples))
            rows.append(Row(name="executions a second", n=samples.n, value=rate, unit=""))
    return [Report("sandbox-many", "sandbox: x=1 in several sandboxes at once", rows)]


async def _several(sandbox: Sandbox, n: int, samples: Samples) -> None:
    samples.wall += (await ours.again(lambda: ours.well(sandbox, "x=1"), n)).wall


async def churn(place: Place, n: int) -> list[Report]:
    """Sandboxes opened, used and closed one after another: what they leave."""

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    samples = Samples()
    async with ours.launcher(place) as made:

        async def once() -> None:
            opened = await made.open(made.limits)
            await ours.well(opened, "1")
            await opened.close()

        await ours.again(once, min(n, 10))
        gc.collect()
        files, resident = open_files(), memory(os.getpid())["Rss"]
        samples = await ours.again(once, n)
        gc.collect()
        more, grown = open_files() - files, memory(os.getpid())["Rss"] - resident
    left = await anyio.to_thread.run_sync(docker_left, ours.INSTANCE)
    return [
        Report(
            "sandbox-churn",
            f"sandbox: {n} opened and closed one after another",
            [
                timed("open, first result, close", samples),
                Row(name="more open files", n=n, value=more, unit="", bars={"value": 2}),
                Row(name="more memory", n=n, value=grown, unit="MiB", bars={"value": 16}),
                Row(name="containers left", n=n, value=left, unit="", bars={"value": 0}),
            ],
        )
    ]
