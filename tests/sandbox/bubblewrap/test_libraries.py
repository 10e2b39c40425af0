"""The environment has the packages of the image."""

import pytest
from lap_sandbox.base import Sandbox

from tests import libraries


@pytest.mark.anyio
@pytest.mark.bubblewrap
async def test_a_sandbox_has_what_the_requirements_pin_and_nothing_else(sandbox: Sandbox) -> None:
    assert await libraries.installed(sandbox) == libraries.WANTED["core"]
