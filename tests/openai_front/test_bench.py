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


def test_a_message_passed_on_is_measured_beside_the_models_server() -> None:
    found = rows(bench("anthropic-front-passing", "-n", "3"))["anthropic-front-passing"]
    direct, ours, added, *streamed = found
    assert added["value"] == pytest.approx(ours["value"] - direct["value"])
    assert added["bars"] == {"value": 1.5}
    assert len(streamed) == 3


@pytest.mark.docker
def test_a_round_of_code_through_messages_is_measured() -> None:
    found = rows(bench("anthropic-front-code", "-n", "3"))["anthropic-front-code"]
    calls, alone, ours, added = found
    assert added["value"] == pytest.approx(ours["value"] - calls["value"] - alone["value"])
    assert added["bars"] == {"value": 4.0}


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
