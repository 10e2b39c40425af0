"""Heavy servers of other projects, each in a virtual environment of its own below `.cache/servers`,
made when a test first needs it from `tests/runtimes/servers/NAME/requirements.txt`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.capabilities import ROOT
from tests.waiting import eventually

SERVERS = ROOT / "tests" / "runtimes" / "servers"
CACHE = ROOT / ".cache" / "servers"
INSTALL_SECONDS = 900
START_SECONDS = 120
STOP_SECONDS = 10


def environment(name: str) -> Path:
    """The folder of the programs of this server's environment, which is made if it has to be."""
    requirements = SERVERS / name / "requirements.txt"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    place = CACHE / name
    stamp = place / ".installed"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            _run([sys.executable, "-m", "venv", "--clear", str(place)])
            pip = [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
            _run([*pip, "install", "--quiet", "--requirement", str(requirements)])
            stamp.write_text(wanted)
    return place / "bin"


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def started(
    command: Sequence[str], *, folder: Path, ready: str, env: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run a server in `folder`, in a process group of its own, until the address `ready` answers;
    end the whole group at the end.  Its output is in `folder`/log."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["nice", "-n", "10", *command],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _await(process, ready, folder / "log")
            yield
        finally:
            _end(process)


def _await(process: subprocess.Popen[bytes], ready: str, log: Path) -> None:
    def answers() -> bool:
        try:
            with urllib.request.urlopen(ready, timeout=5):
                return True
        except urllib.error.HTTPError as answer:
            # It answers, if only to refuse.
            answer.close()
            return True
        except OSError:
            words = log.read_text(errors="replace")[-3000:]
            assert process.poll() is None, f"the server ended: {words}"
            return False

    eventually(answers, within=START_SECONDS, words=f"{ready} does not answer")


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                continue
