"""docs/libraries.md, made from what a sandbox itself says that it has.

`python -m tests.libraries` prints it; `scripts/libraries` writes it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio
from lap_sandbox import image_build
from lap_sandbox.base import LauncherConfig, Sandbox
from lap_sandbox.docker_engine import DockerLauncher

LISTING = (
    "import importlib.metadata as m\n"
    "print('\\n'.join(sorted({f'{d.name.lower()}=={d.version}' for d in m.distributions()})))"
)
HEAD = (
    "# What is installed in a sandbox\n\n"
    "Written by `scripts/libraries` from the image itself; a test compares the two. Python is "
    "Debian's 3.11 in the image, and\nthe server's own under bubblewrap. "
    '`image = "lap-sandbox:core"` is the default, `"lap-sandbox:full"` has more;\n'
    "[sandbox.md](sandbox.md) says how to add to them.\n"
)


async def installed(sandbox: Sandbox) -> Mapping[str, str]:
    """Name and version of each package."""
    done = await sandbox.execute(LISTING, timeout=60)
    assert done.status == "ok", done
    pairs = (line.split("==") for line in done.stdout.split())
    return {name: version for name, version in pairs}


def wanted(flavor: str) -> Mapping[str, str]:
    """What the image's requirements pin."""
    text = image_build.inputs()[f"requirements-{flavor}.txt"].decode()
    pairs = (line.lower().split("==") for line in text.split() if "==" in line)
    return {name: version for name, version in pairs}


WANTED = {flavor: wanted(flavor) for flavor in image_build.FLAVORS}


def render(core: Mapping[str, str], full: Mapping[str, str]) -> str:
    parts = [HEAD]
    for title, packages in (("core", core), ("full, besides those of core", full)):
        rows = [
            f"| {name} | {version} |"
            for name, version in sorted(packages.items())
            if packages is core or name not in core
        ]
        parts.append("\n".join([f"## {title}\n", "| package | version |", "|---|---|", *rows, ""]))
    return "\n".join(parts)


async def main() -> None:
    launcher = DockerLauncher(LauncherConfig(warm=0), dict(os.environ), Path.home())
    try:
        await launcher.prepare()
        core = await installed(await launcher.open(launcher.limits))
    finally:
        await launcher.aclose()
    sys.stdout.write(render(core, WANTED["full"]))


if __name__ == "__main__":
    anyio.run(main)
