"""A server in miniature: holds sandboxes and runs code in one until somebody kills it.

`python holder.py INSTANCE [RUNTIME]` prints a line once everything is open.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
from lap_sandbox.base import LauncherConfig
from lap_sandbox.docker_engine import DockerLauncher

from tests.sandbox.pool import SMALL


async def main(instance: str, runtime: str | None = None) -> None:
    config = LauncherConfig(warm=1, limits=SMALL, instance=instance, runtime=runtime)
    launcher = DockerLauncher(config, dict(os.environ), Path.home())
    await launcher.prepare()
    busy = await launcher.open(SMALL)
    await launcher.open(SMALL)

    def started(stream: str, text: str) -> None:
        print("held", flush=True)

    await busy.execute("print('go')\nwhile True: pass", timeout=600, on_output=started)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
