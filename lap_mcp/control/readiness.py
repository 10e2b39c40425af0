"""Whether Python can be run now, and how far that is."""

from __future__ import annotations

import logging

from anyio.abc import TaskGroup
from lap_sandbox.base import Launcher, Preparation
from lap_sandbox.errors import LauncherUnavailable

from lap_mcp.errors import Unavailable

from .polling import until

log = logging.getLogger(__name__)

_PATIENCE = 1.0
"""Seconds that a call waits for a sandbox that is about to be ready, before it says how far."""


class Readiness:
    """`tasks` is where the preparation runs; without one, nothing is begun."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._preparing = False
        self.tasks: TaskGroup | None = None

    def preparation(self) -> Preparation:
        return self._launcher.preparation()

    def begin(self) -> None:
        """Get ready, in the background."""
        if self.tasks is None or self._preparing:
            return
        self._preparing = True
        self.tasks.start_soon(self._prepare, name="sandbox preparation")

    async def _prepare(self) -> None:
        try:
            await self._launcher.prepare()
        except LauncherUnavailable as error:
            log.warning("no sandbox can be opened: %s", error)
        finally:
            self._preparing = False

    async def require(self) -> None:
        """Raises: Unavailable, with how far it is or why it cannot be."""
        if self._launcher.preparation().ready:
            return
        self.begin()
        await until(self._known, _PATIENCE)
        state = self._launcher.preparation()
        if state.ready:
            return
        if state.error is not None:
            raise Unavailable(f"Python cannot run here now: {state.error}")
        far = "" if state.fraction is None else f" ({state.fraction:.0%})"
        raise Unavailable(
            f"The sandbox is being prepared: {state.words}{far}.",
            remedy="Call again in half a minute; everything else works meanwhile.",
        )

    def _known(self) -> bool:
        state = self._launcher.preparation()
        return state.ready or (state.error is not None and not self._preparing)
