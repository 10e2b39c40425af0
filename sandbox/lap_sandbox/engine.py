"""What a launcher of containers needs of a container engine.  `docker_engine.py` implements it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lap_sandbox.base import Limits
from lap_sandbox.direct import Meeting
from lap_sandbox.errors import LauncherUnavailable
from lap_sandbox.hardening import Placement
from lap_sandbox.link import Demultiplexer, Streams

ENGINE_DOWN = "The container engine does not answer."


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an engine says of itself."""

    address: str
    how: str
    """Why this engine, in words."""
    version: str
    components: Mapping[str, str]
    """`runc`, `containerd` …: version."""
    security: Sequence[str]
    """`seccomp`, `apparmor`, `rootless`, `userns`, `cgroupns`"""
    cgroup_version: str
    runtimes: Sequence[str]
    gvisor: Sequence[str] = ()
    """Those of `runtimes` that are gVisor …"""
    default_runtime: str = ""
    """… and the one that is taken where none is asked for."""
    unlimited: Sequence[str] = ()
    """What it cannot limit of a container: `memory`, `processes`, `CPU`."""

    @property
    def small_uids(self) -> bool:
        return "rootless" in self.security or "userns" in self.security


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A container that was started, with its stdio attached before."""

    id: str
    connection: socket.socket
    release: Callable[[], None]
    """Closes the connection; keeps alive what it needs until then."""
    streams: Streams = field(default_factory=Demultiplexer)
    meeting: Meeting | None = None
    """Where the supervisor may come instead; to be closed by who gets this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A container with our label."""

    id: str
    running: bool
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    tag: str
    context: bytes
    """A tar archive."""
    arguments: Mapping[str, str]
    labels: Mapping[str, str]


class Engine(Protocol):
    """Every method waits with a deadline and raises `LauncherUnavailable` where the engine does
    not answer."""

    async def find(self) -> Facts:
        """The engine that answers, within two seconds; remembered until it stops answering."""
        ...

    async def image_id(self, tag: str) -> tuple[str, Mapping[str, str]] | None:
        """Id and labels of an image."""
        ...

    async def build(self, request: BuildRequest, on_line: Callable[[str], None]) -> None:
        """Build an image; `on_line` is called from another thread.

        Raises:
            BuildFailed
        """
        ...

    async def discard_image(self, id: str) -> None:
        """Remove an image that another one replaced; one that is still used stays."""
        ...

    async def export_image(self, id: str, file: Path) -> None:
        """Write an image to a new file.

        Raises:
            OSError: also where the file exists.
        """
        ...

    async def import_image(self, file: Path) -> None:
        """Take what `export_image` wrote, with its names.

        Raises:
            OSError
        """
        ...

    async def start(self, limits: Limits, placement: Placement, uid: int) -> Attached: ...

    async def oom_killed(self, id: str) -> bool:
        """The kernel ended this container for memory, as far as the engine still knows."""
        ...

    async def remove(self, id: str) -> None:
        """End and remove a container; no error where it is gone."""
        ...

    async def containers(self, label: str) -> Sequence[Found]: ...

    async def aclose(self) -> None: ...


class EngineRefused(LauncherUnavailable):
    """The engine is there, and will not do it."""


class BuildFailed(Exception):
    """The message is the builder's last words."""


def describe_error(error: Any) -> str:
    """The words of an engine's error, without addresses of this client's objects."""
    explanation = getattr(error, "explanation", None)
    if isinstance(explanation, bytes):
        explanation = explanation.decode("utf-8", "replace")
    return str(explanation or error)[:1000]
