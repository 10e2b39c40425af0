"""Writes docs/benchmarks.md and its plot from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .report import Report, as_markdown
from .surroundings import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
PLOT = ROOT / "docs" / "benchmarks.svg"

INTRODUCTION = """\
# Benchmarks

Written by `scripts/bench --write`; `scripts/bench` measures again and prints the same table,
`scripts/bench --json` the same figures, and a name after it (`startup`, `interpreter`, `agent`,
`execute`, `endings`) runs only that one. `scripts/bench runtimes` compares with the vendors' SDKs,
and `scripts/bench sandbox` with other sandboxes. The exit status is 1 where a bar is missed.

What is compared runs in the same minutes on the same machine, in short blocks by turns, after a
warm-up: on a machine that does other work too, the difference says more than the figure. CPU is
the process's own clock, so it does not count what the others do.

![Every comparison side by side](benchmarks.svg)
"""

BY_HAND = "\n## Reading them\n"
"""From here on the page is written by people, and kept."""

COLOURS = ("#3b6fb6", "#b0b7c3")


def write(reports: Sequence[Report], on: Mapping[str, Any]) -> None:
    """Raises: ModuleNotFoundError without matplotlib (group `bench`)."""
    plot(reports)
    measured = (
        f"Measured {on['date']} on {on['cores']} shared cores ({on['system']}), "
        f"Python {on['python']}, Docker {on['engine'] or 'not there'}; load {on['load']} before "
        "the first one."
    )
    before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    _, heading, kept = before.partition(BY_HAND)
    text = f"{INTRODUCTION}\n{measured}\n\n{as_markdown(reports)}{heading}{kept}"
    PAGE.write_text(text, encoding="utf-8")


def plot(reports: Sequence[Report], target: Path = PLOT) -> None:
    """Median and 99th percentile of what is timed, one panel a benchmark."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {
        "svg.fonttype": "none",
        "svg.hashsalt": "lap",
        "font.size": 8,
        "axes.titlesize": 9,
    }
    from matplotlib import pyplot as plt

    shown = [report for report in reports if any(row.p99 is not None for row in report.rows)]
    if not shown:
        return
    figure, axes = plt.subplots(len(shown), 1, figsize=(7.5, 1.2 * len(shown) + 0.6), squeeze=False)
    for report, axis in zip(shown, axes[:, 0], strict=True):
        rows = [row for row in report.rows if row.p99 is not None]
        for place, row in enumerate(reversed(rows)):
            assert row.p99 is not None
            first = row is rows[0] or row.name.startswith("lap-mcp")
            axis.barh(place, row.value, color=COLOURS[0 if first else 1], height=0.6)
            axis.plot([row.value, row.p99], [place, place], color="#444", linewidth=1)
            axis.text(row.p99, place, f"  {row.value:.2f} / {row.p99:.2f}", va="center")
        axis.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
        axis.set_title(report.title, loc="left")
        axis.set_xlim(0, 1.3 * max(row.p99 or 0 for row in rows))
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("ms: bar p50, line to p99")
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None, "Creator": None})
    plt.close(figure)
