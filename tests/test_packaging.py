"""The wheel: what a person without a clone installs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.capabilities import ROOT

DATA = [
    "lap_sandbox/image/Dockerfile",
    "lap_mcp/py.typed",
    "lap_runtimes/py.typed",
    "lap_sandbox/py.typed",
]
"""Files that are not Python and without which nothing works."""

IMPORT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import lap_mcp.cli, lap_runtimes.base, lap_sandbox.base
print(json.dumps([m.__file__ for m in (lap_mcp.cli, lap_runtimes.base, lap_sandbox.base)]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_every_module_and_data_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        path.relative_to(parent).as_posix()
        for parent, package in (
            (ROOT, "lap_mcp"),
            (ROOT / "runtimes", "lap_runtimes"),
            (ROOT / "sandbox", "lap_sandbox"),
        )
        for path in (parent / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources - packed == set()
    assert set(DATA) - packed == set()


def test_the_wheel_is_imported_from_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    """Also in a folder that has `lap_mcp`, `runtimes` and `sandbox` of its own."""
    site, project = tmp_path / "site", tmp_path / "project"
    zipfile.ZipFile(wheel).extractall(site)
    for name in ("lap_mcp", "runtimes", "sandbox", "lap_sandbox"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("raise SystemExit('a stranger was imported')")
    done = subprocess.run(
        [sys.executable, "-I", "-c", IMPORT, str(site)],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [Path(file).is_relative_to(site) for file in json.loads(done.stdout)] == [True] * 3


def test_the_wheel_names_the_commands_and_the_runtimes(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (entries,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
    text = archive.read(entries).decode()
    assert "lap-mcp = lap_mcp.cli:main" in text
    for kind in ("a2a", "openai_responses", "http"):
        assert f"\n{kind} = lap_runtimes." in text


def test_the_constraints_hold_every_dependency_at_a_version_and_nothing_else() -> None:
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    pinned = re.compile(r"(?P<name>[a-z0-9-]+)==[0-9][\w.+]*( ; .+)?")
    matches = [pinned.fullmatch(line) for line in lines]
    assert [line for line, match in zip(lines, matches, strict=True) if match is None] == []
    names = {match["name"] for match in matches if match}
    assert direct_dependencies() - names == set(), "run scripts/constraints"


def direct_dependencies() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = list(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    for group in project["dependency-groups"].values():
        wanted += (entry for entry in group if isinstance(entry, str))
    found = (re.match(r"[A-Za-z0-9._-]+", each) for each in wanted)
    names = {match[0].lower().replace("_", "-") for match in found if match}
    return names - {project["project"]["name"]}
