"""Starting, finding and killing the processes of a sandbox, from PID 1.  Reads no frames."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_PR_SET_DUMPABLE = 4

BARE, WARM = b"B", b"W"
"""What a zygote says when it can fork workers, and when it has imported what they want; the latter
is also the order to do so."""

CROWD = 32
"""Processes left behind by a cell that are no longer taken for its helpers."""

_ZYGOTE = (
    "import sys; sys.path.insert(0, {path!r}); "
    "from lap_sandbox.runner.zygote import start; start({fd!r})"
)


def make_dumpable(dumpable: bool) -> None:
    """Whether processes of the same uid may open this one's memory and descriptors in /proc."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


class Counters:
    """What the kernel counts for this container's control group; opened once, read often."""

    def __init__(self, root: str = "/sys/fs/cgroup") -> None:
        self._oom = _open_first(root, "memory.events", "memory/memory.oom_control")
        self._cpu = _open_first(root, "cpu.stat")
        self._cpu_v1 = _open_first(root, "cpuacct/cpuacct.usage")
        self._tasks = _open_first(root, "pids.current", "pids/pids.current")
        self._oom_words = b""
        self.oom = 0
        """Processes killed for memory, at the last `read`; 0 where the kernel does not say."""
        self.cpu = 0.0
        """Seconds of CPU time, likewise."""
        self.read()

    def read(self) -> None:
        words = _read(self._oom)
        if words != self._oom_words:
            self._oom_words, self.oom = words, _field(words, b"oom_kill")
        if self._cpu is not None:
            self.cpu = _field(_read(self._cpu), b"usage_usec") * 1e-6
        else:
            self.cpu = int(_read(self._cpu_v1) or 0) * 1e-9

    def tasks(self) -> int | None:
        """Threads of all processes."""
        return int(_read(self._tasks)) if self._tasks is not None else None


def _open_first(root: str, *names: str) -> int | None:
    for name in names:
        with contextlib.suppress(OSError):
            return os.open(f"{root}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    return None


def _read(fd: int | None) -> bytes:
    return b"" if fd is None else os.pread(fd, 4096, 0)


def _field(data: bytes, name: bytes) -> int:
    for line in data.splitlines():
        key, _, value = line.partition(b" ")
        if key == name:
            return int(value)
    return 0


def _state(pid: int) -> tuple[str, int]:
    """State letter and parent of a process; a zombie where it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return words[0], int(words[1])
    except (OSError, ValueError, IndexError):
        return "Z", 0


def others(keep: Sequence[int]) -> list[int]:
    """Living processes that are neither this one nor among `keep`.

    Zombies do not count: those of a stopped parent stay until it goes on.
    """
    spared = (os.getpid(), *keep)
    found = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in found if pid not in spared and _state(pid)[0] != "Z"]


def signal_all(number: signal.Signals) -> None:
    """Signal every process that this one may signal, but for itself.  Only for PID 1 of a
    namespace of its own: elsewhere it would be the whole machine."""
    if os.getpid() != 1:
        raise RuntimeError("only PID 1 of a sandbox may signal everything")
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(-1, number)


def kill_tree(keep: Sequence[int], *, patience: float = 2.0) -> bool:
    """SIGKILL every process but this one and `keep`; whether they were gone within `patience`.

    All are stopped first: what is stopped cannot fork, so that no fork bomb outruns the list.
    The list counts only once those to keep have stopped indeed: until then they may be in the
    middle of a fork, whose child would be missed.
    """
    signal_all(signal.SIGSTOP)
    deadline = time.monotonic() + patience
    done = False
    while not done and time.monotonic() < deadline:
        still = all(_state(pid)[0] in "TtZ" for pid in keep)
        victims = others(keep)
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        done = still and not victims
        if not done:
            time.sleep(0.0005)
    for pid in keep:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return done


def sweep(zygote: int, worker: int) -> None:
    """After a cell: end what it left behind.  Its children may stay, they are part of its state;
    daemons that cut themselves loose may not, and a crowd goes as a whole."""
    left = others([zygote, worker])
    if len(left) > CROWD:
        kill_tree([zygote, worker])
        return
    for pid in left:
        if _state(pid)[1] == os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def reap_all() -> dict[int, int]:
    """Wait status of every child that ended."""
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
        self.warm = False
        self._ordered = False

    def warm_up(self) -> None:
        """Have it import what workers want; it says when it has."""
        if not self._ordered:
            self._ordered = True
            self.control.sendall(WARM)

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
