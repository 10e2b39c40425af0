"""docs/libraries.md says what is in the image."""

from __future__ import annotations

import pytest
from lap_sandbox.base import Sandbox

from tests import libraries
from tests.capabilities import ROOT

DOCUMENT = (ROOT / "docs" / "libraries.md").read_text(encoding="utf-8")


@pytest.mark.anyio
@pytest.mark.docker
async def test_the_document_lists_what_a_sandbox_has(sandbox: Sandbox) -> None:
    """`scripts/libraries` writes it anew."""
    found = await libraries.installed(sandbox)
    assert libraries.render(found, libraries.WANTED["full"]) == DOCUMENT


@pytest.mark.anyio
@pytest.mark.docker
async def test_a_sandbox_has_what_the_requirements_pin_and_nothing_else(sandbox: Sandbox) -> None:
    assert await libraries.installed(sandbox) == libraries.WANTED["core"]
