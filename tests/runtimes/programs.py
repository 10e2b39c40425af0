"""Runtimes that are programs: what a proxy does to a connection is done to their processes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.runtimes.bench import Bench, Case, adapter_of
from tests.waiting import eventually_async


class Processes:
    """The programs that wrote their pid into `folder`, as `pid-N`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def pids(self) -> list[int]:
        return [int(path.name.removeprefix("pid-")) for path in self._folder.glob("pid-*")]

    @property
    def alive(self) -> list[int]:
        return [pid for pid in self.pids if is_alive(pid)]

    @property
    def accepted(self) -> int:
        return len(self.pids)

    def cut(self) -> None:
        self._signal(signal.SIGKILL)

    def stall(self) -> None:
        self._signal(signal.SIGSTOP)

    async def until_closed(self) -> None:
        await eventually_async(lambda: not self.alive, words="the program is still there")

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def is_alive(pid: int) -> bool:
    """Whether it runs: one that has ended and was not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def program(folder: Path, script: Path, *arguments: str) -> str:
    """An executable in `folder` that runs a Python script with the folder as its argument."""
    made = folder / "program"
    words = " ".join(f"'{word}'" for word in (sys.executable, script, folder, *arguments))
    made.write_text(f"#!/bin/sh\nexec {words}\n")
    made.chmod(0o700)
    return str(made)


def no_app(url: str) -> Any:
    raise AssertionError("this case has a program, not an application")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramCase(Case):
    """`script` is run by Python with a folder in which it keeps what a test looks at: `pid-N` for
    each process, `cancelled-…` for each turn that was cancelled."""

    script: Path
    app: Callable[[str], tuple[Any, Any, Callable[[], int]]] = no_app

    @asynccontextmanager
    async def bench(self) -> AsyncIterator[Bench]:
        folder = Path(tempfile.mkdtemp(prefix="lap-test-"))
        adapter = adapter_of(self.kind)
        settings = {"command": [program(folder, self.script)], "stop_seconds": 0.5, **self.settings}
        runtime = adapter(adapter.Config.model_validate(settings))
        try:
            yield Bench(
                runtime=runtime,
                proxy=Processes(folder),
                server=folder,
                cancelled=lambda: len(list(folder.glob("cancelled-*"))),
            )
        finally:
            await runtime.aclose()
            shutil.rmtree(folder)
