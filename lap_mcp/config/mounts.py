"""Folders of the host that sandboxes may read (`[sandbox] mounts`): which are refused, and why.

Read-only is not harmless: a socket in a mounted folder can be connected to, and what is in it can
be printed into an answer.  So nothing is mounted that holds the keys to this machine.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from lap_mcp.errors import ConfigError

from .faults import Locator
from .places import Surroundings
from .tables import SandboxTable

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_TAKEN = frozenset(("data",))
_LOOKED_AT = 5000
"""Entries of a folder that are looked through for sockets and devices."""

_OF_THE_SYSTEM = (
    "/proc", "/sys", "/dev", "/run", "/var/run", "/etc", "/root", "/boot", "/private/etc",
    "/private/var/run", "/var/lib/docker", "/var/lib/containers", "/var/lib/containerd",
    "/var/lib/kubelet",
)  # fmt: skip
_SOCKETS = (
    ".docker/run/docker.sock",
    ".docker/desktop/docker.sock",
    ".colima/default/docker.sock",
    ".orbstack/run/docker.sock",
    ".rd/docker.sock",
)
"""Where engines listen, below a home folder."""


def usable_mounts(
    table: SandboxTable, here: Surroundings, home: Path, locator: Locator
) -> tuple[SandboxTable, Sequence[ConfigError]]:
    """The table with those mounts that are allowed, each as the folder that it is without links;
    and what is wrong with the others."""
    good: dict[str, str] = {}
    faults: list[ConfigError] = []
    for name, given in table.mounts.items():
        try:
            good[name] = str(_checked(name, given, here, home))
        except ValueError as error:
            faults.append(
                locator.fault(
                    ("sandbox", "mounts", name),
                    f"{given!r} is not mounted: {error}.",
                    "Name a folder with nothing in it but the data that sandboxes are to read.",
                )
            )
    return table.model_copy(update={"mounts": good}), faults


def _checked(name: str, given: str, here: Surroundings, home: Path) -> Path:
    """Raises: ValueError: why not."""
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise ValueError("its name becomes a folder in /mnt: use letters, digits, - and _")
    path = here.home / given[2:] if given.startswith("~/") else Path(given)
    if not path.is_absolute():
        raise ValueError("it is a relative path, and this program is started anywhere")
    real = Path(os.path.realpath(path))
    if not real.is_dir():
        raise ValueError("it is no folder, or not there")
    if any(not char.isprintable() or char in ":," for char in str(real)):
        raise ValueError("engines take a character in its path for something else")
    for place, what in _forbidden(here, home).items():
        if real == place or real in place.parents:
            raise ValueError(f"{what} is in it")
        if place in real.parents and what != _YOUR_HOME:
            raise ValueError(f"it is in {what}")
    if real.is_relative_to(here.home) and any(
        part.startswith(".") for part in real.relative_to(here.home).parts
    ):
        raise ValueError("it is hidden in your home folder, where programs keep secrets")
    odd = _odd_entry(real)
    if odd:
        raise ValueError(odd)
    return real


_YOUR_HOME = "your home folder"


def _forbidden(here: Surroundings, home: Path) -> Mapping[Path, str]:
    """Places, without links, to what they are."""
    found = {Path(place): place for place in _OF_THE_SYSTEM}
    found |= {Path(os.path.realpath(place)): place for place in _OF_THE_SYSTEM}
    for place in (here.home, Path(os.path.realpath(here.home))):
        found[place] = _YOUR_HOME
    found[Path(os.path.realpath(home))] = "LAP_HOME"
    engine = here.environ.get("DOCKER_HOST", "")
    sockets = [here.home / below for below in _SOCKETS]
    if engine.startswith("unix://"):
        sockets.append(Path(engine.removeprefix("unix://")))
    runtime = here.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        sockets.append(Path(runtime))
    return found | {Path(os.path.realpath(socket)): "an engine's socket" for socket in sockets}


def _odd_entry(folder: Path) -> str:
    """A socket, device or pipe among the first entries."""
    looked = 0
    for base, _, names in os.walk(folder):
        for name in names:
            looked += 1
            if looked > _LOOKED_AT:
                return ""
            try:
                mode = os.lstat(os.path.join(base, name)).st_mode  # noqa: PTH118 - a hot loop
            except OSError:
                continue
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                return f"`{name}` in it is a socket, a device or a pipe"
    return ""
