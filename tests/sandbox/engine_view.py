"""What the engine itself says about containers: asked by the command line, not by our code."""

from __future__ import annotations

import json
import subprocess
from typing import Any


def docker(*arguments: str) -> str:
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=30, check=True
    ).stdout


def containers_of(instance: str) -> list[str]:
    """Ids of all containers of `instance`, whatever their state."""
    listed = docker("ps", "-aq", "--no-trunc", "--filter", f"label=lap.instance={instance}")
    return listed.split()


def running_of(instance: str) -> list[str]:
    """Ids of its running containers."""
    return docker("ps", "-q", "--no-trunc", "--filter", f"label=lap.instance={instance}").split()


def inspect(id: str, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", *options, id))[0]
    return found
