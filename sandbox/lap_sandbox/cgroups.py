"""Control groups for sandboxes without an engine, where the kernel lets us make them: we are root,
or the group that we are in was delegated.  Versions 1 and 2.  Starts no process."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lap_sandbox.base import Limits

PERIOD = 100_000
"""Microseconds over which CPU time is counted out."""
REMOVE_SECONDS = 5.0
_NOT_EVERYWHERE = ("memory.swap.max", "memory.memsw.limit_in_bytes")
CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parents:
    """Where groups can be made: by controller in version 1, one for all in version 2."""

    version: int
    folders: Mapping[str, Path]

    @property
    def held(self) -> tuple[str, ...]:
        """What can be limited for a whole sandbox."""
        return tuple(name for name in ("memory", "pids", "cpu") if name in self.folders)


NONE = Parents(version=0, folders={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The control group of one sandbox; in version 1 one folder a controller."""

    folders: tuple[Path, ...]
    held: tuple[str, ...] = ()
    views: Mapping[str, Path] = field(default_factory=dict)
    """By the place below /sys/fs/cgroup at which the sandbox may read it."""

    def add(self, pid: int) -> None:
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def out_of_memory(self) -> bool:
        """The kernel killed something in it for memory."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                try:
                    words = (folder / name).read_text().split()
                except OSError:
                    continue
                if int(words[words.index("oom_kill") + 1]) > 0 if "oom_kill" in words else False:
                    return True
        return False

    def remove(self) -> None:
        """Remove it.  A group is busy for a moment after its last process has ended."""
        deadline = time.monotonic() + REMOVE_SECONDS
        for folder in self.folders:
            while folder.is_dir():
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        return
                    time.sleep(0.005)


def _mounts(proc: Path) -> Mapping[str, tuple[Path, str]]:
    """Mount point and root of each hierarchy, by controller; version 2 under the name ``."""
    found: dict[str, tuple[Path, str]] = {}
    for line in (proc / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, point = before.split()[3:5]
        if kind == "cgroup2":
            found[""] = (Path(point), root)
        elif kind == "cgroup":
            for name in options.split(","):
                found.setdefault(name, (Path(point), root))
    return found


def _own(proc: Path) -> Mapping[str, str]:
    """The group that this process is in, by controller."""
    found: dict[str, str] = {}
    for line in (proc / "cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = path
    return found


def _place(mount: tuple[Path, str], group: str) -> Path:
    point, root = mount
    below = group.removeprefix(root.rstrip("/")) if root != "/" else group
    return point / below.lstrip("/")


def _usable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK) and os.access(folder / "cgroup.procs", os.W_OK)


def find(proc: Path = Path("/proc/self")) -> Parents:
    """Where this process may make groups; `NONE` where nowhere."""
    try:
        mounts, own = _mounts(proc), _own(proc)
    except (OSError, ValueError):
        return NONE
    if "memory" in mounts:
        places = {
            name: _place(mounts[name], own[name])
            for name in CONTROLLERS
            if name in mounts and name in own
        }
        usable = {name: place for name, place in places.items() if _usable(place)}
        return Parents(version=1, folders=usable) if "memory" in usable else NONE
    if "" not in mounts or "" not in own:
        return NONE
    return _second(mounts[""][0], _place(mounts[""], own[""]))


def _second(top: Path, own: Path) -> Parents:
    """The nearest group above us that hands memory on to its children.  It has no processes of
    its own then, so that a new child is a sibling of what runs us."""
    for folder in (own, *own.parents):
        try:
            handed = (folder / "cgroup.subtree_control").read_text().split()
        except OSError:
            handed = []
        if "memory" in handed and _usable(folder):
            names = [name for name in CONTROLLERS if name in handed]
            return Parents(version=2, folders=dict.fromkeys(names, folder))
        if folder == top:
            break
    return NONE


def paths(parents: Parents, name: str) -> tuple[Path, ...]:
    """Where the group `name` will be; known before it is made, so that it can be found again."""
    return tuple(dict.fromkeys(folder / name for folder in parents.folders.values()))


def make(parents: Parents, name: str, limits: Limits) -> Group:
    """A new group with `limits`.

    Raises:
        OSError
    """
    group = Group(folders=paths(parents, name))
    try:
        for folder in group.folders:
            folder.mkdir()
        settings = _first_settings if parents.version == 1 else _second_settings
        for controller, file, value in settings(limits):
            if controller in parents.folders:
                _write(parents.folders[controller] / name / file, value)
    except OSError:
        group.remove()
        raise
    shown = ("memory", "pids", "cpuacct")
    views = {c: parents.folders[c] / name for c in shown if c in parents.folders}
    if parents.version == 2:
        views = {"": group.folders[0]}
    return Group(folders=group.folders, held=parents.held, views=views)


def _write(file: Path, value: int | str) -> None:
    """A limit.  Swap is not counted on every kernel: there its file is missing."""
    if file.exists() or file.name not in _NOT_EVERYWHERE:
        file.write_text(str(value))


Setting = tuple[str, str, int | str]


def _first_settings(limits: Limits) -> Sequence[Setting]:
    return [
        ("memory", "memory.limit_in_bytes", limits.memory),
        ("memory", "memory.memsw.limit_in_bytes", limits.memory),
        ("pids", "pids.max", limits.pids),
        ("cpu", "cpu.cfs_period_us", PERIOD),
        ("cpu", "cpu.cfs_quota_us", int(limits.cpus * PERIOD)),
    ]


def _second_settings(limits: Limits) -> Sequence[Setting]:
    return [
        ("memory", "memory.max", limits.memory),
        ("memory", "memory.swap.max", 0),
        ("pids", "pids.max", limits.pids),
        ("cpu", "cpu.max", f"{int(limits.cpus * PERIOD)} {PERIOD}"),
    ]
