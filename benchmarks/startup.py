"""From process launch to answers, and memory when idle, beside the SDK's own bare server."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from .containers import count_of
from .measure import Samples, cpu_seconds, memory
from .report import Report, Row, above, timed
from .surroundings import BARE, LAP_MCP, Place, started, until

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "benchmarks", "version": "0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
SETTLED = 60.0


class Start:
    """Samples of one server: `server/discover`, then `tools/list`, each since launch."""

    def __init__(self) -> None:
        self.discover = Samples()
        self.tools = Samples()
        self.rss: list[float] = []
        self.pss: list[float] = []

    def once(self, command: list[str], place: Place) -> None:
        began = time.perf_counter()
        with started(command, env=place.environ, stderr=subprocess.DEVNULL) as process:
            for number, (method, samples) in enumerate(
                (("server/discover", self.discover), ("tools/list", self.tools))
            ):
                ask(process, number, method)
                samples.wall.append(time.perf_counter() - began)
                samples.cpu.append(cpu_seconds(process.pid))
            used = memory(process.pid)
            self.rss.append(used["Rss"])
            self.pss.append(used["Pss"])


def ask(process: subprocess.Popen[bytes], number: int, method: str) -> Any:
    """One request of the 2026-07-28 era.  Raises: RuntimeError where the answer is no result."""
    assert process.stdin is not None
    assert process.stdout is not None
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": {"_meta": META}}
    process.stdin.write(json.dumps(message).encode() + b"\n")
    process.stdin.flush()
    while True:
        line = process.stdout.readline()
        answer = json.loads(line or "{}")
        if "id" in answer or not line:
            break
    if "result" not in answer:
        raise RuntimeError(f"{method} was not answered: {line[:300]!r}")
    return answer["result"]


async def startup(place: Place, n: int) -> list[Report]:
    ours, bare = Start(), Start()
    product = [str(LAP_MCP), "--config", str(place.config)]
    # The first start makes the store, and both write bytecode: not what a start costs from then on.
    for counted in (False, *[True] * n):
        for start, command in ((ours, product), (bare, list(BARE))):
            into = start if counted else Start()
            await anyio.to_thread.run_sync(into.once, command, place)
            await _settled(place.folder)
    return [
        Report(
            "startup",
            "(1) process launch to answer, stdio",
            [
                timed("lap-mcp: server/discover", ours.discover),
                timed("bare SDK server: server/discover", bare.discover),
                above(ours.discover, bare.discover),
                timed("lap-mcp: tools/list", ours.tools),
                timed("bare SDK server: tools/list", bare.tools),
                above(ours.tools, bare.tools),
            ],
            "CPU is that of the process from launch to the answer. The store exists; one agent.",
        ),
        Report(
            "memory",
            "(6) memory of an idle stdio server after tools/list",
            [
                _memory("lap-mcp: RSS", ours.rss),
                _memory("bare SDK server: RSS", bare.rss),
                _memory("lap-mcp: PSS", ours.pss),
                _memory("bare SDK server: PSS", bare.pss),
            ],
        ),
    ]


def _memory(name: str, values: list[float]) -> Row:
    middle = sorted(values)[len(values) // 2]
    return Row(name=name, n=len(values), value=middle, unit="MiB")


async def _settled(folder: Path) -> None:
    """Until the engine has removed the warm sandbox that a server leaves behind: removing it
    would slow down what is measured next."""

    async def gone() -> bool:
        return await anyio.to_thread.run_sync(count_of, folder / "lap") == 0

    await until(gone, SETTLED)
    await anyio.sleep(0.3)
