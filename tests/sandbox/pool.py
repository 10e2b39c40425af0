"""Sandboxes that tests share, because a fresh one costs a second of CPU."""

from __future__ import annotations

from lap_sandbox.base import Launcher, Limits, MiB, Sandbox

SMALL = Limits(memory=512 * MiB, disk=64 * MiB, tmp=32 * MiB, file_size=32 * MiB, files=2000)


class Pool:
    """A few sandboxes for all tests that leave theirs usable, emptied before each."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self._sandboxes: list[Sandbox] = []

    async def sandbox(self, number: int) -> Sandbox:
        while len(self._sandboxes) <= number:
            self._sandboxes.append(await self._open())
        if not self._sandboxes[number].alive:
            self._sandboxes[number] = await self._open()
        found = self._sandboxes[number]
        await found.reset()
        for file in await found.list():
            await found.delete(file.path)
        return found

    async def _open(self) -> Sandbox:
        made = await self.launcher.open(SMALL)
        # Else its interpreters, of which each test has a new one, would come without.
        await made.execute("import pandas", timeout=60)
        return made
