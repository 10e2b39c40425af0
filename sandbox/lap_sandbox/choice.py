"""`launcher = "auto"`: the first launcher that works here, decided once and remembered.

An engine that was chosen and is down later is an error, not a reason to run code with other
limits than yesterday.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from lap_sandbox.base import Check, Limits, Preparation
from lap_sandbox.errors import LauncherUnavailable
from lap_sandbox.launcher import ContainerLauncher
from lap_sandbox.session import ContainerSandbox

logger = logging.getLogger(__name__)

Candidates = Mapping[str, Callable[[], ContainerLauncher]]
"""By the name that is remembered, in the order of preference."""


class ChosenLauncher:
    """`Launcher` that is one of several.  `memory`: the file that keeps the choice."""

    def __init__(self, candidates: Candidates, memory: Path, limits: Limits) -> None:
        self._candidates = candidates
        self._memory = memory
        self._chosen: ContainerLauncher | None = None
        self._why = ""
        self._choosing = anyio.Lock()
        self._error: str | None = None
        self._closed = False
        self.limits = limits
        self.name = "auto"

    def preparation(self) -> Preparation:
        if self._chosen is not None:
            found = self._chosen.preparation()
            words = f"{found.words} ({self._why})" if found.ready and self._why else found.words
            return Preparation(
                ready=found.ready, words=words, fraction=found.fraction, error=found.error
            )
        words = (
            "the sandbox is not available" if self._error else "the sandbox was not prepared yet"
        )
        return Preparation(ready=False, words=words, error=self._error)

    def _remembered(self) -> str | None:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            name = self._memory.read_text("ascii").strip()
            return name if name in self._candidates else None
        return None

    def _remember(self, name: str) -> None:
        """Not being able to costs a second decision, no more."""
        with contextlib.suppress(OSError):
            self._memory.write_text(f"{name}\n", "ascii")

    async def choose(self) -> ContainerLauncher:
        """
        Raises:
            LauncherUnavailable: none works; says why not, each, and how to get one.
        """
        async with self._choosing:
            if self._closed:
                raise LauncherUnavailable("The launcher was closed.")
            if self._chosen is None:
                try:
                    self._chosen = await self._find()
                except LauncherUnavailable as error:
                    self._error = str(error)
                    raise
                self._error, self.name = None, self._chosen.name
            return self._chosen

    async def _find(self) -> ContainerLauncher:
        name = await anyio.to_thread.run_sync(self._remembered)
        if name is not None:
            return await self._again(name)
        refused: list[LauncherUnavailable] = []
        for name, make in self._candidates.items():
            launcher = make()
            try:
                await launcher.reach()
            except LauncherUnavailable as error:
                refused.append(error)
                await launcher.aclose()
                continue
            if refused:
                self._why = f"{name} was chosen: {refused[0].message}"
                logger.warning("sandboxes are made by %s: %s", name, refused[0].message)
            await anyio.to_thread.run_sync(self._remember, name)
            return launcher
        raise LauncherUnavailable(
            " ".join(error.message for error in refused),
            remedy=" Or: ".join(error.remedy for error in refused),
        )

    async def _again(self, name: str) -> ContainerLauncher:
        """The one that was decided for.  What is down is not replaced by what is up."""
        launcher = self._candidates[name]()
        try:
            await launcher.reach()
        except LauncherUnavailable as error:
            await launcher.aclose()
            others = [other for other in self._candidates if other != name]
            instead = f' Or set `launcher = "{others[0]}"` in `[sandbox]`.' if others else ""
            raise LauncherUnavailable(
                f"Sandboxes were made by {name} so far, which does not work now. {error.message}",
                remedy=error.remedy + instead,
            ) from None
        return launcher

    async def prepare(self) -> None:
        await (await self.choose()).prepare()

    async def build(self, *, force: bool) -> None:
        await (await self.choose()).build(force=force)

    async def export_image(self, file: Path) -> None:
        await (await self.choose()).export_image(file)

    async def import_image(self, file: Path) -> str:
        return await (await self.choose()).import_image(file)

    async def open(
        self, limits: Limits, *, labels: dict[str, str] | None = None
    ) -> ContainerSandbox:
        launcher = await self.choose()
        return await launcher.open(limits, labels=labels)

    async def _decided(self) -> ContainerLauncher | None:
        """The launcher, where that is settled; nothing is decided by looking."""
        if self._chosen is None and await anyio.to_thread.run_sync(self._remembered) is None:
            return None
        return await self.choose()

    async def running(self) -> Sequence[Mapping[str, str]]:
        launcher = await self._decided()
        return [] if launcher is None else await launcher.running()

    async def reap(self) -> int:
        launcher = await self._decided()
        return 0 if launcher is None else await launcher.reap()

    async def preflight(self) -> Sequence[Check]:
        remembered = await anyio.to_thread.run_sync(self._remembered)
        names = list(self._candidates) if remembered is None else [remembered]
        passed: list[Check] = []
        for name in names:
            launcher = self._candidates[name]()
            try:
                found = await launcher.preflight()
            finally:
                await launcher.aclose()
            if remembered is not None:
                words = f"{name}, decided earlier; remove {self._memory} to decide again"
                return [Check(name="launcher", level="ok", words=words), *found]
            if all(check.level != "error" for check in found):
                words = f"{name} will be used: it is the first that works here"
                reasons = [_as_warning(check) for check in passed if check.level == "error"]
                return [Check(name="launcher", level="ok", words=words), *reasons, *found]
            passed += found
        return passed

    async def aclose(self) -> None:
        self._closed = True
        if self._chosen is not None:
            await self._chosen.aclose()


def _as_warning(check: Check) -> Check:
    """Why another launcher was not taken: no fault any more."""
    return Check(name=check.name, level="warning", words=check.words, remedy=check.remedy)
