"""`%pip install` from a folder of wheels: unpacking, and installing without a network."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from lap_sandbox import wheelhouse
from lap_sandbox.base import Execution, Sandbox
from lap_sandbox.errors import LauncherUnavailable
from lap_sandbox.runner import wheels

from tests.sandbox.conftest import MakeLauncher
from tests.sandbox.pool import SMALL
from tests.sandbox.wheels import fill, make_wheel


@pytest.fixture
def house(tmp_path: Path) -> Path:
    folder = tmp_path / "house"
    folder.mkdir()
    fill(folder)
    return folder


def test_wheels_are_unpacked_once_and_again_when_one_changed(house: Path, tmp_path: Path) -> None:
    first = wheelhouse.mount(house, tmp_path / "cache")
    assert first.target == "/mnt/wheelhouse"
    assert (first.source / "seed-1.5-py3-none-any" / "seed.py").is_file()
    assert not list(first.source.rglob("*.data")), "neither scripts nor where they were"
    assert wheelhouse.mount(house, tmp_path / "cache") == first
    make_wheel(house, "plum", "1", {"plum.py": ""})
    second = wheelhouse.mount(house, tmp_path / "cache")
    assert second.source != first.source
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == sorted(
        [first.source.name, second.source.name]
    )


@pytest.mark.parametrize("name", ["../out.py", "/out.py", "a/../../out.py", "a\\..\\out.py"])
def test_a_wheel_whose_names_lead_out_is_refused(name: str, house: Path, tmp_path: Path) -> None:
    make_wheel(house, "bad", "1", {name: "x"})
    with pytest.raises(LauncherUnavailable, match="leads out"):
        wheelhouse.mount(house, tmp_path / "cache")
    assert not [p for p in tmp_path.rglob("out.py") if p.is_file()]
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wheel_that_is_none_and_a_folder_without_any_are_said(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(LauncherUnavailable, match="no wheel in it") as refused:
            wheelhouse.mount(folder, tmp_path / "cache")
        assert "pip download" in refused.value.remedy
    (tmp_path / "a-1-py3-none-any.whl").write_bytes(b"no zip")
    with pytest.raises(LauncherUnavailable, match="cannot be unpacked"):
        wheelhouse.mount(tmp_path, tmp_path / "cache")


def test_a_wheel_that_unpacks_into_too_much_is_refused(
    house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheelhouse, "MOST", 2_000_000)
    with zipfile.ZipFile(house / "bomb-1-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("zeros.py", bytes(3_000_000))
    with pytest.raises(LauncherUnavailable, match="too large"):
        wheelhouse.mount(house, tmp_path / "cache")


def test_lines_keep_their_numbers_when_they_become_calls() -> None:
    code = "import os\n  %pip install 'a>=1' \n!pip3 install b\nx = 5 % pip\n"
    assert wheels.translate(code).splitlines() == [
        "import os",
        "  __pip__(\"install 'a>=1'\")",
        "__pip__('install b')",
        "x = 5 % pip",
    ]


async def run(sandbox: Sandbox, code: str) -> Execution:
    return await sandbox.execute(code, timeout=30)


@pytest.mark.anyio
@pytest.mark.docker
async def test_a_package_and_what_it_needs_are_installed_without_a_network(
    make_launcher: MakeLauncher, house: Path, tmp_path: Path
) -> None:
    launcher = await make_launcher(wheelhouse=house, cache=tmp_path / "cache")
    box = await launcher.open(SMALL)
    done = await run(box, "%pip install -q apple\nimport apple\napple.taste")
    assert done.value == "'sweet'", done
    assert "Installed apple 2.0." in done.stdout
    assert "Installed seed 1.5." in done.stdout
    assert "worm" not in done.stdout
    child = "import subprocess, sys\n"
    child += "subprocess.run([sys.executable, '-c', 'import apple; print(apple.taste)'])\n"
    assert "sweet" in (await run(box, child)).stdout
    again = await run(box, "!pip install apple[bad] numpy>=2\nimport worm")
    assert again.error is None, again
    assert "Installed worm 1." in again.stdout
    assert "numpy" not in again.stdout, "it is there"
    await box.reset()
    older = await run(box, "if True:\n    %pip install apple<2\nimport apple\napple.taste")
    assert older.value == "'old'", older


@pytest.mark.anyio
@pytest.mark.docker
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("%pip install cherry", "has no cherry for this Python. It has: apple, pear, seed, worm"),
        ("%pip install pear", "has no pear for this Python"),
        ("%pip install apple>3", "has no apple>3"),
        ("%pip install ../apple", "is no name of a package"),
        ("%pip install apple@https://example.com/a.whl", "no network"),
        ("%pip install --target x apple", "takes no --target"),
        ("%pip install", "takes no less"),
        ("%pip uninstall apple", "Only `%pip install NAME…`"),
        ("for", "invalid syntax"),
    ],
)
async def test_what_cannot_be_installed_is_said_in_words(
    line: str, says: str, make_launcher: MakeLauncher, house: Path, tmp_path: Path
) -> None:
    launcher = await make_launcher(wheelhouse=house, cache=tmp_path / "cache")
    box = await launcher.open(SMALL)
    done = await run(box, line)
    assert done.error is not None
    assert says in done.error.traceback
    assert (await run(box, "1 + 1")).value == "2"


@pytest.mark.anyio
@pytest.mark.docker
async def test_the_wheelhouse_cannot_be_written(
    make_launcher: MakeLauncher, house: Path, tmp_path: Path
) -> None:
    launcher = await make_launcher(wheelhouse=house, cache=tmp_path / "cache")
    box = await launcher.open(SMALL)
    done = await run(box, "open('/mnt/wheelhouse/apple-2.0-py3-none-any/apple.py', 'w')")
    assert done.error is not None
    assert "Read-only" in done.error.value
