"""`scripts/demo`: what a new user sees first."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.capabilities import ROOT

DEADLINE = 300.0
"""Seconds: a guard against hanging."""


def run_demo(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env: Mapping[str, str] = {**os.environ, "COLUMNS": "100", **environment}
    return subprocess.run(
        [ROOT / "scripts" / "demo"],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@pytest.mark.docker
def test_it_shows_everything_and_saves_the_plot_without_overwriting(tmp_path: Path) -> None:
    """In the current folder, under a name that is said."""
    (tmp_path / "demo-plot.png").write_text("mine")

    done = run_demo(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout
    lines = ("code_interpreter", "Tuesday", "north", "KeyError", "6 rows", "claude mcp add --scope")
    for words in lines:
        assert words in shown
    assert (tmp_path / "demo-plot.png").read_text() == "mine"
    assert (tmp_path / "demo-plot-2.png").read_bytes().startswith(b"\x89PNG")
    assert "demo-plot-2.png" in shown
    assert sorted(p.name for p in tmp_path.iterdir()) == ["demo-plot-2.png", "demo-plot.png"]


@pytest.mark.bubblewrap
def test_without_an_engine_it_shows_everything_too(tmp_path: Path) -> None:
    done = run_demo(tmp_path, DOCKER_HOST=f"unix://{tmp_path}/absent.sock")

    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("code_interpreter", "Tuesday", "north", "KeyError", "6 rows"):
        assert words in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["demo-plot.png"]


def test_with_nothing_that_runs_python_it_does_the_rest_and_says_what_to_install(
    tmp_path: Path,
) -> None:
    absent = f"unix://{tmp_path}/absent.sock"
    done = run_demo(tmp_path, DOCKER_HOST=absent, LAP_SANDBOX__LAUNCHER="docker")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tuesday" in done.stdout
    assert "apt install bubblewrap, or docker.io" in done.stdout
    assert "claude mcp add --scope user lap -- /" in done.stdout
    assert list(tmp_path.iterdir()) == []
