"""`tests/sandbox/test_execution.py` once more, without a container engine."""

import pytest

from tests.sandbox.test_execution import *  # noqa: F403

pytestmark = [pytest.mark.anyio, pytest.mark.bubblewrap]
