"""What the OpenAI-compatible face adds to a model's server:

    python -m benchmarks.openai_front [-n N] [--no-code] [--json]

One `lap-mcp serve` between a client and a model's server that answers at once, against the same
client and that server directly; blocks of both take turns, so that the machine's mood is shared.
A round of code is against the same code through the sandbox of the same server, and twice the
direct call (a code round asks the model twice).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import cpu_seconds, memory, percentile
from benchmarks.surroundings import LAP_MCP, PYTHONPATH, ROOT

from .wire_client import Timed, Wire

BLOCK = 50
PLAIN = {"model": "m", "input": "hello"}
STREAMED = {**PLAIN, "stream": True}
TOOL = {"type": "code_interpreter", "container": {"type": "auto"}}
CONFIG = """
[models.m]
base_url = "http://127.0.0.1:{port}/v1"

[sandbox]
warm = 1
"""


@asynccontextmanager
async def started(*command: str, **options: Any) -> AsyncIterator[subprocess.Popen[str]]:
    process = subprocess.Popen(  # noqa: ASYNC220 - it starts before anything is measured
        command, stdout=subprocess.PIPE, text=True, **options
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[int, int, str, int]]:
    """Ports of the model's server and of ours, our key, our process."""
    environ = {**os.environ, "PYTHONPATH": PYTHONPATH, "LAP_HOME": str(folder / "home")}
    async with AsyncExitStack() as stack:
        command = (sys.executable, "-m", "benchmarks.openai_front.model_server")
        model = await stack.enter_async_context(started(*command, cwd=ROOT, env=environ))
        assert model.stdout is not None
        port = int(await asyncio.to_thread(model.stdout.readline))
        config = folder / "lap.toml"
        config.write_text(CONFIG.format(port=port))
        config.chmod(0o600)
        command = (str(LAP_MCP), "--config", str(config), "serve", "--port", "0")
        ours = await stack.enter_async_context(started(*command, cwd=folder, env=environ))
        assert ours.stdout is not None
        words = await asyncio.to_thread(ours.stdout.readline)
        our_port = int(words.split()[-1].split(":")[2].split("/")[0])
        key = (folder / "home" / "serve.key").read_text().strip()
        yield port, our_port, key, ours.pid


async def compare(
    n: int, direct: Callable[[], Any], ours: Callable[[], Any], pid: int
) -> tuple[list[Timed], list[Timed], float]:
    """Both, in blocks that take turns; and our CPU seconds a call."""
    theirs_found: list[Timed] = []
    ours_found: list[Timed] = []
    cpu = 0.0
    for _ in range(20):
        await direct()
        await ours()
    for _ in range(max(1, n // BLOCK)):
        for _ in range(min(n, BLOCK)):
            theirs_found.append(await direct())
        before = cpu_seconds(pid)
        for _ in range(min(n, BLOCK)):
            ours_found.append(await ours())
        cpu += cpu_seconds(pid) - before
    return theirs_found, ours_found, cpu / len(ours_found)


def row(
    name: str,
    direct: list[Timed],
    ours: list[Timed],
    cpu: float,
    pick: str = "whole",
    calls: int = 1,
) -> dict[str, Any]:
    def p(values: list[Timed], share: float) -> float:
        return percentile([getattr(each, pick) for each in values], share) * 1000

    return {
        "name": name,
        "n": len(ours),
        "direct_p50_ms": p(direct, 0.5) * calls,
        "ours_p50_ms": p(ours, 0.5),
        "added_p50_ms": p(ours, 0.5) - p(direct, 0.5) * calls,
        "ours_p99_ms": p(ours, 0.99),
        "cpu_ms": cpu * 1000,
    }


async def many(ports: tuple[int, int], key: str, clients: int, n: int) -> tuple[float, float]:
    """Requests a second with so many clients at once: direct, ours."""

    async def rate(port: int) -> float:
        async def one() -> None:
            async with Wire(port, key) as wire:
                for _ in range(n // clients):
                    await wire.post("/v1/responses", PLAIN)

        loop = asyncio.get_running_loop()
        begun = loop.time()
        await asyncio.gather(*(one() for _ in range(clients)))
        return n / (loop.time() - begun)

    return await rate(ports[0]), await rate(ports[1])


async def measured(n: int, *, code: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="lap-bench-") as name:
        async with serving(Path(name)) as (port, our_port, key, pid):
            rows = []
            async with Wire(port, key) as direct, Wire(our_port, key) as ours:

                def ask(wire: Wire, body: Any) -> Callable[[], Any]:
                    return lambda: wire.post("/v1/responses", body)

                plain = await compare(n, ask(direct, PLAIN), ask(ours, PLAIN), pid)
                rows.append(row("passthrough", *plain))
                streamed = await compare(n, ask(direct, STREAMED), ask(ours, STREAMED), pid)
                rows.append(row("passthrough, streamed: whole", *streamed))
                rows.append(row("passthrough, streamed: first byte", *streamed, "first"))
                if code:
                    rows += await code_rounds(n // 4, direct, ours, pid)
            theirs, through = await many((port, our_port), key, 64, max(64, n))
            rss = memory(pid)["Rss"]
    return {
        "rows": rows,
        "rss_mib": rss,
        "64_clients_direct_per_s": theirs,
        "64_clients_per_s": through,
    }


async def code_rounds(n: int, direct: Wire, ours: Wire, pid: int) -> list[dict[str, Any]]:
    first = await ours.post("/v1/responses", {**PLAIN, "tools": [TOOL]})
    call = json.loads(first.body)["output"][0]
    if call["status"] != "completed":
        raise RuntimeError(f"no code runs here: {call}")
    tool = {"type": "code_interpreter", "container": call["container_id"]}
    body = {**PLAIN, "tools": [tool], "store": False}
    found = await compare(
        n,
        lambda: direct.post("/v1/responses", PLAIN),
        lambda: ours.post("/v1/responses", body),
        pid,
    )
    return [row("code round (two calls of the model, x = 1)", *found, calls=2)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.openai_front", description=__doc__)
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("--no-code", action="store_true", help="without a sandbox")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = asyncio.run(measured(options.n, code=not options.no_code))
    if options.json:
        print(json.dumps(found))
        return
    for each in found["rows"]:
        print(
            f"{each['name']:44} n={each['n']:<5} direct {each['direct_p50_ms']:6.2f} ms  "
            f"ours {each['ours_p50_ms']:6.2f} ms  added {each['added_p50_ms']:6.2f} ms  "
            f"p99 {each['ours_p99_ms']:6.2f} ms  CPU {each['cpu_ms']:5.2f} ms"
        )
    print(
        f"64 clients: direct {found['64_clients_direct_per_s']:.0f}/s, ours "
        f"{found['64_clients_per_s']:.0f}/s; resident {found['rss_mib']:.0f} MiB; load "
        f"{os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
