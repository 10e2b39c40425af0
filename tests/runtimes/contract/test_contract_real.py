"""The contract suite again, with the real servers of other projects (tier 2)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runtimes.contract import test_contract
from tests.runtimes.real_cases import REAL_CASES, RUNNING, RealCase

pytestmark = [pytest.mark.anyio, pytest.mark.tier2]

globals().update({k: v for k, v in vars(test_contract).items() if k.startswith("test_")})


@pytest.fixture(scope="module", params=REAL_CASES, ids=lambda case: case.id)
def running(request: pytest.FixtureRequest) -> Iterator[RealCase]:
    """One server at a time, for all tests of its case."""
    case: RealCase = request.param
    with case.server() as real:
        RUNNING[case.server] = real
        try:
            yield case
        finally:
            del RUNNING[case.server]


@pytest.fixture
def case(running: RealCase) -> RealCase:
    return running
