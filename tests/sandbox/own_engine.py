"""A Docker Engine of a test's own, which may be stopped and started: the shared one may not."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.capabilities import SANDBOX_IMAGE
from tests.processes import Processes
from tests.waiting import eventually

START_SECONDS = 60.0


def why_not() -> str:
    """Why none can be started here, with the remedy; empty where it can."""
    if os.geteuid() != 0:
        return "an engine of one's own is started by root only"
    if shutil.which("dockerd") is None:
        return "there is no `dockerd` on the PATH (Debian: apt install docker.io)"
    return ""


class OwnEngine:
    """`folder` is short: the addresses of unix sockets are."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self._folder = folder
        self._processes = processes
        self._socket = folder / "docker.sock"
        self.address = f"unix://{self._socket}"
        self.start()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(5)
            try:
                asking.connect(str(self._socket))
                asking.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in asking.recv(100)
            except OSError:
                return False

    def start(self) -> None:
        folder = self._folder
        (folder / "none.json").write_text("{}")
        with (folder / "log").open("ab") as log:
            self._process = self._processes.start(
                ["dockerd", "--config-file", folder / "none.json", "--host", self.address,
                 "--data-root", folder / "data", "--exec-root", folder / "exec",
                 "--pidfile", folder / "pid", "--bridge", "none", "--iptables=false"],
                stdout=log,
                stderr=log,
            )  # fmt: skip
        eventually(self._answers, within=START_SECONDS, words="the engine does not start")

    def stop(self) -> None:
        """As its service is stopped: it ends its containers first."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(START_SECONDS)

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
        for id in self.run("ps", "-aq").split():
            with contextlib.suppress(subprocess.CalledProcessError):  # gone meanwhile
                self.run("rm", "-f", id)
        self.stop()


@contextmanager
def own_engine() -> Iterator[OwnEngine]:
    """With the image; ended with everything in it."""
    folder = Path(tempfile.mkdtemp(prefix="lap-engine-"))
    processes = Processes()
    try:
        engine = OwnEngine(folder, processes)
        try:
            engine.take_image()
            yield engine
        finally:
            engine.close()
    finally:
        processes.close()
        shutil.rmtree(folder)
