"""What a container of the front doors is made of: the sandbox it stands on, the result of a run,
and the names under which a file is found in it."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import anyio
from lap_sandbox.base import Execution, FileInfo, Output

from lap_mcp.errors import Invalid, LimitReached, NotFound
from lap_mcp.model import Principal
from lap_mcp.store.front import Container, FrontFile

from .services import SandboxesAPI

PICTURES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


class BoxesAPI(SandboxesAPI, Protocol):
    """Sandboxes, and what a container needs of them beside running code."""

    async def open(
        self, principal: Principal, scope: str, *, memory: int | None = None
    ) -> tuple[str, bool]:
        """The sandbox of `scope`, and whether it is new.  `memory` in bytes, for a new one."""
        ...

    async def put(
        self, principal: Principal, sandbox_id: str, path: str, data: bytes
    ) -> FileInfo: ...

    async def delete(self, principal: Principal, sandbox_id: str, path: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRun:
    """An execution, and what its container holds afterwards."""

    execution: Execution
    pictures: Sequence[tuple[FrontFile, Output]]
    files: Mapping[str, str]
    """Path below `/mnt/data`, and the prefixed name of each upload, to file id."""
    restarted: bool
    """The environment was replaced: files are back, variables are not."""


@dataclass(slots=True)
class Known:
    """What this process knows of a container, so that a run asks the store for nothing."""

    container: Container
    files: dict[str, FrontFile]
    """Those in `/mnt/data`, by path."""
    stored: bool
    """The store knows it."""
    touched: float
    """When the store was last told that it is in use."""
    ran: bool = False
    """Code may have run in it: a new sandbox has lost something."""
    opened: bool = False
    """This process has put its files into a sandbox …"""
    pending: set[str] = field(default_factory=set)
    """… but for these."""
    deleted: bool = False
    """Whoever waits for `lock` waits for something that is gone."""
    # Free nearly always: then taking it costs no turn of the loop.
    lock: anyio.Lock = field(default_factory=lambda: anyio.Lock(fast_acquire=True))


def scope_of(container_id: str) -> str:
    return f"container/{container_id}"


def alias_of(file: FrontFile) -> str | None:
    """The name that the vendor gives an upload; `None`: it has none beside its own."""
    if not file.upload_id or file.path.startswith(f"{file.upload_id}-"):
        return None
    return f"{file.upload_id}-{posixpath.basename(file.path)}"


def paths_of(files: Mapping[str, FrontFile]) -> dict[str, str]:
    found = {path: file.id for path, file in files.items()}
    for file in files.values():
        if alias := alias_of(file):
            found.setdefault(alias, file.id)
    return found


class missing_is_fine:  # noqa: N801 - reads as the statement it is
    """A file that went away, or cannot be kept, costs nothing else."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, (NotFound, Invalid, LimitReached))


def link_code(links: Mapping[str, str]) -> str:
    """Python that makes these links in `/mnt/data` and leaves no name behind."""
    return (
        f"for _a, _b in {dict(links)!r}.items():\n"
        "    __import__('os').path.lexists(_a) or __import__('os').symlink(_b, _a)\n"
        "del _a, _b"
    )
