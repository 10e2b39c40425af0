"""Runs the benchmarks: `scripts/bench`.  One table on a terminal, or JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
from lap_sandbox.errors import LauncherUnavailable
from rich.console import Console

from . import calls, document, endings, execute, startup
from .containers import IMAGE, current_image, engine_version
from .openai_front import OPENAI_FRONT
from .report import Report, as_json, show
from .runtimes.rows import RUNTIMES
from .sandbox import SANDBOX
from .surroundings import Place, place

Benchmark = Callable[[Place, int], Awaitable[list[Report]]]

BENCHMARKS: Mapping[str, tuple[Benchmark, int]] = {
    "startup": (startup.startup, 20),
    "interpreter": (calls.interpreter, 2000),
    "agent": (calls.agent, 500),
    "execute": (execute.execute, 10_000),
    "endings": (endings.endings, 1000),
    **SANDBOX,
    **RUNTIMES,
    **OPENAI_FRONT,
}
"""Each with how often it does its thing."""
GROUPS: Mapping[str, Mapping[str, Any]] = {
    "sandbox": SANDBOX,
    "runtimes": RUNTIMES,
    "openai-front": OPENAI_FRONT,
}
"""They bring peers, and are run only when named: all of one, or one of it."""
WITHOUT_SANDBOX = (
    "startup",
    "agent",
    *RUNTIMES,
    "openai-front-passing",
    "anthropic-front-passing",
)


async def run(
    names: Sequence[str],
    n: int | None,
    told: Callable[[str], None] = lambda words: None,
    peers: bool = True,
) -> list[Report]:
    """The reports of these benchmarks.  `n`: instead of each one's own number.

    Raises: LauncherUnavailable where one of them needs a sandbox, and none can be had.
    """
    found: list[Report] = []
    image = IMAGE
    if not set(names) <= set(WITHOUT_SANDBOX):
        told("sandbox image …")
        image = await current_image()
    with (
        tempfile.TemporaryDirectory(prefix="lap-bench-") as folder,
        place(Path(folder), image, peers=peers) as where,
    ):
        for name in names:
            benchmark, usual = BENCHMARKS[name]
            told(f"{name} …")
            found += await benchmark(where, n or usual)
    return found


def facts() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "engine": engine_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> int:
    """Exit status 1 where a bar is missed, 2 where nothing could be measured."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join([*GROUPS, *BENCHMARKS])}"
    )
    parser.add_argument("-n", type=int, help="how often, instead of each one's own number")
    parser.add_argument(
        "--no-peers", action="store_true", help="the OpenAI face without LiteLLM beside it"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help="renew docs/benchmarks.md")
    options = parser.parse_args()
    asked = [each for name in options.names for each in GROUPS.get(name, [name])]
    unknown = [name for name in asked if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    if options.n is not None and options.n < 1:
        parser.error("-n is at least 1")
    told = Console(stderr=True)
    on = facts()
    grouped = {name for group in GROUPS.values() for name in group}
    names = asked or [name for name in BENCHMARKS if name not in grouped]
    peers = not options.no_peers
    try:
        reports = anyio.run(run, names, options.n, lambda w: told.print(w, style="dim"), peers)
    except LauncherUnavailable as error:
        told.print(
            f"{error}\nWithout a sandbox: scripts/bench startup agent runtimes openai-front-passing"
        )
        return 2
    if options.write:
        document.write(reports, on)
    if options.json:
        json.dump(as_json(reports, on), sys.stdout, indent=1)
        print()
    else:
        console = Console(width=None if sys.stdout.isatty() else 110)
        show(reports, console)
        console.print(", ".join(f"{key} {value}" for key, value in on.items()), style="dim")
    return 1 if any(report.missed() for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
