"""What servers that were killed left: when a running server looks for it."""

from __future__ import annotations

import anyio
import pytest
from lap_sandbox.errors import LauncherUnavailable
from lap_sandbox.testing import ScriptedLauncher

from lap_mcp.app import keep_reaping

pytestmark = pytest.mark.anyio


class Reaped(ScriptedLauncher):
    """Its engine is down the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.again = anyio.Event()

    async def reap(self) -> int:
        self.asked += 1
        if self.asked == 1:
            raise LauncherUnavailable("down")
        self.again.set()
        return 1


async def test_left_over_sandboxes_are_looked_for_again_also_after_the_engine_was_down() -> None:
    launcher = Reaped()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_reaping, launcher, 0.01)
            await launcher.again.wait()
            tasks.cancel_scope.cancel()
    assert launcher.asked == 2


async def test_left_over_sandboxes_are_looked_for_at_once() -> None:
    launcher = Reaped()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_reaping, launcher)
            while not launcher.asked:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert launcher.asked == 1
