"""The launchers that hostile code is run against, and the cases that do not apply to one.

A launcher is one entry here.  What cannot run on this machine is reported as skipped, with its
reason; what does not apply is listed by the number of its case, with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest
from lap_sandbox.base import Launcher, LauncherConfig, Sandbox
from lap_sandbox.bubblewrap import BubblewrapLauncher
from lap_sandbox.docker_engine import DockerLauncher
from lap_sandbox.session import ContainerSandbox

from tests.capabilities import BUBBLEWRAP_HOME
from tests.sandbox.engine_view import docker as command
from tests.sandbox.engine_view import inspect

Make = Callable[[LauncherConfig, Mapping[str, str], Path], Launcher]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """How hostile code is confined.  `lacking` says in words why it cannot be tried here."""

    name: str
    make: Make
    marks: tuple[pytest.MarkDecorator, ...]
    lacking: Callable[[], str] = lambda: ""
    processes: Callable[[Sandbox], int] | None = None
    """How many there are in a sandbox, counted from outside."""
    written: Callable[[Sandbox], int] | None = None
    """Bytes that a sandbox wrote to the host's disk."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of `LauncherConfig`."""
    not_applicable: Mapping[int, str] = field(default_factory=dict)


def _id(sandbox: Sandbox) -> str:
    assert isinstance(sandbox, ContainerSandbox)
    return sandbox.container_id


def _processes(sandbox: Sandbox) -> int:
    return len(command("top", _id(sandbox), "-o", "pid").splitlines()) - 1


def _written(sandbox: Sandbox) -> int:
    return int(inspect(_id(sandbox), "--size")["SizeRw"] or 0)


def _no_runsc() -> str:
    client = docker.from_env(timeout=10)
    try:
        known = client.info()["Runtimes"]
    finally:
        client.close()
    return "" if "runsc" in known else "the engine has no runtime `runsc` (Debian: runsc)"


def _docker(config: LauncherConfig, environ: Mapping[str, str], home: Path) -> Launcher:
    return DockerLauncher(config, environ, home)


def _bubblewrap(config: LauncherConfig, environ: Mapping[str, str], home: Path) -> Launcher:
    return BubblewrapLauncher(config, environ, BUBBLEWRAP_HOME)


CONFINEMENTS = [
    Confinement(
        name="docker",
        make=_docker,
        marks=(pytest.mark.docker,),
        processes=_processes,
        written=_written,
    ),
    Confinement(
        name="runsc",
        make=_docker,
        marks=(pytest.mark.docker,),
        lacking=_no_runsc,
        settings={"runtime": "runsc"},
        not_applicable={
            27: "gVisor's own kernel has user namespaces; the host's are out of reach",
            32: "these system calls end in gVisor's kernel, not in the host's",
        },
    ),
    Confinement(name="bubblewrap", make=_bubblewrap, marks=(pytest.mark.bubblewrap,)),
]
