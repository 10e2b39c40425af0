"""The benchmark of this face runs and says what it measured.  How fast it is, no test asks."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.openai_front.cases import CASES
from tests.test_benchmarks import bench, rows


@pytest.fixture(scope="module")
def passing() -> dict[str, list[dict[str, Any]]]:
    """Both faces in one run: setting up takes longer than measuring."""
    names = ("openai-front-passing", "anthropic-front-passing")
    return rows(bench(*names, "-n", "3", "--no-peers"))


@pytest.fixture(scope="module")
def rounds() -> dict[str, list[dict[str, Any]]]:
    return rows(bench("openai-front-code", "anthropic-front-code", "-n", "3", "--no-peers"))


def test_the_benchmark_measures_what_a_passed_on_request_costs(
    passing: dict[str, list[dict[str, Any]]],
) -> None:
    found = passing
    assert set(found) == {
        *(f"openai-front-{k}" for k in ("plain", "first", "stream", "many", "memory")),
        "anthropic-front-passing",
    }
    direct, ours, added = found["openai-front-plain"]
    assert added["value"] == pytest.approx(ours["value"] - direct["value"])
    assert added["bars"] == {"value": 1.5}
    assert found["openai-front-memory"][0]["value"] > 10


def test_a_message_passed_on_is_measured_beside_the_models_server(
    passing: dict[str, list[dict[str, Any]]],
) -> None:
    direct, ours, added, *streamed = passing["anthropic-front-passing"]
    assert added["value"] == pytest.approx(ours["value"] - direct["value"])
    assert added["bars"] == {"value": 1.5}
    assert len(streamed) == 3


@pytest.mark.docker
def test_a_round_of_code_through_messages_is_measured(
    rounds: dict[str, list[dict[str, Any]]],
) -> None:
    calls, alone, ours, added = rounds["anthropic-front-code"]
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
def test_a_round_of_code_is_measured_beside_the_code_by_itself(
    rounds: dict[str, list[dict[str, Any]]],
) -> None:
    calls, alone, ours, added = rounds["openai-front-code"]
    assert added["value"] == pytest.approx(ours["value"] - calls["value"] - alone["value"])
