"""A server that names a file in an answer, and then waits to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
from lap_sandbox.testing import Scripted, ScriptedLauncher

from lap_mcp.model import LOCAL
from tests.control.sandbox_home import SandboxHome


async def main(folder: Path) -> None:
    launcher = ScriptedLauncher(lambda code: Scripted(writes={"named.txt": b"precious"}))
    home = SandboxHome(folder / "lap.db", folder / "blobs")
    async with home.server(launcher) as server:
        run = await server.run(LOCAL, "x")
        print(run.sandbox_id, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
