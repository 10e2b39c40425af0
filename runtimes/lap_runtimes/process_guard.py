"""Runs one program and outlives it: `process_guard.py LIFELINE GRACE LOCALE COMMAND…`.  Standard
library only, because it is started for every program, by path and without site packages.

Rule 1: when the file descriptor LIFELINE ends, because its owner closed it or died, however it
        died, every process that the program started gets SIGTERM and, GRACE seconds later, SIGKILL.
Rule 2: the same when the program itself ends, so that nothing of it stays behind.
Rule 3: should this process be killed, the program is killed with it (Linux).

LOCALE is `given` where the program's environment has an LC_CTYPE; else the one that Python adds to
its own environment, which the program inherits, is taken out again.

On Linux processes that left the program's group or were orphaned are found too; elsewhere those in
its group.  Its exit code is the program's, or 128 and the signal; 127: it could not be started.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

CANNOT_START = 127
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LAST_WAIT = 5.0
"""Seconds for what got SIGKILL to be gone."""


def prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def run(lifeline: int, grace: float, locale: str, command: Sequence[str]) -> int:
    if locale != "given":
        os.unsetenv("LC_CTYPE")
    # Orphans of the program become children of this process, not of init.
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        _become(lifeline, guard, command)
    _let_go_of_the_pipes()
    woken = _wake_up_for_children()
    statuses: dict[int, int] = {}
    while child not in statuses:
        ready, _, _ = select.select([lifeline, woken], [], [])
        if lifeline in ready:
            break
        os.read(woken, 512)
        _reap(statuses)
    _end(child, grace, woken, statuses)
    status = statuses.get(child, signal.SIGKILL)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _become(lifeline: int, guard: int, command: Sequence[str]) -> None:
    """In the child: the program, in a session and group of its own.  Does not return."""
    try:
        os.close(lifeline)
        os.setsid()
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == guard:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.execvp(command[0], list(command))
    except OSError as exc:
        os.write(2, f"{command[0]}: {exc.strerror}\n".encode())
    finally:
        os._exit(CANNOT_START)


def _let_go_of_the_pipes() -> None:
    """Whoever reads the program's output has to see its end."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def _wake_up_for_children() -> int:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    # One may have ended before.
    os.write(writing, b"\0")
    return reading


def _reap(statuses: dict[int, int]) -> bool:
    """Collect what has ended; whether any child is left."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        statuses[pid] = status


def _end(child: int, grace: float, woken: int, statuses: dict[int, int]) -> None:
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, _LAST_WAIT)):
        deadline = time.monotonic() + seconds
        _signal_all(child, number)
        while _reap(statuses):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            if select.select([woken], [], [], min(left, 0.2))[0]:
                os.read(woken, 512)
            if number == signal.SIGKILL:
                # What was forked meanwhile.
                _signal_all(child, number)
        else:
            return


def _signal_all(child: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, number)
    for pid in _descendants():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _descendants() -> set[int]:
    """Every process below this one, from /proc; empty where there is none."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name, in parentheses, may hold anything.
            rest = stat.read_bytes().rpartition(b")")[2]
            parents[int(stat.parent.name)] = int(rest.split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:]))
