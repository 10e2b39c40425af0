"""Which descriptors are ready, and whom to call then.  `selectors` does the same at several times
the cost, which every execution would pay twice."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

_AT_ONCE = 16


class Poller:
    """Calls back for descriptors that can be read, and for one that can be written."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[], object]] = {}

    def watch(self, fd: int, call: Callable[[], object], *, write: bool = False) -> None:
        """Call `call` whenever `fd` is ready; it is made non-blocking."""
        os.set_blocking(fd, False)
        self._epoll.register(fd, select.EPOLLOUT if write else select.EPOLLIN)
        self._calls[fd] = call

    def unwatch(self, fd: int) -> None:
        """Of one that is not watched: no effect.  Before `fd` is closed."""
        if self._calls.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def watches(self, fd: int) -> bool:
        return fd in self._calls

    def ready(self) -> list[int]:
        """What is ready now, of what is watched; nobody is called."""
        return [fd for fd, _ in self._epoll.poll(0, _AT_ONCE)]

    def wait(self, seconds: float | None) -> None:
        """Wait at most `seconds` and call for all that is ready."""
        for fd, _ in self._epoll.poll(seconds, _AT_ONCE):
            call = self._calls.get(fd)
            if call is not None:  # else dropped in this round
                call()
