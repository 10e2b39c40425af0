"""What `[sandbox]` says, in the words of `lap_sandbox`.  Makes no launcher."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lap_sandbox.base import LauncherConfig, Limits

from lap_mcp.config import Config, Surroundings


def launcher_settings(config: Config, here: Surroundings, home: Path) -> LauncherConfig:
    """`home`: LAP_HOME."""
    table = config.sandbox
    return LauncherConfig(
        limits=sandbox_size(config),
        warm=table.warm,
        image=table.image,
        runtime=table.runtime,
        wheelhouse=_below_home(here, table.wheelhouse),
        cache=home / "wheels",
        instance=hashlib.sha256(str(home).encode()).hexdigest()[:16],
    )


def _below_home(here: Surroundings, path: str | None) -> Path | None:
    if path is None:
        return None
    return here.home / path[2:] if path.startswith("~/") else Path(path)


def sandbox_size(config: Config) -> Limits:
    table = config.sandbox
    return Limits(
        memory=table.memory,
        cpus=table.cpus,
        pids=table.pids,
        disk=table.disk,
        tmp=table.tmp,
        files=table.files,
        file_size=table.file_size,
    )
