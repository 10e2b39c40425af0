"""Starting, finding and killing the processes of a sandbox, from PID 1.  Reads no frames."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from pathlib import Path

_PR_SET_DUMPABLE = 4

OOM_COUNTERS = (
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
)
CPU_COUNTERS = (
    (Path("/sys/fs/cgroup/cpu.stat"), "usage_usec", 1e-6),
    (Path("/sys/fs/cgroup/cpuacct/cpuacct.usage"), "", 1e-9),
)

_ZYGOTE = (
    "import sys; sys.path.insert(0, {path!r}); "
    "from lap_sandbox.runner.zygote import start; start({fd!r})"
)


def make_dumpable(dumpable: bool) -> None:
    """Whether processes of the same uid may open this one's memory and descriptors in /proc."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


def _counter(text: str, name: str) -> int:
    for line in text.splitlines():
        words = line.split()
        if not name and len(words) == 1:
            return int(words[0])
        if len(words) == 2 and words[0] == name:
            return int(words[1])
    return 0


def oom_kills() -> int:
    """Processes of this container that the kernel killed for memory; 0 where it does not say."""
    for path in OOM_COUNTERS:
        with contextlib.suppress(OSError, ValueError):
            return _counter(path.read_text(), "oom_kill")
    return 0


def cpu_seconds() -> float:
    """CPU time of the container so far; 0 where the kernel does not say."""
    for path, name, scale in CPU_COUNTERS:
        with contextlib.suppress(OSError, ValueError):
            return _counter(path.read_text(), name) * scale
    return 0.0


def others(keep: int) -> list[int]:
    """Processes that are neither this one nor `keep`."""
    found = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in found if pid not in (os.getpid(), keep)]


def signal_all(number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(-1, number)


def kill_tree(keep: int, *, patience: float = 2.0) -> bool:
    """SIGKILL every process but this one and `keep`; whether they were gone within `patience`.

    All are stopped first: what is stopped cannot fork, so that no fork bomb outruns the list.
    """
    signal_all(signal.SIGSTOP)
    deadline = time.monotonic() + patience
    while victims := others(keep):
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap_all(spare=keep)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0005)
    with contextlib.suppress(ProcessLookupError):
        os.kill(keep, signal.SIGCONT)
    return True


def reap_all(*, spare: int) -> dict[int, int]:
    """Wait status of every child that ended; `spare`'s is reaped and reported as well."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


class Zygote:
    """The zygote process and the socket on which it takes orders."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        library = sys.path[0]
        code = _ZYGOTE.format(path=library, fd=str(theirs.fileno()))
        arguments = [sys.executable, "-I", "-c", code]
        # Its output must not get into the frames on descriptor 1.
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, 2, 1),
        ]
        theirs.set_inheritable(True)
        self.pid = os.posix_spawn(
            sys.executable, arguments, os.environ, file_actions=actions, setpgroup=0
        )
        theirs.close()
        self.control = ours
        self.ready = False

    def order_worker(self) -> tuple[socket.socket, int, int]:
        """Have a worker forked: its channel, and the read ends of its stdout and stderr."""
        channel, theirs = socket.socketpair()
        out_read, out_write = os.pipe()
        error_read, error_write = os.pipe()
        try:
            socket.send_fds(self.control, [b"F"], [theirs.fileno(), out_write, error_write])
        finally:
            theirs.close()
            os.close(out_write)
            os.close(error_write)
        return channel, out_read, error_read

    def end(self) -> None:
        self.control.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
