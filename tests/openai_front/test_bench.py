"""The benchmark of this face runs and says what it measured.  How fast it is, no test asks."""

from __future__ import annotations

import pytest

from benchmarks.openai_front.cases import CASES
from tests.test_benchmarks import bench, rows


def test_the_benchmark_measures_what_a_passed_on_request_costs() -> None:
    found = rows(bench("openai-front-passing", "-n", "3", "--no-peers"))
    assert set(found) == {
        f"openai-front-{k}" for k in ("plain", "first", "stream", "many", "memory")
    }
    direct, ours, added = found["openai-front-plain"]
    assert added["value"] == pytest.approx(ours["value"] - direct["value"])
    assert added["bars"] == {"value": 1.5}
    assert found["openai-front-memory"][0]["value"] > 10


@pytest.mark.docker
def test_the_thirteen_cases_are_right_with_a_real_sandbox() -> None:
    found = bench("openai-front-cases", "--no-peers")
    (report,) = found["reports"]
    assert [each["name"] for each in report["findings"]] == [case.name for case in CASES]
    assert {each["name"]: each["seen"] for each in report["findings"] if not each["right"]} == {}
    assert found["missed"] == []


@pytest.mark.docker
def test_a_round_of_code_is_measured_beside_the_code_by_itself() -> None:
    calls, alone, ours, added = rows(bench("openai-front-code", "-n", "3", "--no-peers"))[
        "openai-front-code"
    ]
    assert added["value"] == pytest.approx(ours["value"] - calls["value"] - alone["value"])
