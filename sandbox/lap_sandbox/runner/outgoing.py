"""Frames that wait for the host to take them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice

from lap_sandbox.runner import wire
from lap_sandbox.runner.polling import Poller

_AT_ONCE = 64
"""Pieces that one call writes."""

PIPE_BYTES = 1024 * 1024
"""What the pipes to the host are to hold: else each 64 kB of a file wakes both sides."""


def widen(*pipes: int) -> None:
    """Where the kernel grants it; not for what is no pipe."""
    for pipe in pipes:
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class Outgoing:
    """What is sent goes out with `flush`, as much of it at once as the pipe takes.

    `on_change` is called when the host lags behind, and when it has caught up.  The host's going
    away ends this process, and with it everything.
    """

    def __init__(self, fd: int, poller: Poller, on_change: Callable[[], None]) -> None:
        self._fd = fd
        self._poller = poller
        self._on_change = on_change
        self._pieces: deque[bytes | memoryview] = deque()
        self._size = 0
        os.set_blocking(fd, False)

    def __len__(self) -> int:
        return self._size

    def send(
        self, kind: int, id: int, header: Mapping[str, object] | None = None, body: bytes = b""
    ) -> None:
        self.add(wire.encode(kind, id, header, body))

    def add(self, frame: bytes) -> None:
        """As `send`, for what is a frame already, or a part of one."""
        self._pieces.append(frame)
        self._size += len(frame)

    def flush(self) -> None:
        waiting = self._pieces
        while waiting:
            try:
                if len(waiting) == 1:
                    written = os.write(self._fd, waiting[0])
                else:
                    written = os.writev(self._fd, list(islice(waiting, _AT_ONCE)))
            except BlockingIOError:
                break
            except OSError:
                os._exit(0)
            self._take(written)
        watched = self._poller.watches(self._fd)
        if waiting and not watched:
            self._poller.watch(self._fd, self._on_change, write=True)
        elif not waiting and watched:
            self._poller.unwatch(self._fd)
        if waiting or watched:
            self._on_change()

    def _take(self, written: int) -> None:
        """Forget what is written, without copying what is not."""
        self._size -= written
        while written:
            piece = self._pieces[0]
            if written < len(piece):
                self._pieces[0] = memoryview(piece)[written:]
                return
            written -= len(piece)
            self._pieces.popleft()
