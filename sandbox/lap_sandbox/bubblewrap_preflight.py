"""Whether bubblewrap works here, and what it holds and does not hold, in words."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from lap_sandbox import bubblewrap_command, image_build
from lap_sandbox.base import Check, LauncherConfig
from lap_sandbox.bubblewrap_host import PROBE_SECONDS, Host, why_not
from lap_sandbox.cgroups import Parents

PROBE_UID = 65_534
NEEDED = "import ctypes, json, resource, selectors, socket"
"""Of the standard library; some interpreters keep what these load in folders that are not bound."""


def probe(host: Host) -> None:
    """Make a sandbox and run the interpreter in it.

    Raises:
        LauncherUnavailable: in bubblewrap's words, with the remedy.
    """
    words = bubblewrap_command.frame(host, {}, PROBE_UID)
    words += ["--remount-ro", "/", "--", str(host.interpreter.executable), "-I", "-S", "-c", NEEDED]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_SECONDS,
            check=False,
            env={},
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise why_not(str(error)) from None
    if done.returncode:
        said = done.stderr.strip().removeprefix("bwrap: ")[-500:]
        raise why_not(said or f"exit status {done.returncode}")


def checks(
    host: Host,
    parents: Parents,
    config: LauncherConfig,
    image: tuple[str, Mapping[str, str]] | None,
) -> Sequence[Check]:
    version = ".".join(map(str, host.version))
    return [
        Check(name="bubblewrap", level="ok", words=f"{version}, {host.bwrap}"),
        Check(name="interpreter", level="ok", words=host.interpreter.version),
        Check(name="seccomp", level="ok", words=f"our own filter, for {host.machine}"),
        _user(host),
        _memory(parents, config),
        _processes(host, parents, config),
        _cpu(parents, config),
        _environment(config, image),
    ]


def _user(host: Host) -> Check:
    if host.root:
        words = "we are root: each sandbox has a uid of its own, without rights"
        return Check(name="user", level="ok", words=words)
    words = (
        "each sandbox is in a user namespace of its own, but outside it all have this user's uid"
    )
    return Check(name="user", level="warning", words=words)


def _memory(parents: Parents, config: LauncherConfig) -> Check:
    size = f"{config.limits.memory >> 20} MiB"
    if "memory" in parents.held:
        words = f"{size} for each sandbox, by a control group (version {parents.version})"
        return Check(name="memory", level="ok", words=words)
    words = f"{size} for each process, not for a sandbox as a whole: no control group is ours"
    remedy = (
        "Start the server in a delegated group (`systemd-run --user --scope -p Delegate=yes`), as "
        "root, or use a container engine."
    )
    return Check(name="memory", level="warning", words=words, remedy=remedy)


def _processes(host: Host, parents: Parents, config: LauncherConfig) -> Check:
    counted = host.root or host.kernel >= bubblewrap_command.COUNTED_NAMESPACES
    if counted or "pids" in parents.held:
        words = f"{config.limits.pids} for each sandbox"
        return Check(name="processes", level="ok", words=words)
    words = "not limited: this kernel counts them for the user, not for a sandbox"
    return Check(name="processes", level="warning", words=words, remedy="Linux 5.14 or newer.")


def _cpu(parents: Parents, config: LauncherConfig) -> Check:
    if "cpu" in parents.held:
        words = f"{config.limits.cpus:g} for each sandbox"
        return Check(name="cpu", level="ok", words=words)
    return Check(name="cpu", level="warning", words="not limited: no control group is ours")


def _environment(config: LauncherConfig, found: tuple[str, Mapping[str, str]] | None) -> Check:
    remedy = "It is made at the first use, or now by `lap-mcp sandbox build`."
    flavor = image_build.flavor_of(config.image)
    if found is None or flavor is None:
        words = "the environment for code is not made yet"
        return Check(name="environment", level="warning", words=words, remedy=remedy)
    if found[1].get(image_build.HASH_LABEL) != image_build.content_hash(flavor):
        words = "the environment for code is of another version of lap-mcp"
        return Check(name="environment", level="warning", words=words, remedy=remedy)
    return Check(name="environment", level="ok", words=found[0])
