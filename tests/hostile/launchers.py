"""The launchers that hostile code is run against, and the cases that do not apply to one.

A launcher is one entry here.  What cannot run on this machine is reported as skipped, with its
reason; what does not apply is listed by the number of its case, what is open by its name, each with
its reason.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest
from lap_sandbox.base import Launcher, LauncherConfig, Sandbox
from lap_sandbox.bubblewrap import BubblewrapLauncher
from lap_sandbox.docker_engine import DockerLauncher
from lap_sandbox.session import ContainerSandbox

from tests.capabilities import BUBBLEWRAP_HOME, ROOT
from tests.sandbox.bubblewrap.records import alive, pids_below, records_of
from tests.sandbox.engine_view import containers_of, inspect, running_of
from tests.sandbox.engine_view import docker as command

Make = Callable[[LauncherConfig, Mapping[str, str], Path], Launcher]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """How hostile code is confined.  `lacking` says in words why it cannot be tried here."""

    name: str
    make: Make
    marks: tuple[pytest.MarkDecorator, ...]
    processes: Callable[[Sandbox], Awaitable[int]]
    """How many there are in a sandbox, counted from outside where that can be."""
    written: Callable[[Sandbox], int]
    """Bytes that a sandbox wrote to the host's disk."""
    freeze: Callable[[Sandbox], object]
    """Make it silent, the way it is when what runs it hangs."""
    holder: tuple[str, ...]
    """Program and first arguments of a server in miniature, before the instance …"""
    holder_home: tuple[str, ...] = ()
    """… and what it is told after that."""
    running: Callable[[str], Collection[object]] = running_of
    """What runs of an instance."""
    kept: Callable[[str], Collection[object]] = containers_of
    """What is known of an instance, whether it runs or not."""
    environment: frozenset[str] = frozenset()
    """Names that may be in the environment besides those that are always there."""
    lacking: Callable[[], str] = lambda: ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of `LauncherConfig`."""
    not_applicable: Mapping[int, str] = field(default_factory=dict)
    open: Mapping[str, str] = field(default_factory=dict)
    """Cases that end otherwise than they must, by the id of an attack or the name of a test, with
    its parameter: run, and reported as expected failures.  One that ends well is a failure."""


def _id(sandbox: Sandbox) -> str:
    assert isinstance(sandbox, ContainerSandbox)
    return sandbox.container_id


async def _processes(sandbox: Sandbox) -> int:
    return len(command("top", _id(sandbox), "-o", "pid").splitlines()) - 1


async def _processes_of_its_kernel(sandbox: Sandbox) -> int:
    """As gVisor has them: the engine asks it for pids and then looks for these on the host, where
    they are other processes, or none."""
    code = "import os; sum(name.isdigit() for name in os.listdir('/proc'))"
    return int((await sandbox.execute(code, timeout=30)).value or 0)


async def _processes_below(sandbox: Sandbox) -> int:
    return len(pids_below(_first(sandbox)))


def _written(sandbox: Sandbox) -> int:
    return int(inspect(_id(sandbox), "--size")["SizeRw"] or 0)


def _frozen(sandbox: Sandbox) -> None:
    command("pause", _id(sandbox))


def _first(sandbox: Sandbox) -> int:
    """PID 1 of a sandbox without an engine, as the host sees it."""
    record = BUBBLEWRAP_HOME / "bubblewrap" / "running" / f"{_id(sandbox)}.json"
    return int(json.loads(record.read_text())["pid"])


def _written_by_processes(sandbox: Sandbox) -> int:
    """By those that live and, counted with their parents, those that ended."""
    found = [Path(f"/proc/{pid}/io") for pid in pids_below(_first(sandbox))]
    lines = [line.split() for file in found for line in file.read_text().splitlines()]
    return sum(int(amount) for name, amount in lines if name == "write_bytes:")


def _stopped(sandbox: Sandbox) -> None:
    for pid in pids_below(_first(sandbox)):
        os.kill(pid, signal.SIGSTOP)


def _living(instance: str) -> Collection[object]:
    return alive({record["pid"] for record in _recorded(instance).values() if record["pid"]})


def _recorded(instance: str) -> Mapping[str, Mapping[str, Any]]:
    return records_of(BUBBLEWRAP_HOME, instance)


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


_MEMORY = "the limit on memory holds for its kernel too, so that the whole sandbox ends, in words"
_FILES = "the number of files of a tmpfs is not limited: memory and time are"
_PROC = "prctl(PR_SET_DUMPABLE) keeps nobody of the same uid out of /proc/1"
_FILTER = "our filter is not applied: IP sockets can be made, and lead nowhere"
GVISOR_OF_2022 = {
    "05-fork-bomb": "a process costs its kernel 9 MiB and much time: the whole sandbox ends, for "
    "want of memory or because it cannot be stopped in time",
    "08-memory": _MEMORY,
    "09-memory-of-children": _MEMORY,
    "11-many-files": _FILES,
    "14-system-files": "refused for whose file it is, before it comes to be read-only",
    "20-deep-recursion": _MEMORY,
    "30-kills-pid-1": "SIGKILL reaches PID 1 from inside: the sandbox ends, the attacker's own",
    "39-shared-object": "noexec keeps programs from being run, not libraries from being loaded",
    "40-priority": "a higher priority is granted by its kernel, which does nothing with it, and "
    "SCHED_FIFO is an unknown one",
    "41-internet": _FILTER,
    "41-loopback": _FILTER,
    "88-takes-the-limits-of-others": "our filter is not applied: whoever has a uid may set "
    "the limits of its processes, and a supervisor without descriptors ends the sandbox",
    "test_11_49_a_listing_of_very_many_files_ends": _FILES,
    "test_25_29_the_supervisors_files_in_proc_cannot_be_read[environ]": _PROC,
    "test_25_29_the_supervisors_files_in_proc_cannot_be_read[maps]": _PROC,
    "test_28_33_our_filter_is_in_force": _FILTER,
    "test_29_the_supervisors_descriptors_and_memory_are_out_of_reach": _PROC,
    "test_33_34_41_only_local_sockets_can_be_made": _FILTER,
    "test_37_none_can_be_made": "of devices that its kernel has, which are none of the host's",
    "test_37_there_is_no_device_but_those_that_hold_nothing": "its kernel's own fuse and net/tun "
    "are there; no network device is to be had of the latter",
    "test_83_where_no_more_files_fit_the_answer_comes_all_the_same": _FILES,
}
"""Seen with Debian's `runsc` of 2022; each hurts the attacker's sandbox only."""
HOLDER = (sys.executable, str(ROOT / "tests/sandbox/holder.py"))
CONFINEMENTS = [
    Confinement(
        name="docker",
        make=_docker,
        marks=(pytest.mark.docker,),
        processes=_processes,
        written=_written,
        freeze=_frozen,
        holder=HOLDER,
    ),
    Confinement(
        name="runsc",
        make=_docker,
        marks=(pytest.mark.docker,),
        processes=_processes_of_its_kernel,
        written=_written,
        freeze=_frozen,
        holder=HOLDER,
        holder_home=("runsc",),
        lacking=_no_runsc,
        settings={"runtime": "runsc"},
        not_applicable={
            27: "gVisor's own kernel has user namespaces; the host's are out of reach",
            32: "these system calls end in gVisor's kernel, not in the host's",
        },
        open=GVISOR_OF_2022,
    ),
    Confinement(
        name="bubblewrap",
        make=_bubblewrap,
        marks=(pytest.mark.bubblewrap,),
        processes=_processes_below,
        written=_written_by_processes,
        freeze=_stopped,
        holder=(sys.executable, str(ROOT / "tests/sandbox/bubblewrap/holder.py")),
        holder_home=(str(BUBBLEWRAP_HOME),),
        running=_living,
        kept=_recorded,
        # Where the interpreter is not the distribution's, its library is found by it.
        environment=frozenset({"LD_LIBRARY_PATH"}),
    ),
]
