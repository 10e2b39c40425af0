"""The reports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio.to_thread

from benchmarks.measure import Samples
from benchmarks.report import Report, Row, above, timed
from benchmarks.surroundings import ROOT, Place, started

from . import peers
from .peers import Lacking, Peer, Serve

BLOCK = 10
WARM_UP = 20
BAR = 5.0
"""Milliseconds that we may add at the median."""
BAR_KB = 200.0
"""What an open session may hold."""
CHUNKS = 40
PAUSE = 0.5
"""Seconds between two chunks of a session while memory is looked at."""
MANY_SECONDS = 900

NOTE = "Ours is the engine with adapter and store, in process; CPU is of the calling process. "


class Worker:
    """One side: a process that does its thing as often as it is told (`worker.py`)."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.samples = Samples()

    def block(self, count: int) -> Samples:
        """Raises: RuntimeError where it ended; its words are on stderr."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n".encode())
        self._process.stdin.flush()
        found = json.loads(self.line())
        return Samples(wall=found["wall"], cpu=[found["cpu"]])

    def line(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended")
        return line


@contextmanager
def working(command: list[str], environ: dict[str, str]) -> Iterator[Worker]:
    with started(command, env=environ) as process:
        worker = Worker(process)
        worker.line()
        yield worker


def by_turns(workers: list[Worker], n: int) -> None:
    """Each its block in turn, the order reversed with every round; the first is a warm-up."""
    for worker in workers:
        worker.block(WARM_UP)
    order = list(workers)
    for _ in range(max(1, -(-n // BLOCK))):
        for worker in order:
            found = worker.block(min(n, BLOCK))
            worker.samples.wall += found.wall
            worker.samples.cpu += found.cpu
        order.reverse()


def added(
    key: str, title: str, serve: Serve, sdk: str, *, stdio: bool = False
) -> Callable[[Place, int], Awaitable[list[Report]]]:
    """The benchmark of one runtime."""

    def measure(place: Place, n: int) -> Report:
        folder = place.folder / f"runtimes-{key}"
        with ExitStack() as stack:
            peer = stack.enter_context(serve(place))
            workers = _workers(stack, peer, folder, stdio=stdio)
            by_turns(list(workers.values()), n)
        sdk_samples = workers["direct"].samples
        rows = [timed("engine and adapter", workers["ours"].samples), timed(sdk, sdk_samples)]
        rows.append(above(workers["ours"].samples, sdk_samples, {"value": BAR}))
        if "stdio" in workers:
            rows.append(timed("through LAP MCP, on stdio", workers["stdio"].samples))
            rows.append(above(workers["stdio"].samples, sdk_samples, {"value": BAR}))
        return Report(f"runtimes-{key}", f"(7) {title}", rows, NOTE)

    async def benchmark(place: Place, n: int) -> list[Report]:
        try:
            return [await anyio.to_thread.run_sync(measure, place, n)]
        except Lacking as error:
            return [Report(f"runtimes-{key}", f"(7) {title}", [], f"Skipped: {error}")]

    return benchmark


def _workers(stack: ExitStack, peer: Peer, folder: Path, *, stdio: bool) -> dict[str, Worker]:
    here = "benchmarks.runtimes"
    config, environ = peer.written(folder)
    commands = {
        "ours": [sys.executable, "-m", f"{here}.ours", config],
        "direct": [peer.python, "-m", f"{here}.direct", *peer.direct],
    }
    if stdio:
        commands["stdio"] = [sys.executable, "-m", f"{here}.through_stdio", config]
    return {
        name: stack.enter_context(working(command, environ)) for name, command in commands.items()
    }


def many(
    key: str, title: str, serve: Serve, prompt: str, *, bar: bool = False, first: str = ""
) -> Callable[[Place, int], Awaitable[list[Report]]]:
    """The benchmark of many sessions; `bar`: the agent is slow enough for all to be open at once,
    so that what an open session holds can be told.  `first`: what the agent says before it
    counts."""

    def measure(place: Place, n: int) -> Report:
        text = first + "".join(f"chunk {number + 1} of {CHUNKS}\n" for number in range(CHUNKS))
        with serve(place) as peer:
            config, environ = peer.written(place.folder / f"runtimes-{key}")
            command = [sys.executable, "-m", "benchmarks.runtimes.many", config, str(n)]
            done = subprocess.run(
                [*command, prompt.format(CHUNKS, PAUSE), repr(text)],
                cwd=ROOT,
                env=environ,
                stdout=subprocess.PIPE,
                timeout=MANY_SECONDS,
                check=True,
            )
        found = json.loads(done.stdout)
        for words in found["wrong"][:3]:
            print(f"{title}: {words}", file=sys.stderr)
        return Report(f"runtimes-{key}", f"(8) {title}", _rows(found, bar=bar), _said(found))

    async def benchmark(place: Place, n: int) -> list[Report]:
        try:
            return [await anyio.to_thread.run_sync(measure, place, n)]
        except Lacking as error:
            return [Report(f"runtimes-{key}", f"(8) {title}", [], f"Skipped: {error}")]

    return benchmark


def _rows(found: Mapping[str, float], *, bar: bool) -> list[Row]:
    n = int(found["sessions"])
    lost = len(found["wrong"])  # type: ignore[arg-type]
    rows = [
        Row(name="sessions streaming at once, the most", n=n, value=found["streaming"], unit=""),
        Row(name="events and deltas a second", n=n, value=found["items"] / found["wall"], unit=""),
        Row(name="our CPU of one", n=n, value=found["cpu"] * 1e3 / found["items"]),
        Row(name="sessions that miss anything", n=n, value=lost, unit="", bars={"value": 0}),
    ]
    if bar:
        held = Row(
            name="memory of an open session", n=n, value=found["kB"], unit="kB",
            bars={"value": BAR_KB},
        )  # fmt: skip
        rows.insert(1, held)
    return rows


def _said(found: Mapping[str, float]) -> str:
    return (
        f"{found['items']:.0f} items ({found['deltas']:.0f} deltas) in {found['wall']:.1f} s, "
        f"read by a follower each; RSS {found['rss']:.0f} MiB at the most."
    )


RUNTIMES: Mapping[str, tuple[Callable[[Place, int], Awaitable[list[Report]]], int]] = {
    "runtimes-a2a": (
        added("a2a", "A2A agent", peers.a2a, "a2a-sdk client, direct", stdio=True),
        300,
    ),
    "runtimes-responses": (
        added("responses", "Responses server", peers.responses, "openai client, direct"),
        300,
    ),
    "runtimes-agentcore": (
        added("agentcore", "AgentCore agent", peers.agentcore, "boto3 client, direct"),
        300,
    ),
    "runtimes-langgraph": (
        added("langgraph", "LangGraph server", peers.langgraph, "langgraph-sdk client, direct"),
        200,
    ),
    "runtimes-litellm": (
        added("litellm", "A2A agent behind LiteLLM", peers.litellm, "a2a-sdk client, direct"),
        200,
    ),
    "runtimes-open": (
        many("open", "sessions held open by an A2A agent", peers.a2a, "slow {} {}", bar=True),
        200,
    ),
    "runtimes-rush": (
        many("rush", "A2A agent that streams at full speed", peers.a2a, "slow {} 0"),
        200,
    ),
    "runtimes-rush-responses": (
        many("rush-responses", "Responses server", peers.responses, "slow {}", first="first "),
        200,
    ),
}
"""Each with how often it does its thing, or with how many sessions."""
