"""The official conformance suite against our own face, over HTTP."""

from __future__ import annotations

import pytest

from tests.conformance import suite

pytestmark = pytest.mark.conformance


@pytest.fixture(scope="module")
def conformance_suite() -> None:
    suite.install()


@pytest.mark.parametrize("leg", suite.LEGS, ids=lambda leg: leg.name)
def test_every_check_of_the_official_suite_passes(leg: suite.Leg, conformance_suite: None) -> None:
    with suite.serving() as address:
        outcome = suite.run(leg, address)
    assert (outcome.passed, outcome.failed) == (leg.checks, 0), outcome.output[-6000:]
