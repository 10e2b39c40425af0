"""What a machine lacks is skipped with its remedy, or fails where LAP_TEST_REQUIRE asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.capabilities import ROOT

NEEDS_POSTGRES = """
import pytest

@pytest.mark.postgres
def test_that_needs_a_server():
    assert True
"""


def run_pytest(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    file = folder / "test_needs.py"
    file.write_text(NEEDS_POSTGRES)
    env = {k: v for k, v in os.environ.items() if not k.startswith("LAP_TEST_")}
    paths = [ROOT, ROOT / "runtimes", ROOT / "sandbox"]
    env["PYTHONPATH"] = os.pathsep.join(str(path) for path in paths)
    options = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), "-p", "tests.conftest"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", str(file)],
        cwd=folder,
        env={**env, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_is_lacking_is_skipped_with_how_to_get_it(tmp_path: Path) -> None:
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 skipped" in done.stdout
    assert "apt install postgresql" in done.stdout


def test_what_is_required_and_lacking_fails_with_how_to_get_it(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, LAP_TEST_REQUIRE="docker,postgres")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "LAP_TEST_REQUIRE=postgres" in done.stdout
    assert "apt install postgresql" in done.stdout


def test_what_is_there_is_run(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path, LAP_TEST_REQUIRE="postgres", LAP_TEST_POSTGRES="postgresql+asyncpg://x/y"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("required", ["postgress", "docker,node"])
def test_a_requirement_that_nothing_checks_is_refused(tmp_path: Path, required: str) -> None:
    done = run_pytest(tmp_path, LAP_TEST_REQUIRE=required)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "known: docker, bubblewrap, postgres, harness, conformance" in done.stderr
