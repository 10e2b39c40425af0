"""Processes that a test starts, each in a group of its own, ended with the test by its id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""


class Processes:
    """Starts processes; `close` ends what is left of them and of their children."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] | None = None,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=None if env is None else dict(env),
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            **options,
        )
        self._started.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes], *, grace: float = GRACE) -> int:
        """SIGTERM to its group, SIGKILL after `grace` seconds; its return code."""
        signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
        signal_group(process.pid, signal.SIGKILL)
        code = process.wait(GRACE)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        if process in self._started:
            self._started.remove(process)
        return code

    def close(self) -> None:
        for process in reversed(self._started[:]):
            self.end(process)


def signal_group(pid: int, number: signal.Signals) -> None:
    """To every process of the group that `pid` leads; gone already: no effect."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes], *, within: float = 20.0) -> None:
    """Until somebody accepts connections on it.

    Raises:
        AssertionError: `process` ended, or the deadline passed.
    """
    deadline = time.monotonic() + within
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, f"it ended with {process.returncode} before it listened"
            assert time.monotonic() < deadline, f"nothing listens on {port} after {within} s"
            time.sleep(0.05)
        else:
            return
