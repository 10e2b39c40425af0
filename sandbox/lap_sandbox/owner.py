"""Which process a container belongs to, in a form that can be checked after that process died."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")


def machine() -> str:
    """Names the set of processes in which a pid means something: boot and pid namespace."""
    try:
        return f"{_BOOT.read_text().strip()}/{_PID_NAMESPACE.readlink()}"
    except OSError:  # no Linux: containers run in a virtual machine, pids are this system's
        return os.uname().nodename


def start_of(pid: int) -> str:
    """When `pid` started, in the system's own unit; empty where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[19]
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return ""
    except (OSError, IndexError):
        return "?"
    return _start_by_ps(pid)


def _start_by_ps(pid: int) -> str:
    try:
        done = subprocess.run(
            ["/bin/ps", "-o", "lstart=", "-p", str(pid)],
            capture_output=True,
            text=True,
            timeout=2,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "?"
    return "-".join(done.stdout.split())


def this_process() -> str:
    """`pid:start` of this process."""
    pid = os.getpid()
    return f"{pid}:{start_of(pid)}"


def identity() -> tuple[str, str]:
    """This process and where its pid means something.  Reads files: not for an event loop."""
    return this_process(), machine()


def is_dead(owner: str, where: str) -> bool:
    """The process `owner` of `machine()` `where` has ended.  In doubt: no."""
    if where != machine():
        return False
    pid, _, start = owner.partition(":")
    if not pid.isdigit():
        return True
    now = start_of(int(pid))
    return now != "?" and start != "?" and now != start
