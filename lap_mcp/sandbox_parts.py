"""What sandboxes are made with, by the configuration: for `app.py`, and for commands that need
only the kept ones.  The launcher is chosen in `app.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lap_mcp.clock import SystemClock
from lap_mcp.config import Config

if TYPE_CHECKING:
    from lap_sandbox.base import Limits, Mount

    from lap_mcp.control.sandbox_entry import SandboxLimits
    from lap_mcp.control.shelf import Shelf
    from lap_mcp.store.blobs import BlobStore
    from lap_mcp.store.database import Database


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


def sandbox_shelf(database: Database, config: Config, home: Path) -> Shelf:
    """The kept sandboxes, without an engine."""
    from lap_mcp.control.shelf import Shelf

    return Shelf(database, sandbox_blobs(home), sandbox_limits(config), SystemClock())
