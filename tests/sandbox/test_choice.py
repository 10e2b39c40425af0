"""`launcher = "auto"`: what is chosen, remembered and said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from lap_sandbox.base import Launcher, LauncherConfig, Limits
from lap_sandbox.bubblewrap import BubblewrapLauncher
from lap_sandbox.choice import ChosenLauncher
from lap_sandbox.docker_engine import DockerLauncher
from lap_sandbox.errors import LauncherUnavailable

pytestmark = pytest.mark.anyio

NO_ENGINE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
NO_BWRAP = {"PATH": "/nowhere"}


def chosen(home: Path, *, engine: bool, bwrap: bool) -> ChosenLauncher:
    """With an engine, and with bubblewrap, or where neither can be found."""
    config = LauncherConfig(warm=0)
    docker: Mapping[str, str] = {} if engine else NO_ENGINE
    path: Mapping[str, str] = {} if bwrap else NO_BWRAP
    return ChosenLauncher(
        {
            "docker": lambda: DockerLauncher(config, docker, home),
            "bubblewrap": lambda: BubblewrapLauncher(config, path, home),
        },
        home / "choice",
        Limits(),
    )


@pytest.mark.docker
async def test_an_engine_that_answers_is_taken(tmp_path: Path) -> None:
    launcher = chosen(tmp_path, engine=True, bwrap=True)
    assert isinstance(launcher, Launcher)
    assert launcher.name == "auto"
    await launcher.choose()
    assert launcher.name == "docker"
    assert (tmp_path / "choice").read_text() == "docker\n"
    await launcher.aclose()


@pytest.mark.bubblewrap
async def test_bubblewrap_is_taken_where_no_engine_answers_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launcher = chosen(tmp_path, engine=False, bwrap=True)
    await launcher.choose()
    assert launcher.name == "bubblewrap"
    assert "sandboxes are made by bubblewrap" in caplog.text
    assert "unix:///nowhere/docker.sock" in caplog.text
    await launcher.aclose()


@pytest.mark.docker
@pytest.mark.bubblewrap
async def test_a_choice_is_kept_when_an_engine_appears(tmp_path: Path) -> None:
    first = chosen(tmp_path, engine=False, bwrap=True)
    await first.choose()
    await first.aclose()
    later = chosen(tmp_path, engine=True, bwrap=True)
    check = (await later.preflight())[0]
    assert (check.name, check.level) == ("launcher", "ok")
    assert "decided earlier" in check.words
    assert str(tmp_path / "choice") in check.words
    await later.choose()
    assert later.name == "bubblewrap"
    await later.aclose()


@pytest.mark.bubblewrap
async def test_an_engine_that_was_chosen_and_is_down_is_an_error_with_its_remedy(
    tmp_path: Path,
) -> None:
    (tmp_path / "choice").write_text("docker\n")
    launcher = chosen(tmp_path, engine=False, bwrap=True)
    for attempt in (launcher.prepare, lambda: launcher.open(Limits())):
        with pytest.raises(LauncherUnavailable) as refused:
            await attempt()
        assert "made by docker so far" in refused.value.message
        assert "DOCKER_HOST" in refused.value.remedy
        assert 'launcher = "bubblewrap"' in refused.value.remedy
    assert launcher.preparation().error is not None
    assert any(check.level == "error" for check in await launcher.preflight())
    await launcher.aclose()


async def test_where_nothing_works_each_is_named_with_how_to_get_it(tmp_path: Path) -> None:
    launcher = chosen(tmp_path, engine=False, bwrap=False)
    with pytest.raises(LauncherUnavailable) as refused:
        await launcher.prepare()
    error = launcher.preparation().error or ""
    for words in ("No container engine answers", "docs.docker.com", "ubblewrap"):
        assert words in str(refused.value)
        assert words in error
    assert not (tmp_path / "choice").exists()
    assert {check.level for check in await launcher.preflight()} == {"error"}
    await launcher.aclose()


@pytest.mark.bubblewrap
async def test_looking_decides_nothing(tmp_path: Path) -> None:
    launcher = chosen(tmp_path, engine=False, bwrap=True)
    levels = {check.name: check.level for check in await launcher.preflight()}
    assert (levels["launcher"], levels["engine"]) == ("ok", "warning")
    assert await launcher.running() == []
    assert await launcher.reap() == 0
    assert not (tmp_path / "choice").exists()
    await launcher.aclose()


async def test_a_memory_that_makes_no_sense_is_no_choice(tmp_path: Path) -> None:
    (tmp_path / "choice").write_bytes(b"\xffanything")
    launcher = chosen(tmp_path, engine=False, bwrap=False)
    with pytest.raises(LauncherUnavailable, match="No container engine answers"):
        await launcher.choose()
    await launcher.aclose()
