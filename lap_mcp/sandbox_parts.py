"""What sandboxes are made with, by the configuration: a part of `app.py`, also for commands that
need only sandboxes.  Concrete launchers are named here and nowhere else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lap_mcp.clock import SystemClock
from lap_mcp.config import Config, Surroundings

if TYPE_CHECKING:
    from lap_sandbox.base import Launcher, Limits, Mount
    from lap_sandbox.choice import ChosenLauncher
    from lap_sandbox.launcher import ContainerLauncher

    from lap_mcp.control.sandbox_entry import SandboxLimits
    from lap_mcp.control.sandboxes import Sandboxes
    from lap_mcp.control.shelf import Shelf
    from lap_mcp.store.blobs import BlobStore
    from lap_mcp.store.database import Database

    AnyLauncher = ContainerLauncher | ChosenLauncher

LAUNCHER_FILE = "sandbox-launcher"
"""In LAP_HOME: which launcher `auto` decided for."""


def sandbox_size(config: Config) -> Limits:
    """What one sandbox may use."""
    from lap_sandbox.base import Limits

    table = config.sandbox
    return Limits(
        memory=table.memory,
        cpus=table.cpus,
        pids=table.pids,
        disk=table.disk,
        tmp=table.tmp,
        files=table.files,
        file_size=table.file_size,
        whole=table.printed,
    )


def sandbox_mounts(config: Config) -> Sequence[Mount]:
    """Folders that every sandbox may read; they were checked when the file was read."""
    from lap_sandbox.base import Mount

    return [
        Mount(source=Path(source), target=f"/mnt/{name}")
        for name, source in sorted(config.sandbox.mounts.items())
    ]


def sandbox_limits(config: Config) -> SandboxLimits:
    """How many there may be, how long, and how much of them is kept."""
    from lap_mcp.control.sandbox_entry import SandboxLimits

    table = config.sandbox
    return SandboxLimits(
        sandbox=sandbox_size(config),
        idle=table.idle,
        open=table.max_open,
        per_principal=table.per_principal,
        keep=table.keep,
        keep_each=table.keep_each,
        retention=config.retention.days * 24 * 3600.0,
    )


def sandbox_blobs(home: Path) -> BlobStore:
    """Apart from those of sessions: of these it is quickly known which nothing names any more."""
    from lap_mcp.store.blobs import BlobStore

    return BlobStore(home / "blobs" / "sandboxes")


def made_sandboxes(launcher: Launcher, database: Database, config: Config, home: Path) -> Sandboxes:
    from lap_mcp.control.sandboxes import Sandboxes

    return Sandboxes(launcher, database, sandbox_blobs(home), sandbox_limits(config))


def sandbox_shelf(database: Database, config: Config, home: Path) -> Shelf:
    """The kept sandboxes, without an engine."""
    from lap_mcp.control.shelf import Shelf

    return Shelf(database, sandbox_blobs(home), sandbox_limits(config), SystemClock())


def _below_home(here: Surroundings, path: str | None) -> Path | None:
    if path is None:
        return None
    return here.home / path[2:] if path.startswith("~/") else Path(path)


def sandbox_launcher(
    config: Config, here: Surroundings, home: Path, *, shared: bool = False
) -> AnyLauncher:
    """The launcher that `[sandbox]` asks for.  Construction touches no engine.

    `shared`: others than this user are served, so that `auto` is an engine and nothing else.
    """
    from lap_sandbox.base import LauncherConfig

    table = config.sandbox
    settings = LauncherConfig(
        limits=sandbox_size(config),
        warm=table.warm,
        warm_age=table.warm_age,
        image=table.image,
        runtime=table.runtime,
        wheelhouse=_below_home(here, table.wheelhouse),
        cache=home / "wheels",
        instance=hashlib.sha256(os.fsencode(home)).hexdigest()[:16],
        mounts=sandbox_mounts(config),
    )

    def docker() -> ContainerLauncher:
        from lap_sandbox.docker_engine import DockerLauncher

        return DockerLauncher(settings, environ=here.environ, home=here.home)

    def bubblewrap() -> ContainerLauncher:
        from lap_sandbox.bubblewrap import BubblewrapLauncher

        return BubblewrapLauncher(settings, environ=here.environ, home=home)

    if table.launcher == "bubblewrap":
        return bubblewrap()
    if table.launcher == "docker" or shared:
        return docker()
    from lap_sandbox.choice import ChosenLauncher

    candidates = {"docker": docker, "bubblewrap": bubblewrap}
    if table.runtime is not None or not table.image.startswith("lap-sandbox:"):
        del candidates["bubblewrap"]  # both are an engine's
    return ChosenLauncher(candidates, home / LAUNCHER_FILE, settings.limits)
