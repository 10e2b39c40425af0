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
        "pids_limit": limits.pids,
        "mem_limit": limits.memory,
        "memswap_limit": limits.memory,
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


def ulimits(limits: Limits, placement: Placement | None = None) -> dict[str, int]:
    """Soft and hard alike.  Podman asks for more processes than it may give unless it is told; the
    uid is the sandbox's own, so that they are counted for it alone."""
    ungrouped = placement is not None and placement.ungrouped
    podman = placement is not None and placement.profile_file is not None
    return {
        **({"nproc": limits.pids} if podman or ungrouped else {}),
        **({"data": limits.memory} if ungrouped else {}),
        "nofile": limits.open_files,
        "core": 0,
        "fsize": limits.file_size,
        "msgqueue": 0,
        "memlock": 65_536,
    }
