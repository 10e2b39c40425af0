"""Starts the peers and gives them orders.  They live in an environment of their own below
`.cache`, made when it is first wanted; ours never sees their packages."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from benchmarks.surroundings import ROOT, Place, started

NAMES = ("ipykernel", "llm-sandbox", "docker exec")
PACKAGES = ("docker==7.2.0", "jupyter_client==8.10.0", "llm-sandbox==0.3.46")
KERNEL = ("ipykernel==7.4.0",)
_HOME = ROOT / ".cache" / "bench-peers"
_STAMP = _HOME / "made-of"
_SECONDS = 600.0


class PeerFailed(Exception):
    """What the peer could not do, in its words."""


class Peer:
    """One peer's process."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self._process = process

    async def ask(self, do: str, *arguments: Any, n: int = 1) -> list[float]:
        """Have it do something `n` times: the seconds of each.  Raises: PeerFailed."""
        return list((await self._order(do, arguments, n))["seconds"])

    async def value(self, do: str, *arguments: Any) -> Any:
        """What it says to one order.  Raises: PeerFailed."""
        return (await self._order(do, arguments, 1))["value"]

    async def _order(self, do: str, arguments: Sequence[Any], n: int) -> dict[str, Any]:
        line = json.dumps({"do": do, "arguments": list(arguments), "n": n}) + "\n"
        with anyio.fail_after(_SECONDS):
            said = await anyio.to_thread.run_sync(self._exchange, line.encode())
        answer: dict[str, Any] = json.loads(said or '{"error": "it ended"}')
        if "error" in answer:
            raise PeerFailed(f"{self.name}: {do}: {answer['error']}")
        return answer

    def _exchange(self, line: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()
        return self._process.stdout.readline()


def _make() -> Path:
    """The folder with everything the peers need."""
    wanted = "\n".join((*PACKAGES, *KERNEL))
    if _STAMP.exists() and _STAMP.read_text() == wanted:
        return _HOME
    subprocess.run([sys.executable, "-m", "venv", "--clear", _HOME / "venv"], check=True)
    pip = [str(_HOME / "venv/bin/python"), "-m", "pip", "install", "-q", "-q"]
    subprocess.run([*pip, *PACKAGES], check=True, stdout=sys.stderr)
    # For the image's interpreter, which need not be this one.
    there = ("--python-version", "3.11", "--implementation", "cp", "--only-binary=:all:")
    machine = platform.machine()
    systems = [f"--platform={kind}_{machine}" for kind in ("manylinux_2_28", "manylinux2014")]
    where = (*systems, "--target", str(_HOME / "kernel-packages"))
    subprocess.run([*pip, *there, *where, "--upgrade", *KERNEL], check=True, stdout=sys.stderr)
    _STAMP.write_text(wanted)
    return _HOME


@asynccontextmanager
async def peer(name: str, place: Place) -> AsyncIterator[Peer]:
    """A peer whose sandbox is not open yet."""
    home = await anyio.to_thread.run_sync(_make)
    program = Path(__file__).with_name("peer_process.py")
    command = [str(home / "venv/bin/python"), str(program), name, place.image, str(home)]
    kept = ("PATH", "DOCKER_HOST", "HOME")
    environ = {key: value for key, value in os.environ.items() if key in kept}
    with started(command, env=environ) as process:
        yield Peer(name, process)
