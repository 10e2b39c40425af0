"""Opening the services at the first request that needs them, once for all who wait."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio
import anyio.abc

from lap_mcp.control.services import Services
from lap_mcp.errors import LapError, Unavailable

from .arguments import load

logger = logging.getLogger(__name__)


class _Attempt:
    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error: LapError | None = None


class LazyServices:
    """Opens by `opener`; `opened` runs before anybody gets the services."""

    def __init__(
        self,
        opener: Callable[[], Awaitable[Services]],
        opened: Callable[[anyio.abc.TaskGroup, Services], Awaitable[None]],
        *,
        deadline: float,
    ) -> None:
        self._opener = opener
        self._opened = opened
        self._deadline = deadline
        self._attempt: _Attempt | None = None
        self._group: anyio.abc.TaskGroup | None = None
        self.now: Services | None = None
        """The services, where they are open already."""

    def use(self, group: anyio.abc.TaskGroup) -> None:
        """Where opening runs: no request's own, since requests are cancelled."""
        self._group = group

    async def get(self) -> Services:
        """The services; callers that come while they are being opened wait for the same attempt.
        A failure is told to all of them; the next caller tries again.

        Raises: LapError
        """
        if self.now is not None:
            return self.now
        if self._group is None:
            raise RuntimeError("the face is not running")
        attempt = self._attempt
        if attempt is None:
            attempt = self._attempt = _Attempt()
            self._group.start_soon(self._open, self._group, attempt)
        with anyio.move_on_after(self._deadline):
            await attempt.done.wait()
        if attempt.error is not None:
            raise attempt.error
        if self.now is None:
            raise Unavailable(
                f"The store did not open in {self._deadline:g} s.",
                remedy="Try again; `lap-mcp doctor` says what holds it up.",
            )
        return self.now

    async def _open(self, group: anyio.abc.TaskGroup, attempt: _Attempt) -> None:
        """Boundary: whatever opening raises is told to those who wait, in words."""
        try:
            group.start_soon(load)  # the first call needs it; opening takes a while anyway
            services = await self._opener()
            await self._opened(group, services)
            self.now = services
        except LapError as error:
            attempt.error = error
        except Exception:
            logger.exception("the services could not be opened")
            attempt.error = Unavailable(
                "The server could not open its store.", remedy="Its log on stderr says why."
            )
        finally:
            self._attempt = None
            attempt.done.set()
