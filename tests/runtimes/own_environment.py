"""Heavy servers of other projects, each in a virtual environment of its own below `.cache/servers`,
made when a test first needs it from `tests/runtimes/servers/NAME/requirements.txt`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
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


def environment(name: str, python: str = sys.executable) -> Path:
    """The folder of the programs of this server's environment, which is made if it has to be, of
    the interpreter `python`."""
    requirements = SERVERS / name / "requirements.txt"
    about = sys.version if python == sys.executable else python
    wanted = hashlib.sha256(requirements.read_bytes() + about.encode()).hexdigest()
    place = CACHE / name
    stamp = place / ".installed"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            _run([python, "-m", "venv", "--clear", str(place)])
            pip = [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
            _run([*pip, "install", "--quiet", "--requirement", str(requirements)])
            stamp.write_text(wanted)
    return place / "bin"


def python_of(minimum: tuple[int, int]) -> str | None:
    """An interpreter of this version or a newer one: our own, one on the path, one of pyenv's."""
    if sys.version_info[:2] >= minimum:
        return sys.executable
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    names = [f"python3.{minor}" for minor in range(minimum[1], minimum[1] + 6)]
    found = [*filter(None, map(shutil.which, names)), *sorted(map(str, kept.glob("*/bin/python")))]
    return next((python for python in found if _version(python) >= minimum), None)


def _version(python: str) -> tuple[int, int]:
    """(0, 0) for what does not run: pyenv leaves names on the path that lead nowhere."""
    words = "import sys; print(*sys.version_info[:2])"
    done = subprocess.run(
        [python, "-c", words], capture_output=True, text=True, timeout=20, check=False
    )
    major, _, minor = done.stdout.strip().partition(" ")
    return (int(major), int(minor)) if done.returncode == 0 and minor else (0, 0)


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
