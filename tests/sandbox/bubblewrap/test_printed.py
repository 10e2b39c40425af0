"""`tests/sandbox/test_printed.py` once more, without a container engine."""

import pytest

from tests.sandbox.test_printed import *  # noqa: F403

pytestmark = [pytest.mark.anyio, pytest.mark.bubblewrap]
