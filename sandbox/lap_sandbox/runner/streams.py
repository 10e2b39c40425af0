"""What a worker and its children print: two pipes, read as it comes."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

from lap_sandbox.runner.polling import Poller
from lap_sandbox.runner.wire import Kind

READ = 64 * 1024
"""Bytes taken at once: what a pipe holds."""
REST_SECONDS = 0.005
"""After a little was read: a program that prints a line at a time shall not wake this process, the
engine and the host for each."""


class Streams:
    """The read ends of stdout and stderr; `on_data` gets what comes, with its kind of frame."""

    def __init__(
        self, poller: Poller, out: int, error: int, on_data: Callable[[int, bytes], None]
    ) -> None:
        self._poller = poller
        self._on_data = on_data
        # A file's read of nothing is a value; the raw call's is an exception, which costs more.
        self._files = {Kind.STDOUT: io.FileIO(out), Kind.STDERR: io.FileIO(error)}
        self._calls = {kind: self._reader(kind) for kind in self._files}
        self._resting: list[int] = []
        self._until = 0.0
        for kind, file in self._files.items():
            poller.watch(file.fileno(), self._calls[kind])

    def _reader(self, kind: int) -> Callable[[], None]:
        return lambda: self._read(kind)

    def _read(self, kind: int) -> None:
        """One read, so that a flood on one stream starves nothing else."""
        file = self._files.get(kind)
        data = None if file is None else file.read(READ)
        if file is None or data is None:
            return
        if len(data) < READ // 2:
            self._poller.unwatch(file.fileno())
            if not data:
                file.close()
                del self._files[kind]
                return
            self._resting.append(kind)
            self._until = time.monotonic() + REST_SECONDS
        self._on_data(kind, data)

    def rest(self) -> float | None:
        """Seconds until `wake` is to be called; `None` where it need not."""
        return max(self._until - time.monotonic(), 0.0) if self._resting else None

    def wake(self) -> None:
        """Look at streams again that were left alone for a moment, if that is over."""
        if self._resting and time.monotonic() >= self._until:
            self._watch_again()

    def _watch_again(self) -> None:
        for kind in self._resting:
            if kind in self._files:
                self._poller.watch(self._files[kind].fileno(), self._calls[kind])
        self._resting.clear()

    def drain(self) -> None:
        """Everything that is in the pipes now."""
        for _ in range(64):
            self._watch_again()
            ready = self._poller.ready()
            kinds = [kind for kind, file in self._files.items() if file.fileno() in ready]
            if not kinds:
                return
            for kind in kinds:
                self._read(kind)

    def close(self) -> None:
        for file in self._files.values():
            self._poller.unwatch(file.fileno())
            file.close()
        self._files.clear()
        self._resting.clear()
