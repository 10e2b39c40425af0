"""`files` by path: what is below the working folder is read, everything else is refused."""

from __future__ import annotations

import os
import socket
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from lap_mcp.control.local_files import LocalFiles, allowed_folders
from lap_mcp.errors import Invalid, LapError, LimitReached, NotFound
from tests.canary import canary

pytestmark = pytest.mark.anyio


class Place:
    """A home folder with secrets, and a project in it."""

    def __init__(self, tmp_path: Path) -> None:
        self.home = tmp_path / "home"
        self.project = self.home / "project"
        self.project.mkdir(parents=True)
        (self.home / ".ssh").mkdir()
        self.secret = self.home / ".ssh/id_rsa"
        self.secret.write_text(canary("private-key"))
        (self.project / "data.csv").write_text("a,b\n1,2\n")
        (self.project / "sub").mkdir()
        (self.project / "sub/deep.txt").write_text("deep")
        self.environ = {"HOME": str(self.home), "PATH": os.environ["PATH"]}

    async def files(self, *folders: Path, **settings: Any) -> LocalFiles:
        chosen = folders or (self.project,)
        make = partial(LocalFiles, chosen, environ=self.environ, **settings)
        return await anyio.to_thread.run_sync(make)

    def git(self, *arguments: str) -> None:
        subprocess.run(
            ["git", "-C", str(self.project), *arguments],
            check=True,
            capture_output=True,
            env=self.environ,
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("path", ["data.csv", "./data.csv", "sub/deep.txt", "sub//deep.txt"])
async def test_a_file_below_the_working_folder_is_read(place: Place, path: str) -> None:
    name, data = await (await place.files()).read(path)
    assert name == Path(path).name
    assert data == place.project.joinpath(path).read_bytes()


async def test_an_absolute_path_below_an_allowed_folder_is_read(place: Place) -> None:
    other = place.home / "shared"
    other.mkdir()
    (other / "x.bin").write_bytes(b"\x00\xff")
    files = await place.files(place.project, other)
    assert await files.read(str(place.project / "data.csv")) == ("data.csv", b"a,b\n1,2\n")
    assert await files.read(str(other / "x.bin")) == ("x.bin", b"\x00\xff")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("~/.ssh/id_rsa", "home folder"),
        ("~root/x", "home folder"),
        ("../.ssh/id_rsa", "`..`"),
        ("sub/../../.ssh/id_rsa", "`..`"),
        ("{home}/.ssh/id_rsa", "outside of"),
        ("{project}/../.ssh/id_rsa", "`..`"),
        ("/etc/passwd", "outside of"),
        ("/dev/zero", "outside of"),
        ("/proc/self/environ", "outside of"),
        ("http://169.254.169.254/latest", "address"),
        ("file:///etc/passwd", "address"),
        ("lap://sessions/x", "address"),
        ("", "empty"),
        (" ", "empty"),
        ("sub", "folder"),
        (".", "folder"),
        (".env", "hidden"),
        (".git/config", "hidden"),
        ("sub/.secret/x", "hidden"),
        ("data.csv\x00.png", "control"),
        ("data\u202ecsv", "invisible"),
        ("a" * 5000, "too long"),
        ("link_out", "link"),
        ("link_in", "link"),
        ("linked_folder/id_rsa", "link"),
        ("fifo", "device, a pipe or a socket"),
        ("socket", "device, a pipe or a socket"),
        ("data.csv/x", "cannot be read"),
    ],
)
async def test_everything_else_is_refused_in_words(place: Place, path: str, words: str) -> None:
    (place.project / ".env").write_text("SECRET=canary")
    (place.project / "link_out").symlink_to(place.secret)
    (place.project / "link_in").symlink_to(place.project / "data.csv")
    (place.project / "linked_folder").symlink_to(place.home / ".ssh")
    os.mkfifo(place.project / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(place.project)  # the path of a socket may be 108 bytes long
        server.bind("socket")
        os.chdir(here)
        named = path.format(home=place.home, project=place.project)
        with pytest.raises(Invalid, match=words) as caught:
            await (await place.files()).read(named)
    assert canary("private-key") not in str(caught.value)
    assert caught.value.remedy


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make a device node")
async def test_a_device_in_the_project_is_not_opened(place: Place) -> None:
    try:
        os.mknod(place.project / "zero", 0o20666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this machine lets nobody make device nodes")
    with pytest.raises(Invalid, match="device"):
        await (await place.files()).read("zero")


async def test_a_missing_file_is_told_with_the_folder(place: Place) -> None:
    with pytest.raises(NotFound, match=str(place.project)):
        await (await place.files()).read("none.csv")


async def test_a_file_that_is_too_large_is_refused(place: Place) -> None:
    (place.project / "big").write_bytes(b"x" * (2 * 1024 * 1024))
    with pytest.raises(LimitReached, match="1 MB"):
        await (await place.files(max_bytes=1024 * 1024)).read("big")


async def test_hidden_files_are_read_where_the_operator_says_so(place: Place) -> None:
    (place.project / ".env").write_text("A=1")
    assert await (await place.files(hidden=True)).read(".env") == (".env", b"A=1")


async def test_a_folder_that_became_a_link_after_the_start_is_not_followed(place: Place) -> None:
    files = await place.files()
    (place.project / "sub/deep.txt").unlink()
    (place.project / "sub").rmdir()
    (place.project / "sub").symlink_to(place.home / ".ssh")
    with pytest.raises(Invalid, match="link"):
        await files.read("sub/id_rsa")


async def test_git_ignored_files_are_refused_unless_configured(place: Place) -> None:
    place.git("init", "-q")
    (place.project / ".gitignore").write_text("secrets/\n*.key\n")
    (place.project / "secrets").mkdir()
    (place.project / "secrets/token").write_text("canary")
    (place.project / "my.key").write_text("canary")
    for path in ("secrets/token", "my.key"):
        with pytest.raises(Invalid, match="git ignores it"):
            await (await place.files()).read(path)
        assert (await (await place.files(ignored=True)).read(path))[1] == b"canary"
    assert (await (await place.files()).read("data.csv"))[0] == "data.csv"


async def test_a_repository_runs_nothing_when_git_is_asked(place: Place) -> None:
    ran = place.home / "ran"
    program = place.project / "evil.sh"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    place.git("init", "-q")
    place.git("config", "core.fsmonitor", str(program))
    place.git("config", "core.hooksPath", str(place.project))
    place.git("config", "core.pager", str(program))
    place.git("config", "diff.external", str(program))
    (place.project / "post-index-change").write_text(program.read_text())
    (place.project / "post-index-change").chmod(0o755)
    place.environ["GIT_EXTERNAL_DIFF"] = str(program)
    await (await place.files()).read("data.csv")
    assert not ran.exists()


async def test_without_git_nothing_of_a_repository_is_read(place: Place) -> None:
    place.git("init", "-q")
    place.environ["PATH"] = f".:{place.project}"
    fake = place.project / "git"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    place.environ["PATH"] = "."
    with pytest.raises(Invalid, match="git is not installed"):
        await (await place.files()).read("data.csv")


async def test_a_git_that_hangs_refuses_the_file(place: Place) -> None:
    place.git("init", "-q")
    tools = place.home / "tools"
    tools.mkdir()
    (tools / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tools / "git").chmod(0o755)
    place.environ["PATH"] = f"{tools}:{os.environ['PATH']}"
    with pytest.raises(Invalid, match="did not say within"):
        await (await place.files(git_deadline=0.2)).read("data.csv")


def test_home_and_root_are_no_project_folders(place: Place) -> None:
    assert allowed_folders(place.project, place.home, []) == [place.project]
    assert allowed_folders(place.home, place.home, []) == []
    assert allowed_folders(Path("/"), place.home, ["~/shared"]) == [place.home / "shared"]


async def test_outside_of_a_project_no_path_is_read(place: Place) -> None:
    files = LocalFiles([], environ=place.environ)
    with pytest.raises(LapError, match="outside a project folder"):
        await files.read("data.csv")
