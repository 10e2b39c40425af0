"""`python holder.py INSTANCE LAP_HOME`: `tests/sandbox/holder.py`, without a container engine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
from lap_sandbox.base import LauncherConfig
from lap_sandbox.bubblewrap import BubblewrapLauncher

from tests.sandbox.pool import SMALL


async def main(instance: str, home: str) -> None:
    config = LauncherConfig(warm=0, limits=SMALL, instance=instance)
    launcher = BubblewrapLauncher(config, dict(os.environ), Path(home))
    await launcher.prepare()
    busy = await launcher.open(SMALL)
    await launcher.open(SMALL)

    def started(stream: str, text: str) -> None:
        print("held", flush=True)

    await busy.execute("print('go')\nwhile True: pass", timeout=600, on_output=started)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2])
