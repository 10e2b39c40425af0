"""The benchmarks run and say what they measured.  How fast anything is, no test asks."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import measure, report
from tests.capabilities import ROOT

DEADLINE = 240


def bench(*arguments: str) -> dict[str, Any]:
    """The JSON of one run; whether bars are met does not matter here."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--json", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(("", "runtimes", "sandbox"))},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 1) == bool(found["missed"])
    return found


def rows(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    shown = {entry["key"]: entry["rows"] for entry in found["reports"]}
    for row in (row for entry in shown.values() for row in entry):
        assert row["n"] > 0
        assert math.isfinite(row["value"])
    return shown


def test_start_and_memory_are_measured_beside_the_bare_server() -> None:
    found = rows(bench("startup", "-n", "1"))
    names = [row["name"] for row in found["startup"]]
    assert names[:2] == ["lap-mcp: server/discover", "bare SDK server: server/discover"]
    assert all(row["value"] > 0 for row in found["startup"] if row["name"] != "difference")
    assert all(row["value"] > 10 for row in found["memory"])


def test_an_agent_is_called_through_us_and_directly() -> None:
    ours, direct, difference = rows(bench("agent", "-n", "3"))["agent"]
    assert difference["value"] == pytest.approx(ours["value"] - direct["value"])
    assert difference["bars"] == {"value": 5.0}
    assert ours["cpu"] > 0


@pytest.mark.parametrize("kind", ["a2a", "agentcore", "responses"])
def test_a_runtime_is_called_by_our_engine_and_by_its_own_sdk(kind: str) -> None:
    ours, direct, difference, *stdio = rows(bench(f"runtimes-{kind}", "-n", "2"))[
        f"runtimes-{kind}"
    ]
    assert difference["value"] == pytest.approx(ours["value"] - direct["value"])
    assert difference["cpu"] == pytest.approx(ours["cpu"] - direct["cpu"])
    assert difference["bars"] == {"value": 5.0}
    assert len(stdio) == (2 if kind == "a2a" else 0)
    assert all(row["cpu"] > 0 for row in (ours, direct, *stdio[:1]))


def test_of_sessions_that_stream_at_once_nothing_is_lost() -> None:
    """This bar is not one of time, so it has to be met."""
    found = bench("runtimes-rush", "runtimes-rush-responses", "-n", "4")
    for measured in rows(found).values():
        values = {row["name"]: row["value"] for row in measured}
        assert values["sessions that miss anything"] == 0
        assert 1 <= values["sessions streaming at once, the most"] <= 4
        assert values["events and deltas a second"] > 0
    assert found["missed"] == []


@pytest.mark.anyio
async def test_a_server_that_cannot_be_had_is_skipped_in_words(tmp_path: Path) -> None:
    from benchmarks.runtimes.peers import Lacking
    from benchmarks.runtimes.rows import added
    from benchmarks.surroundings import Place

    @contextmanager
    def serve(place: Place) -> Iterator[Any]:
        raise Lacking("its environment could not be made: no index")
        yield

    where = Place(folder=tmp_path, config=tmp_path, agent="", image="", peers=False)
    (found,) = await added("x", "a server", serve, "its SDK")(where, 1)
    assert (found.rows, found.missed()) == ([], [])
    assert found.note == "Skipped: its environment could not be made: no index"


@pytest.mark.docker
def test_the_interpreter_is_measured_above_a_no_op_tool_over_both_transports() -> None:
    found = rows(bench("interpreter", "-n", "3"))
    assert set(found) == {
        f"interpreter-{transport}{client}"
        for transport in ("stdio", "http")
        for client in ("", "-plain")
    }
    for code, noop, difference in found.values():
        assert difference["cpu"] == pytest.approx(code["cpu"] - noop["cpu"])
        assert difference["bars"] == {"value": 1.0, "cpu": 0.5}


@pytest.mark.docker
def test_a_sandbox_is_measured_by_itself() -> None:
    (row,) = rows(bench("execute", "-n", "5"))["execute"]
    assert 0 < row["value"] <= row["p99"]


@pytest.mark.docker
def test_calls_that_are_cut_off_leave_nothing_behind() -> None:
    """This bar is not one of time, so it has to be met."""
    found = bench("endings", "-n", "8")
    assert set(rows(found)) == {"endings-cancelled", "endings-fleeting", "endings-interrupted"}
    assert found["missed"] == []


def test_an_unknown_benchmark_is_refused_with_the_names_of_those_there_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "starup"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 2
    assert "starup" in done.stderr
    assert "startup" in done.stderr


def samples(*milliseconds: float, cpu: float | None = None) -> measure.Samples:
    wall = [value / 1e3 for value in milliseconds]
    return measure.Samples(wall=wall, cpu=[] if cpu is None else [cpu / 1e3])


def test_a_percentile_is_one_of_the_values() -> None:
    assert measure.percentile([5, 1, 4, 2, 3], 0.99) == 5
    assert measure.percentile(list(range(1, 101)), 0.99) == 99
    assert measure.percentile([7], 0.5) == 7


def test_the_cpu_time_of_another_process_is_read_from_its_own_clock() -> None:
    busy = "import sys; sum(range(2_000_000)); print('done', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        used = measure.cpu_seconds(process.pid)
        assert 0.005 < used < 60
        assert measure.memory(process.pid)["Rss"] > 1


def test_a_bar_that_is_missed_is_named_and_one_that_is_met_is_not() -> None:
    bars: dict[report.Measure, float] = {"value": 1.0, "cpu": 0.5}
    slow = report.above(samples(3, 3, 3, cpu=0.6), samples(1, 1, 1, cpu=0.2), bars)
    fast = report.above(samples(1.5, cpu=0.6), samples(1, cpu=0.2), bars)
    unknown = report.above(samples(1.5), samples(1), bars)
    assert slow.missed() == ["p50 2.00 ms > 1"]
    assert fast.missed() == []
    assert unknown.missed() == ["CPU not measured > 0.5"]


def test_the_table_and_the_page_show_every_row(tmp_path: Path) -> None:
    made = report.Report(
        "key", "(9) a title", [report.timed("a row", samples(1, 2, 3), {"value": 1.5})], "A note."
    )
    console = Console(record=True, width=120, file=(tmp_path / "out").open("w"))
    with console.file:
        report.show([made], console)
    shown = console.export_text()
    page = report.as_markdown([made])
    for words in ("(9) a title", "a row", "2.00 ms", "3.00 ms", "p50 ≤ 1.5 missed", "A note."):
        assert words in shown
        assert words in page


@pytest.mark.docker
def test_rows_of_the_sandbox_that_need_no_peer_are_measured() -> None:
    found = rows(bench("sandbox-claim", "sandbox-churn", "-n", "1"))
    assert [row["bars"] for row in found["sandbox-claim"]] == [{"value": 12.0, "p99": 25.0}]
    left = {row["name"]: row["value"] for row in found["sandbox-churn"]}
    assert left["containers left"] == 0


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is missing: `scripts/setup bench`")
    from benchmarks import document

    made = report.Report("key", "(9) a title", [report.timed("a row", samples(1, 2, 3))])
    target = tmp_path / "plot.svg"
    document.plot([made], target)
    drawn = target.read_text()
    assert "(9) a title" in drawn
    assert "2.00 / 3.00" in drawn
