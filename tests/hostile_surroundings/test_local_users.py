"""What another user of the machine, or a folder that was once open to all, can do to a key."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lap_mcp.commands.keys import make_key, read_key
from lap_mcp.config import make_private_folder
from lap_mcp.errors import ConfigError
from tests.lap_mcp.user import SCRIPT, User

KEY = "lap_" + "x" * 43


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "data"
    make_private_folder(home)
    return home


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_key_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        key = make_key(tmp_path / "data")
    finally:
        os.umask(before)
    mode = (tmp_path / "data/serve.key").stat().st_mode
    assert stat.S_IMODE(mode) & 0o177 == 0
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) & 0o077 == 0
    assert len(key) > 40


def test_a_key_of_somebody_else_is_none(home: Path) -> None:
    """A link, a pipe that nobody writes to (it must not hang), a device, a folder."""
    file = home / "serve.key"
    elsewhere = home.parent / "elsewhere"
    elsewhere.write_text(KEY)
    elsewhere.chmod(0o600)

    def link() -> None:
        file.symlink_to(elsewhere)

    def pipe() -> None:
        os.mkfifo(file, 0o600)

    def folder() -> None:
        file.mkdir(mode=0o700)

    for plant in (link, pipe, folder):
        plant()
        for take in (read_key, make_key):
            with pytest.raises(ConfigError, match="keys rotate"):
                take(home)
        if file.is_dir():
            file.rmdir()
        else:
            file.unlink()
    file.write_text(KEY)
    file.chmod(0o600)
    assert read_key(home) == KEY


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a file to another user")
def test_a_key_that_belongs_to_another_user_is_none(home: Path) -> None:
    file = home / "serve.key"
    file.write_text(KEY)
    file.chmod(0o600)
    os.chown(file, 65534, 65534)
    with pytest.raises(ConfigError, match="keys rotate"):
        read_key(home)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a folder to another user")
def test_a_folder_of_another_user_is_not_used_also_not_through_a_link(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    os.chown(other, 65534, 65534)
    (tmp_path / "link").symlink_to(other)
    for folder in (other, tmp_path / "link"):
        with pytest.raises(ConfigError, match="belongs to another user"):
            make_key(folder)
    assert list(other.iterdir()) == []


def test_a_folder_that_was_open_is_closed_before_anything_is_written(user: User) -> None:
    user.data.mkdir(parents=True, mode=0o777)
    user.data.chmod(0o777)
    server = user.stdio()
    server.tools()
    assert server.end() == 0
    assert stat.S_IMODE(user.data.stat().st_mode) == 0o700


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_the_key_is_in_no_argument_and_no_variable_of_the_server(user: User) -> None:
    process = user.started.start(
        [SCRIPT, "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=user.project,
        env=user.environ,
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    key = (user.data / "serve.key").read_bytes().strip()
    seen = [Path(f"/proc/{process.pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
    process.terminate()
    rest, errors = process.communicate(timeout=30)
    for shown in (said, rest, errors, *seen):
        assert key not in shown
