"""`tests/sandbox/test_contract.py` once more, without a container engine."""

import pytest

from tests.sandbox.pool import Pool
from tests.sandbox.test_contract import *  # noqa: F403

pytestmark = [pytest.mark.anyio, pytest.mark.bubblewrap]


@pytest.fixture
def source(pool: Pool) -> Pool:
    return pool
