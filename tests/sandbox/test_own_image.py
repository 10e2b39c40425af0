"""The image of one's own that docs/sandbox.md describes, built as it says and used."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from lap_sandbox.base import Sandbox

from tests.capabilities import ROOT
from tests.sandbox.conftest import MakeLauncher
from tests.sandbox.pool import SMALL

pytestmark = [pytest.mark.anyio, pytest.mark.docker, pytest.mark.tier2]

BUILD_SECONDS = 900


def _written() -> str:
    """The Dockerfile of the page."""
    page = (ROOT / "docs" / "sandbox.md").read_text(encoding="utf-8")
    found = re.findall(r"```dockerfile\n(.*?)```", page, re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def _build(context: Path, tag: str) -> None:
    """Also what the page leaves to its reader: the wheels."""
    (context / "Dockerfile").write_text(_written())
    wheels = ("--only-binary", ":all:", "--python-version", "3.11", "--dest", context / "wheels")
    download = [sys.executable, "-m", "pip", "download", "-q", *wheels, "polars"]
    build = ["docker", "build", "-q", "--network", "host", "-t", tag, context]
    for command in (download, build):
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
async def own(make_launcher: MakeLauncher, instance: str, tmp_path: Path) -> AsyncIterator[Sandbox]:
    """A sandbox of such an image."""
    await make_launcher()  # the image that it begins with is current
    tag = f"lap-own:{instance}"
    await anyio.to_thread.run_sync(_build, tmp_path, tag)
    try:
        launcher = await make_launcher(image=tag)
        yield await launcher.open(SMALL)
        await launcher.aclose()
    finally:
        remove = partial(subprocess.run, ["docker", "rmi", "-f", tag], capture_output=True)
        await anyio.to_thread.run_sync(remove)


async def test_the_image_that_the_page_describes_can_be_built_and_has_what_was_added(
    own: Sandbox,
) -> None:
    added = await own.execute("import polars; polars.DataFrame({'a': [1, 2]}).sum()", timeout=60)
    assert added.status == "ok", added
    assert "3" in str(added.value)
    rest = "import numpy, os; os.getuid() > 0, os.path.exists('/opt/lap/venv/bin/pip')"
    assert (await own.execute(rest, timeout=60)).value == "(True, False)"
