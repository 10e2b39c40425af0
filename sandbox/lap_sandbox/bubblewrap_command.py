"""The command line of a sandbox without an engine: data, no process.

The same restrictions as `hardening.py` asks of an engine, where bubblewrap has a word for them.
What it has none for (limits, the uid) is done inside, before anything else, by
`confined/enter.py`, or by a control group around it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lap_sandbox import hardening
from lap_sandbox.base import Limits
from lap_sandbox.bubblewrap_host import PARTS, ROOTS, Host
from lap_sandbox.cgroups import Group
from lap_sandbox.hardening import Placement

PYTHON = "/opt/lap/venv/bin/python3"
ENTRY = "/opt/lap/enter.py"
COUNTED_NAMESPACES = (5, 14)
"""From this kernel on, RLIMIT_NPROC counts the processes of a user namespace by itself."""
MASKED = (
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
)
MASKED_FOLDERS = ("/proc/acpi", "/proc/asound", "/proc/scsi")
"""What engines mask."""
_MASK = ["--size", "4096", "--tmpfs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptors:
    """Numbers that the program inherits."""

    seccomp: int
    info: int
    block: int


def _namespaces(host: Host, uid: int) -> list[str]:
    common = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    common += ["--unshare-cgroup-try", "--hostname", "sandbox"]
    if host.root:
        # As for a container of an engine that runs as root: `enter.py` gives these up for the uid.
        kept = ("CAP_SETUID", "CAP_SETGID", "CAP_CHOWN")
        return [*common, "--cap-drop", "ALL", *(p for cap in kept for p in ("--cap-add", cap))]
    user = ["--unshare-user", "--disable-userns", "--uid", str(uid), "--gid", str(uid)]
    return [*user, *common, "--cap-drop", "ALL"]


def _parents(path: Path) -> list[str]:
    """The folders above `path`.  Those that bubblewrap makes by itself may be closed to a uid."""
    above = [folder for folder in reversed(path.parents) if folder != Path("/")]
    return [word for folder in above for word in ("--perms", "0755", "--dir", str(folder))]


def system(host: Host) -> list[str]:
    """The interpreter and the needed parts of /usr, without the packages installed there."""
    words = _parents(Path("/usr/share/zoneinfo"))
    for part in PARTS:
        words += ["--ro-bind-try", part, part]
    for root in map(Path, ROOTS):
        if root.is_symlink():
            words += ["--symlink", str(root.readlink()), str(root)]
        elif root.is_dir():
            words += ["--ro-bind", str(root), str(root)]
    for file in host.interpreter.files:
        words += [*_parents(file), "--ro-bind", str(file), str(file)]
    for folder in host.interpreter.hidden:
        words += [*_MASK, str(folder), "--remount-ro", str(folder)]
    return words


def _kernel_files() -> list[str]:
    words = ["--proc", "/proc", "--dev", "/dev"]
    for file in MASKED:
        if Path(file).exists():
            words += ["--ro-bind", "/dev/null", file]
    for folder in MASKED_FOLDERS:
        if Path(folder).is_dir():
            words += [*_MASK, folder, "--remount-ro", folder]
    return words


def _memory_files(limits: Limits) -> list[str]:
    def tmpfs(place: str, size: int) -> list[str]:
        return ["--perms", "1777", "--size", str(size), "--tmpfs", place]

    shared = [*tmpfs("/dev/shm", hardening.SHARED_MEMORY), "--remount-ro", "/dev"]
    return [*shared, *tmpfs("/mnt/data", limits.disk), *tmpfs("/tmp", limits.tmp)]


def frame(host: Host, environ: Mapping[str, str], uid: int) -> list[str]:
    """The first half of every command: what is shut off."""
    words = [str(host.bwrap), "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv"]
    for name, value in environ.items():
        words += ["--setenv", name, value]
    libraries = ":".join(map(str, host.interpreter.libraries))
    if libraries:
        words += ["--setenv", "LD_LIBRARY_PATH", libraries]
    return [*words, *_namespaces(host, uid), *system(host), *_kernel_files()]


def limits_inside(host: Host, limits: Limits, held: Sequence[str]) -> dict[str, int]:
    """What each process is limited to by itself.  `held`: what a control group limits for all of
    them together."""
    found = dict(hardening.ulimits(limits))
    if host.root or host.kernel >= COUNTED_NAMESPACES:
        found["nproc"] = limits.pids
    if "memory" not in held:
        found["data"] = limits.memory
    return found


def command(
    host: Host,
    environment: Path,
    limits: Limits,
    placement: Placement,
    uid: int,
    *,
    group: Group | None,
    descriptors: Descriptors,
) -> list[str]:
    """The whole command line of one sandbox, whose control group is `group`."""
    words = frame(host, hardening.ENVIRONMENT, uid)
    for place in ("/opt/lap", "/etc/passwd", "/mnt/data", "/sys/fs/cgroup/memory"):
        words += _parents(Path(place))
    words += ["--ro-bind", str(environment), "/opt/lap"]
    for name in ("passwd", "group", "nsswitch.conf"):
        words += ["--ro-bind", str(environment / "etc" / name), f"/etc/{name}"]
    for place, folder in (group.views if group else {}).items():
        words += ["--ro-bind", str(folder), f"/sys/fs/cgroup/{place}".rstrip("/")]
    words += _memory_files(limits)
    for mount in placement.mounts:
        target = Path(mount.target)
        words += [*_parents(target), "--ro-bind", str(mount.source), str(target)]
    words += ["--remount-ro", "/", "--chdir", "/mnt/data"]
    words += ["--seccomp", str(descriptors.seccomp), "--info-fd", str(descriptors.info)]
    words += ["--block-fd", str(descriptors.block), "--", PYTHON, "-I", "-S", ENTRY]
    settings = {
        "uid": uid if host.root else None,
        "limits": limits_inside(host, limits, group.held if group else ()),
    }
    return [*words, json.dumps(settings), *hardening.arguments(placement)]
