"""Podman's service of a test's own, with storage of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.capabilities import SANDBOX_IMAGE
from tests.processes import Processes
from tests.waiting import eventually


def why_not() -> str:
    """Why none can be started here, with the remedy; empty where it can."""
    if os.geteuid() != 0:
        return "Podman with storage of its own is started by root only"
    if shutil.which("podman") is None:
        return "there is no `podman` on the PATH (Debian: apt install podman)"
    return ""


class OwnPodman:
    """`folder` is short: the addresses of unix sockets are."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        runtime = shutil.which("crun") or shutil.which("runc") or "crun"
        self._command = [
            "podman", "--root", str(folder / "root"), "--runroot", str(folder / "run"),
            "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", runtime,
        ]  # fmt: skip
        socket = folder / "podman.sock"
        self.address = f"unix://{socket}"
        with (folder / "log").open("ab") as log:
            self._process = processes.start(
                [*self._command, "system", "service", "--time", "0", self.address],
                cwd=folder,  # its monitors leave a file `oom` where it was started
                stdout=log,
                stderr=log,
            )
        eventually(socket.exists, words="Podman's service does not start")

    def run(self, *arguments: str, seconds: float = 60) -> str:
        return subprocess.run(
            [*self._command, *arguments],
            capture_output=True, text=True, timeout=seconds, check=True,
        ).stdout  # fmt: skip

    def take_image(self) -> None:
        """The one of the shared engine."""
        saving = subprocess.Popen(["docker", "save", SANDBOX_IMAGE], stdout=subprocess.PIPE)
        with saving:
            subprocess.run(
                [*self._command, "load", "-q"],
                stdin=saving.stdout, stdout=subprocess.DEVNULL, timeout=300, check=True,
            )  # fmt: skip
        assert saving.returncode == 0

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)
        self.run("system", "reset", "--force", seconds=120)


@contextmanager
def own_podman() -> Iterator[OwnPodman]:
    """With the image; ended with everything in it."""
    folder = Path(tempfile.mkdtemp(prefix="lap-podman-"))
    processes = Processes()
    try:
        podman = OwnPodman(folder, processes)
        try:
            podman.take_image()
            yield podman
        finally:
            podman.close()
    finally:
        processes.close()
        shutil.rmtree(folder)
