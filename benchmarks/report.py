"""What was measured, as rows with their bars: on a terminal, as JSON, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from .measure import Samples

Measure = Literal["value", "p99", "cpu"]


@dataclass(frozen=True)
class Row:
    """One line: times in ms, memory in MiB or kB, or a plain count, by `unit`."""

    name: str
    n: int
    value: float
    """The median of times; else the value itself."""
    p99: float | None = None
    cpu: float | None = None
    """Milliseconds of CPU time of one call, the median over blocks of calls."""
    unit: Literal["ms", "MiB", "kB", ""] = "ms"
    bars: Mapping[Measure, float] | None = None
    """What this row may be at most."""

    def missed(self) -> list[str]:
        """What is over its bar, in words."""
        over = []
        for measure, limit in (self.bars or {}).items():
            found = getattr(self, measure)
            if found is None or found > limit:
                words = f"{_LABELS[measure]} {_shown(found, self.unit)} > {limit:g}"
                over.append(words if self.unit == "ms" else words.removeprefix("p50 "))
        return over


@dataclass(frozen=True)
class Finding:
    """A case that is right or wrong, with what was seen."""

    name: str
    right: bool
    seen: str
    peers: Mapping[str, tuple[bool, str]]
    """The same of others, by their names."""


_LABELS: Mapping[str, str] = {"value": "p50", "p99": "p99", "cpu": "CPU"}


@dataclass(frozen=True)
class Report:
    """The rows of one benchmark."""

    key: str
    title: str
    rows: Sequence[Row]
    note: str = ""
    findings: Sequence[Finding] = ()

    def missed(self) -> list[str]:
        over = [f"{row.name}: {words}" for row in self.rows for words in row.missed()]
        wrong = [f"{case.name}: {case.seen}" for case in self.findings if not case.right]
        return [f"{self.title}: {words}" for words in (*over, *wrong)]


def timed(name: str, samples: Samples, bars: Mapping[Measure, float] | None = None) -> Row:
    cpu = samples.cpu_p50()
    return Row(
        name=name,
        n=samples.n,
        value=samples.p50() * 1e3,
        p99=samples.p99() * 1e3,
        cpu=None if cpu is None else cpu * 1e3,
        bars=bars,
    )


def above(ours: Samples, peer: Samples, bars: Mapping[Measure, float] | None = None) -> Row:
    """How much more `ours` costs than `peer`, at the median."""
    cpu, other = ours.cpu_p50(), peer.cpu_p50()
    return Row(
        name="difference",
        n=min(ours.n, peer.n),
        value=(ours.p50() - peer.p50()) * 1e3,
        cpu=None if cpu is None or other is None else (cpu - other) * 1e3,
        bars=bars,
    )


def table(reports: Sequence[Report]) -> Table:
    made = Table(box=None, pad_edge=False)
    made.add_column("")
    for heading in ("n", "p50", "p99", "CPU/call", "bar"):
        made.add_column(heading, justify="right", no_wrap=True)
    for report in reports:
        made.add_row(f"[bold]{report.title}[/]", end_section=False)
        for row in report.rows:
            made.add_row(f"  {row.name}", *_cells(row), f"[{_colour(row)}]{_verdict(row)}[/]")
        made.add_row("")
    return made


def _cells(row: Row) -> tuple[str, str, str, str]:
    return (
        str(row.n),
        _shown(row.value, row.unit),
        "" if row.p99 is None else _shown(row.p99, row.unit),
        "" if row.cpu is None else _shown(row.cpu, row.unit),
    )


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return "not measured"
    if not unit:
        return f"{value:.0f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def _verdict(row: Row) -> str:
    if not row.bars:
        return ""
    limits = ", ".join(f"{_LABELS[m]} ≤ {limit:g}" for m, limit in row.bars.items())
    limits = limits if row.unit == "ms" else limits.removeprefix("p50 ")
    return f"{limits} {'missed' if row.missed() else 'met'}"


def _colour(row: Row) -> str:
    return "red" if row.missed() else "green"


def found(report: Report) -> Table:
    """Cases, ours and those of others side by side."""
    made = Table(title=report.title, title_justify="left", box=None, pad_edge=False)
    columns = ["", "lap-mcp", *report.findings[0].peers]
    for heading in columns:
        made.add_column(heading)
    for case in report.findings:
        both = [(case.right, case.seen), *case.peers.values()]
        words = [
            f"[{'green' if right else 'red'}]{_judged(right, seen)}[/]" for right, seen in both
        ]
        made.add_row(case.name, *words)
    return made


def _judged(right: bool, seen: str) -> str:
    return f"{'right' if right else 'wrong'}: {seen}"


def show(reports: Sequence[Report], console: Console) -> None:
    if any(report.rows for report in reports):
        console.print(table([report for report in reports if report.rows]))
    for report in reports:
        if report.findings:
            console.print(found(report))
    for report in reports:
        if report.note:
            console.print(f"[dim]{report.title}: {report.note}[/]")


def as_json(reports: Sequence[Report], facts: Mapping[str, Any]) -> dict[str, Any]:
    missed = [words for report in reports for words in report.missed()]
    return {"facts": dict(facts), "reports": [asdict(r) for r in reports], "missed": missed}


def as_markdown(reports: Sequence[Report]) -> str:
    lines = []
    for report in reports:
        lines += [f"### {report.title}", ""]
        lines += [report.note, ""] if report.note else []
        if report.findings:
            lines += [*_cases(report), ""]
            continue
        lines += ["| | n | p50 | p99 | CPU/call | bar |", "|---|--:|--:|--:|--:|--:|"]
        for row in report.rows:
            lines.append(f"| {row.name} | {' | '.join(_cells(row))} | {_verdict(row)} |")
        lines.append("")
    return "\n".join(lines)


def _cases(report: Report) -> list[str]:
    heads = ["", "lap-mcp", *report.findings[0].peers]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for case in report.findings:
        both = [(case.right, case.seen), *case.peers.values()]
        lines.append(f"| {case.name} | {' | '.join(_judged(*each) for each in both)} |")
    return lines
