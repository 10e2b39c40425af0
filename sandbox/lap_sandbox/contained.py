"""One contained process of bubblewrap: started with its stdio in our hands, found again, ended.

It must be started from the thread of the event loop: `--die-with-parent` means that thread, and a
worker thread ends when it was idle for a while.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from lap_sandbox import owner
from lap_sandbox.bubblewrap_command import Descriptors
from lap_sandbox.cgroups import Group
from lap_sandbox.errors import LauncherUnavailable

START_SECONDS = 10.0
END_SECONDS = 10.0
_LAST_WORDS = 4096


class PlainStreams:
    """Stdout comes over the connection as it is, stderr through a pipe that is read when asked.
    What does not fit into the pipe is dropped: only our own supervisor writes there."""

    def __init__(self, errors: int) -> None:
        self._errors = errors
        self._words = b""

    def feed(self, data: bytes | memoryview) -> list[bytes | memoryview]:
        return [data]

    @property
    def stderr(self) -> bytes:
        with contextlib.suppress(BlockingIOError, OSError):
            while data := os.read(self._errors, _LAST_WORDS):
                self._words = (self._words + data)[-_LAST_WORDS:]
        return self._words

    def close(self) -> None:
        _ = self.stderr
        if self._errors >= 0:
            os.close(self._errors)
            self._errors = -1


class _Process:
    """bubblewrap, a child of ours: what `subprocess` does of it without a thread or a wait."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._fd = os.pidfd_open(pid)

    def kill(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)

    async def ended(self) -> bool:
        """Wait for its end, which comes after that of everything in the sandbox; whether it
        came."""
        if self._fd < 0:
            return True
        with anyio.move_on_after(END_SECONDS):
            await anyio.wait_readable(self._fd)
            self._reap()
        return self._fd < 0

    def _reap(self) -> None:
        os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG)
        os.close(self._fd)
        self._fd = -1


@dataclass(slots=True, kw_only=True)
class Contained:
    """`pid` is PID 1 of the sandbox, as this side sees it."""

    process: _Process
    connection: socket.socket
    streams: PlainStreams
    pid: int
    start: str

    def release(self) -> None:
        self.connection.close()


class _Ends:
    """The descriptors of one start; both sides of each, until the child has its own."""

    def __init__(self, seccomp: bytes) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.errors, self.errors_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.info, self.info_write = os.pipe2(os.O_CLOEXEC)
        self.block_read, self.block = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.info, False)
        self.seccomp = os.memfd_create("seccomp")
        os.write(self.seccomp, seccomp)
        os.lseek(self.seccomp, 0, os.SEEK_SET)
        self._theirs = [self.errors_write, self.info_write, self.block_read, self.seccomp]
        self._ours = [self.info, self.block]

    @property
    def descriptors(self) -> Descriptors:
        return Descriptors(seccomp=self.seccomp, info=self.info_write, block=self.block_read)

    def started(self) -> None:
        """The child has its ends."""
        self.theirs.close()
        for fd in self._theirs:
            os.close(fd)
        self._theirs = []

    def close(self) -> None:
        """Also lets the child go on, or end."""
        self.started()
        for fd in self._ours:
            os.close(fd)
        self._ours = []


async def start(
    command: Callable[[Descriptors], list[str]], seccomp: bytes, group: Group | None
) -> Contained:
    """A new sandbox, in its control group before its first instruction.

    Raises:
        LauncherUnavailable: bubblewrap could not make it; its words.
    """
    ends = await anyio.to_thread.run_sync(_Ends, seccomp)
    streams = PlainStreams(ends.errors)
    process = None
    try:
        arguments = await anyio.to_thread.run_sync(command, ends.descriptors)
        process = _spawn(arguments, ends)
        ends.started()
        pid = await _child(ends.info)
        if pid is None:
            process.kill()
            words = streams.stderr.decode("utf-8", "replace").strip().removeprefix("bwrap: ")
            raise LauncherUnavailable(words or "it said nothing")
        contained = Contained(
            process=process,
            connection=ends.ours,
            streams=streams,
            pid=pid,
            start=await anyio.to_thread.run_sync(owner.start_of, pid),
        )
        if group is not None:
            await anyio.to_thread.run_sync(group.add, pid)
    except BaseException:
        ends.ours.close()
        streams.close()
        with anyio.CancelScope(shield=True):
            if process is not None:
                process.kill()
                await process.ended()
        raise
    finally:
        ends.close()
    return contained


def _spawn(arguments: list[str], ends: _Ends) -> _Process:
    """`posix_spawn`, because `subprocess` waits for the new program on the event loop.  What else
    this process has open is closed by `enter.py`."""
    given = ends.descriptors
    stdio = ((ends.theirs.fileno(), 0), (ends.theirs.fileno(), 1), (ends.errors_write, 2))
    # To itself: it then stays open in the new program.
    handed = ((fd, fd) for fd in (given.seccomp, given.info, given.block))
    actions = [(os.POSIX_SPAWN_DUP2, *pair) for pair in (*stdio, *handed)]
    ignored = [signal.SIGPIPE, signal.SIGXFSZ]
    pid = os.posix_spawn(arguments[0], arguments, {}, file_actions=actions, setsigdef=ignored)
    return _Process(pid)


async def _child(info: int) -> int | None:
    """What bubblewrap tells of its child; `None` where it ended instead."""
    told = b""
    with anyio.move_on_after(START_SECONDS):
        while True:
            await anyio.wait_readable(info)
            data = os.read(info, 4096)
            told += data
            if b"}" in told:
                return int(json.loads(told)["child-pid"])
            if not data:
                return None
    return None


async def end(contained: Contained) -> None:
    """SIGKILL to PID 1 of the sandbox, with which all of it ends; wait for that."""
    await anyio.to_thread.run_sync(kill, contained.pid, contained.start)
    if not await contained.process.ended():
        contained.process.kill()
        await contained.process.ended()
    contained.streams.close()


def kill(pid: int, start: str) -> bool:
    """SIGKILL to exactly the process that started then; whether it was there."""
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL):
            return False
        raise
    try:
        if owner.start_of(pid) != start:
            return False
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def is_running(pid: int, start: str) -> bool:
    return bool(start) and owner.start_of(pid) == start


class Records:
    """A file for each sandbox of this LAP_HOME, so that another process can list and end it.
    Every method blocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, id: str, record: Mapping[str, Any]) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = self._folder / f".{id}"
        unfinished.write_text(json.dumps(record))
        unfinished.rename(self._folder / f"{id}.json")

    def remove(self, id: str) -> None:
        (self._folder / f"{id}.json").unlink(missing_ok=True)

    def read(self, id: str) -> Mapping[str, Any] | None:
        try:
            found = json.loads((self._folder / f"{id}.json").read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def all(self) -> Mapping[str, Mapping[str, Any]]:
        ids = [path.stem for path in self._folder.glob("*.json")]
        found = {id: self.read(id) for id in ids}
        return {id: record for id, record in found.items() if record is not None}


def end_recorded(id: str, record: Mapping[str, Any]) -> None:
    """End a sandbox that another process started, and remove its control group."""
    found = [(int(record["pid"]), str(record["start"]))] if record.get("pid") else _named(id)
    for pid, start_of in found:
        if kill(pid, start_of):
            deadline = time.monotonic() + END_SECONDS
            while is_running(pid, start_of) and time.monotonic() < deadline:
                time.sleep(0.01)
    Group(folders=tuple(map(Path, record.get("groups") or ()))).remove()


def _named(id: str) -> list[tuple[int, str]]:
    """Processes of bubblewrap that were told this id: those of a server that was killed before it
    knew their pid, in a moment when bubblewrap does not see that either."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if id.encode() in (entry / "cmdline").read_bytes():
                    found.append((int(entry.name), owner.start_of(int(entry.name))))
    return found
