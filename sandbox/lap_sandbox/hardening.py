"""With what restrictions a sandbox's container is created: data, no engine."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lap_sandbox import seccomp
from lap_sandbox.base import Limits, MiB, Mount

COMMAND = ["/opt/lap/venv/bin/python3", "-I", "-S", "/opt/lap/supervisor.py"]
SHARED_MEMORY = 64 * MiB
TMP_FILES = 10_000
GVISOR_MEMORY = 256 * MiB
"""What gVisor's kernel may have for itself: 90 MiB more than the same interpreters take without it,
and its heap grows with files, pipes and processes."""
OOM_SCORE = 500
"""The zygote and the worker raise their own: the supervisor goes last."""

_NO_NETWORK = {"network_mode": "none", "network_disabled": True}
_NO_RIGHTS = {"cap_drop": ["ALL"], "privileged": False, "read_only": True, "group_add": []}
_OWN_NAMESPACES = {"ipc_mode": "private", "cgroupns": "private"}

ENVIRONMENT = {
    "HOME": "/tmp",
    "USER": "sandbox",
    "LOGNAME": "sandbox",
    "LANG": "C.UTF-8",
    "PATH": "/opt/lap/venv/bin:/usr/bin:/bin",
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": "/tmp/.matplotlib",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What is known about the engine and the server, not about the code."""

    image: str
    """An image id (`sha256:…`), never a name: names move."""
    runtime: str | None
    apparmor: bool
    small_uids: bool
    """The engine maps only 65,536 uids (rootless, userns-remap)."""
    labels: dict[str, str]
    idle_stop: float = 60.0
    mounts: Sequence[Mount] = ()
    gvisor: bool = False
    """A kernel of the sandbox's own, whose threads the engine counts."""
    ungrouped: bool = False
    """The engine has no control groups that limit memory and processes of a container."""
    profile_file: str | None = None
    """Where the seccomp profile is, for Podman, which wants a file instead of its text and knows
    fewer options of a tmpfs."""
    host_socket: str | None = None
    """Where in the container the host listens (`direct.py`); its folder is one of `mounts`."""


def choose_uid(*, small: bool) -> int:
    """A uid of its own for each sandbox: kernel quotas on keyrings, inotify watches and message
    queues are per uid.  Drawn at random, above what distributions and containers hand out."""
    if small:
        return 10_000 + secrets.randbelow(50_000)
    return 2_000_000_000 + secrets.randbelow(100_000_000)


def _tmpfs(size: int, files: int, uid: int, *, podman: bool) -> str:
    if podman:  # neither the number of files nor an owner: nobody else is in there
        return f"rw,noexec,nosuid,nodev,size={size},mode=1777"
    return f"rw,noexec,nosuid,nodev,size={size},nr_inodes={files},uid={uid},gid={uid},mode=0700"


def security_options(*, apparmor: bool, profile_file: str | None = None) -> list[str]:
    profile = profile_file or json.dumps(seccomp.profile())
    options = ["no-new-privileges:true", f"seccomp={profile}"]
    return options + (["apparmor=docker-default"] if apparmor else [])


def arguments(placement: Placement) -> list[str]:
    """Of the supervisor."""
    words = [str(placement.idle_stop)]
    return words if placement.host_socket is None else [*words, placement.host_socket]


def options(limits: Limits, placement: Placement, uid: int) -> dict[str, Any]:
    """Arguments of docker-py's `containers.create`, but for ulimits and the log driver, whose
    types belong to the SDK.

    `detach=False` with `stdin_open` makes the engine close the container's input when the
    attached client goes away, which ends the supervisor.
    """
    podman = placement.profile_file is not None
    memory = limits.memory + (GVISOR_MEMORY if placement.gvisor else 0)
    return {
        **_NO_NETWORK,
        **_NO_RIGHTS,
        **_OWN_NAMESPACES,
        "image": placement.image,
        "command": [*COMMAND, *arguments(placement)],
        "user": f"{uid}:{uid}",
        "working_dir": "/mnt/data",
        "hostname": "sandbox",
        "domainname": "",
        "environment": ENVIRONMENT,
        "use_config_proxy": False,
        "stdin_open": True,
        "tty": False,
        "detach": False,
        "init": False,
        "tmpfs": {
            "/mnt/data": _tmpfs(limits.disk, limits.files, uid, podman=podman),
            "/tmp": _tmpfs(limits.tmp, TMP_FILES, uid, podman=podman),
        },
        "shm_size": SHARED_MEMORY,
        "security_opt": security_options(
            apparmor=placement.apparmor, profile_file=placement.profile_file
        ),
        "pids_limit": _pids(limits, placement),
        "mem_limit": memory,
        "memswap_limit": memory,
        "oom_kill_disable": False,
        "oom_score_adj": OOM_SCORE,
        "nano_cpus": int(limits.cpus * 1e9),
        "cpu_shares": 512,
        "healthcheck": {"test": ["NONE"]},
        "restart_policy": {"Name": "no"},
        "auto_remove": True,
        "stop_signal": "SIGKILL",
        "runtime": placement.runtime,
        "labels": placement.labels,
    }


def _pids(limits: Limits, placement: Placement) -> int:
    """What the engine lets a container have.  gVisor has about five threads of the host's for each
    process (203 for 32, 369 for 64, 613 for 128 of them), keeps them for later, and ends where it
    gets none; of its own processes it counts no more than `ulimits` says."""
    return 8 * limits.pids + 128 if placement.gvisor else limits.pids


def ulimits(limits: Limits, placement: Placement | None = None) -> dict[str, int]:
    """Soft and hard alike.  Podman asks for more processes than it may give unless it is told, and
    gVisor's are not the engine's; the uid is the sandbox's own, so that they are counted for it
    alone."""
    ungrouped = placement is not None and placement.ungrouped
    podman = placement is not None and placement.profile_file is not None
    gvisor = placement is not None and placement.gvisor
    return {
        **({"nproc": limits.pids} if podman or ungrouped or gvisor else {}),
        **({"data": limits.memory} if ungrouped else {}),
        "nofile": limits.open_files,
        "core": 0,
        "fsize": limits.file_size,
        "msgqueue": 0,
        "memlock": 65_536,
    }
