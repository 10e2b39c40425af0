"""`tests/sandbox/test_ipython.py` once more, without a container engine."""

import pytest

from tests.sandbox.test_ipython import *  # noqa: F403

pytestmark = [pytest.mark.anyio, pytest.mark.bubblewrap]
