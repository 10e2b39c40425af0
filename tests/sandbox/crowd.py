"""A server in miniature with many sandboxes, of which half are left idle and get stopped.

`python crowd.py INSTANCE COUNT` prints a line once all are open and half of them work.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
from lap_sandbox.base import LauncherConfig, Limits, MiB
from lap_sandbox.docker_engine import DockerLauncher

LITTLE = Limits(memory=256 * MiB, disk=16 * MiB, tmp=16 * MiB)
IDLE = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
BUSY = "print('go')\nimport time\nwhile True: time.sleep(0.05)"


async def main(instance: str, count: int) -> None:
    config = LauncherConfig(warm=0, limits=LITTLE, instance=instance, idle_stop=0.5)
    launcher = DockerLauncher(config, dict(os.environ), Path.home())
    await launcher.prepare()
    working = 0

    def works(stream: str, text: str) -> None:
        nonlocal working
        working += 1
        if working == count // 2:
            print("held", flush=True)

    async with anyio.create_task_group() as group:
        four = anyio.CapacityLimiter(4)
        idle = anyio.Event()
        waiting = 0

        async def one(number: int) -> None:
            nonlocal waiting
            async with four:
                sandbox = await launcher.open(LITTLE)
            if number % 2:
                await sandbox.execute(IDLE, timeout=60)
            waiting += 1
            if waiting == count:
                idle.set()
            await idle.wait()
            if not number % 2:
                await sandbox.execute(BUSY, timeout=600, on_output=works)

        for number in range(count):
            group.start_soon(one, number)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
