"""The benchmark of this face runs and says what it measured.  How fast it is, no test asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.capabilities import ROOT


def test_the_benchmark_measures_what_a_passed_on_request_costs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.openai_front", "-n", "20", "--no-code", "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(("", "runtimes", "sandbox"))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["n"] for row in found["rows"]] == [20, 20, 20]
    assert found["rss_mib"] > 10
