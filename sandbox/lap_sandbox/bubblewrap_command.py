"""The command line of a sandbox without an engine: data, no process.

The same restrictions as `hardening.py` asks of an engine, where bubblewrap has words for them.
What it has none for (the uid, limits, the number of files, noexec) is done inside by
`confined/enter.py` before anything else runs, or by a control group around it.
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
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
DEVICE_LINKS = {
    "/proc/self/fd": "fd",
    "/proc/self/fd/0": "stdin",
    "/proc/self/fd/1": "stdout",
    "/proc/self/fd/2": "stderr",
}
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
        return common
    return ["--unshare-user", "--uid", str(uid), "--gid", str(uid), *common]


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


def _devices(host: Host) -> list[str]:
    """For pseudo-terminals (`--dev`) bubblewrap puts a second user namespace around ours, in which
    `enter.py` may not bound folders any more: without root there are none."""
    if host.root:
        return ["--dev", "/dev"]
    words = ["--size", "65536", "--tmpfs", "/dev"]
    for name in DEVICES:
        words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for target, name in DEVICE_LINKS.items():
        words += ["--symlink", target, f"/dev/{name}"]
    return words


def _kernel_files(host: Host) -> list[str]:
    words = ["--proc", "/proc", *_devices(host)]
    for file in MASKED:
        if Path(file).exists():
            words += ["--ro-bind", "/dev/null", file]
    for folder in MASKED_FOLDERS:
        if Path(folder).is_dir():
            words += [*_MASK, folder, "--remount-ro", folder]
    return words


def _folders(limits: Limits) -> dict[str, dict[str, int]]:
    """Writable ones, held in memory."""
    return {
        "/mnt/data": {"size": limits.disk, "files": limits.files},
        "/tmp": {"size": limits.tmp, "files": hardening.TMP_FILES},
        "/dev/shm": {"size": hardening.SHARED_MEMORY, "files": hardening.TMP_FILES},
    }


def _writable(limits: Limits) -> list[str]:
    words: list[str] = []
    for place, most in _folders(limits).items():
        words += [*_parents(Path(place)), "--size", str(most["size"]), "--tmpfs", place]
    return words


def frame(host: Host, environ: Mapping[str, str], uid: int) -> list[str]:
    """The first half of every command: what is shut off."""
    words = [str(host.bwrap), "--die-with-parent", "--new-session", "--as-pid-1"]
    words += ["--clearenv", "--setenv", "HOSTNAME", "sandbox"]
    for name, value in environ.items():
        words += ["--setenv", name, value]
    libraries = ":".join(map(str, host.interpreter.libraries))
    if libraries:
        words += ["--setenv", "LD_LIBRARY_PATH", libraries]
    return [
        *words,
        *_namespaces(host, uid),
        "--cap-drop",
        "ALL",
        *system(host),
        *_kernel_files(host),
    ]


def _kept(host: Host) -> list[str]:
    """What `enter.py` still needs, and gives up before anything else runs."""
    names = ["SYS_ADMIN", "SETPCAP"] + (["SETUID", "SETGID", "CHOWN"] if host.root else [])
    return [word for name in names for word in ("--cap-add", f"CAP_{name}")]


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
    id: str,
    group: Group | None,
    descriptors: Descriptors,
) -> list[str]:
    """The whole command line of one sandbox, whose control group is `group`."""
    words = frame(host, hardening.ENVIRONMENT, uid)
    for place in ("/opt/lap", "/etc/passwd", "/sys/fs/cgroup/memory"):
        words += _parents(Path(place))
    words += ["--ro-bind", str(environment), "/opt/lap"]
    for name in ("passwd", "group", "nsswitch.conf"):
        words += ["--ro-bind", str(environment / "etc" / name), f"/etc/{name}"]
    for place, folder in (group.views if group else {}).items():
        words += ["--ro-bind", str(folder), f"/sys/fs/cgroup/{place}".rstrip("/")]
    words += _kept(host)
    words += _writable(limits)
    for mount in placement.mounts:
        target = Path(mount.target)
        words += [*_parents(target), "--ro-bind", str(mount.source), str(target)]
    words += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/mnt/data"]
    words += ["--info-fd", str(descriptors.info), "--block-fd", str(descriptors.block)]
    words += ["--", PYTHON, "-I", "-S", ENTRY]
    settings = {
        "id": id,
        "uid": uid if host.root else None,
        "limits": limits_inside(host, limits, group.held if group else ()),
        "folders": _folders(limits),
        "filter": descriptors.seccomp,
    }
    return [*words, json.dumps(settings), *hardening.arguments(placement)]
