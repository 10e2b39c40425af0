"""`[sandbox] mounts`: folders that sandboxes may read, and those that they never may."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from lap_mcp.config import Config, SecretResolver, Surroundings, load_config
from lap_mcp.sandbox_parts import sandbox_mounts
from lap_mcp.scrub import Scrubber


def read(tmp_path: Path, name: str, source: str, **environ: str) -> Config:
    home = tmp_path / "home" / "me"
    home.mkdir(parents=True, exist_ok=True)
    file = tmp_path / "lap.toml"
    file.write_text(f'[sandbox]\nmounts = {{ "{name}" = "{source}" }}\n')
    file.chmod(0o600)
    values = {"LAP_HOME": str(tmp_path / "lap-home"), **environ}
    here = Surroundings(environ=values, home=home, folder=tmp_path)
    return load_config(here, SecretResolver(values, home, Scrubber()), option=str(file))


def test_a_plain_folder_is_mounted_as_what_it_is_without_links(tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    (tmp_path / "link").symlink_to("reference")

    config = read(tmp_path, "ref", str(tmp_path / "link"))

    assert config.faults == ()
    (mount,) = sandbox_mounts(config)
    assert (mount.source, mount.target) == (tmp_path / "reference", "/mnt/ref")


def test_a_folder_in_the_home_folder_is_allowed_and_a_hidden_one_is_not(tmp_path: Path) -> None:
    for name in ("data", ".ssh", ".config/x"):
        (tmp_path / "home" / "me" / name).mkdir(parents=True)

    assert read(tmp_path, "ref", "~/data").faults == ()
    assert "hidden" in read(tmp_path, "ref", "~/.ssh").faults[0].message
    assert "hidden" in read(tmp_path, "ref", "~/.config/x").faults[0].message


@pytest.mark.parametrize(
    "source",
    ["/", "/etc", "/proc", "/proc/self", "/sys", "/dev", "/run", "/var/run", "/var", "/root",
     "relative", "", "/nowhere/at/all", "/etc/passwd", "/proc/self/root", "/dev/shm/../.."],
)  # fmt: skip
def test_what_holds_the_keys_to_the_machine_is_refused(tmp_path: Path, source: str) -> None:
    config = read(tmp_path, "ref", source)
    assert len(config.faults) == 1
    assert config.faults[0].key == "sandbox.mounts.ref"
    assert sandbox_mounts(config) == []


def test_homes_and_what_is_around_and_in_them_are_refused(tmp_path: Path) -> None:
    inner = tmp_path / "lap-home" / "blobs"
    inner.mkdir(parents=True)
    for source in (tmp_path, tmp_path / "home", tmp_path / "home" / "me", inner, inner.parent):
        assert len(read(tmp_path, "ref", str(source)).faults) == 1, source
    around = tmp_path / "way"
    around.symlink_to("home")
    assert len(read(tmp_path, "ref", str(around)).faults) == 1


def test_the_engines_socket_is_never_in_a_mounted_folder(tmp_path: Path) -> None:
    folder = tmp_path / "engine" / "deep"
    folder.mkdir(parents=True)
    host = f"unix://{folder}/docker.sock"
    named = read(tmp_path, "e", str(tmp_path / "engine"), DOCKER_HOST=host)
    assert "socket" in named.faults[0].message

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "x"))
        assert "socket" in read(tmp_path, "e", str(tmp_path / "engine")).faults[0].message


@pytest.mark.parametrize("name", ["data", "..", "a/b", "", "A", "x" * 33, "a b"])
def test_a_name_that_is_no_folder_of_its_own_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "reference").mkdir()
    assert len(read(tmp_path, name, str(tmp_path / "reference")).faults) == 1
