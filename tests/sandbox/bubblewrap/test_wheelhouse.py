"""`tests/sandbox/test_wheelhouse.py` once more, without a container engine."""

import _bisect
from pathlib import Path

import pytest

from tests.sandbox.bubblewrap.conftest import MakeLauncher
from tests.sandbox.pool import SMALL
from tests.sandbox.test_wheelhouse import (
    house,
    test_a_package_and_what_it_needs_are_installed_without_a_network,
    test_the_wheelhouse_cannot_be_written,
)
from tests.sandbox.wheels import make_wheel

__all__ = [
    "house",
    "test_a_package_and_what_it_needs_are_installed_without_a_network",
    "test_the_wheelhouse_cannot_be_written",
]

EXTENSION = Path(_bisect.__file__)
EXTENSION_BYTES = EXTENSION.read_bytes()
pytestmark = [pytest.mark.anyio, pytest.mark.bubblewrap]


async def test_an_extension_module_can_be_loaded(
    make_launcher: MakeLauncher, tmp_path: Path
) -> None:
    """Which it could not from a folder that the sandbox writes itself."""
    source = EXTENSION
    house = tmp_path / "house"
    house.mkdir()
    make_wheel(house, "ext", "1", {f"ext/{source.name}": EXTENSION_BYTES})
    box = await (await make_launcher(wheelhouse=house, cache=tmp_path / "cache")).open(SMALL)
    load = (
        "import importlib.util, shutil\n"
        "def load(path):\n"
        "    spec = importlib.util.spec_from_file_location('_bisect', path)\n"
        "    module = importlib.util.module_from_spec(spec)\n"
        "    spec.loader.exec_module(module)\n"
        "    return module.bisect_left([1, 2, 3], 2)\n"
        f"there = '/mnt/wheelhouse/ext-1-py3-none-any/ext/{source.name}'\n"
    )
    assert (await box.execute(f"{load}load(there)", timeout=30)).value == "1"
    copied = await box.execute("load(shutil.copy(there, '/mnt/data'))", timeout=30)
    assert copied.error is not None
    assert "failed to map" in copied.error.value
