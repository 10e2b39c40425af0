"""Frames that wait for the host to take them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from lap_sandbox.runner import wire
from lap_sandbox.runner.polling import Poller

_WRITE = 64 * 1024


class Outgoing:
    """What is sent goes out with `flush`, as much of it at once as the pipe takes.

    `on_change` is called when the host lags behind, and when it has caught up.  The host's going
    away ends this process, and with it everything.
    """

    def __init__(self, fd: int, poller: Poller, on_change: Callable[[], None]) -> None:
        self._fd = fd
        self._poller = poller
        self._on_change = on_change
        self._bytes = bytearray()
        os.set_blocking(fd, False)

    def __len__(self) -> int:
        return len(self._bytes)

    def send(
        self, kind: int, id: int, header: Mapping[str, object] | None = None, body: bytes = b""
    ) -> None:
        self._bytes += wire.encode(kind, id, header, body)

    def add(self, frame: bytes) -> None:
        """As `send`, for what is a frame already."""
        self._bytes += frame

    def flush(self) -> None:
        waiting = self._bytes
        while waiting:
            try:
                written = os.write(
                    self._fd, waiting if len(waiting) <= _WRITE else waiting[:_WRITE]
                )
            except BlockingIOError:
                break
            except OSError:
                os._exit(0)
            del waiting[:written]
        watched = self._poller.watches(self._fd)
        if waiting and not watched:
            self._poller.watch(self._fd, self._on_change, write=True)
        elif not waiting and watched:
            self._poller.unwatch(self._fd)
        if waiting or watched:
            self._on_change()
