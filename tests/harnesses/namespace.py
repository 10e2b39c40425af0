"""A network namespace with nothing but loopback: what runs inside can reach nobody outside."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.capabilities import loopback_only
from tests.processes import Processes


class Namespace:
    """Held open by one sleeping process of `started`; gone with it."""

    def __init__(self, started: Processes) -> None:
        self._holder = started.start(
            [*loopback_only(), "sh", "-c", "echo up && exec sleep infinity"],
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"up\n"

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """The same command, run inside."""
        enter = ["nsenter", f"--target={self._holder.pid}", "--net"]
        if os.geteuid() != 0:
            enter += ["--user", "--preserve-credentials"]
        return [*enter, "--", *(str(part) for part in command)]
