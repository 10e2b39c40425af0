"""A rootless Docker Engine of a test's own, run by a user with subordinate ids."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.capabilities import SANDBOX_IMAGE
from tests.processes import Processes
from tests.waiting import eventually

START = Path("/usr/share/docker.io/contrib/dockerd-rootless.sh")
"""Where Debian has it."""
IDS = 65_536


def _script() -> str:
    return shutil.which("dockerd-rootless.sh") or (str(START) if START.is_file() else "")


def _user() -> pwd.struct_passwd | None:
    """The first that has enough subordinate uids."""
    file = Path("/etc/subuid")
    for line in file.read_text().splitlines() if file.is_file() else ():
        name, _, ids = line.partition(":")
        if ids.partition(":")[2].isdecimal() and int(ids.partition(":")[2]) >= IDS:
            try:
                return pwd.getpwnam(name)
            except KeyError:
                continue
    return None


def why_not() -> str:
    """Why none can be started here, with the remedy; empty where it can."""
    if os.geteuid() != 0:
        return "this is started by root, as another user"
    if not _script():
        return "there is no `dockerd-rootless.sh` (Debian: apt install docker.io)"
    for program in ("rootlesskit", "newuidmap", "slirp4netns"):
        if shutil.which(program) is None:
            return f"there is no `{program}` (Debian: apt install rootlesskit uidmap slirp4netns)"
    if _user() is None:
        return f"no user has {IDS} subordinate uids (useradd lap-rootless)"
    return ""


class OwnRootless:
    """`folder` is short, as the addresses of unix sockets are, and the user's."""

    def __init__(self, folder: Path, user: pwd.struct_passwd, processes: Processes) -> None:
        runtime = folder / "run"
        runtime.mkdir()
        (folder / "none.json").write_text("{}")
        for path in (folder, runtime, folder / "none.json"):
            os.chown(path, user.pw_uid, user.pw_gid)
        socket = runtime / "docker.sock"
        self.address = f"unix://{socket}"
        environ = {
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(runtime),
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        with (folder / "log").open("ab") as log:
            self._process = processes.start(
                ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid),
                 "--clear-groups", _script(), "--config-file", folder / "none.json",
                 "--data-root", folder / "data", "--bridge", "none", "--iptables=false"],
                env=environ,
                stdout=log,
                stderr=log,
            )  # fmt: skip
        eventually(socket.exists, within=60, words="the rootless engine does not start")

    def run(self, *arguments: str) -> str:
        return subprocess.run(
            ["docker", "--host", self.address, *arguments],
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip

    def take_image(self) -> None:
        """The one of the shared engine."""
        saving = subprocess.Popen(["docker", "save", SANDBOX_IMAGE], stdout=subprocess.PIPE)
        with saving:
            subprocess.run(
                ["docker", "--host", self.address, "load", "-q"],
                stdin=saving.stdout, stdout=subprocess.DEVNULL, timeout=300, check=True,
            )  # fmt: skip
        assert saving.returncode == 0

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)


@contextmanager
def own_rootless() -> Iterator[OwnRootless]:
    """With the image; ended with everything in it."""
    user = _user()
    assert user is not None
    folder = Path(tempfile.mkdtemp(prefix="lap-rootless-"))
    processes = Processes()
    try:
        engine = OwnRootless(folder, user, processes)
        try:
            engine.take_image()
            yield engine
        finally:
            engine.close()
    finally:
        processes.close()
        shutil.rmtree(folder)
