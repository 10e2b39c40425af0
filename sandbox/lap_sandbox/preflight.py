"""What `lap-mcp doctor` says about an engine: pure judgement of facts, no calls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lap_sandbox import image_build
from lap_sandbox.base import Check, LauncherConfig
from lap_sandbox.engine import Facts

PODMAN = "Podman Engine"
"""The component by which Podman is known."""
RUNC_FIXED = {(1, 2): (1, 2, 8), (1, 3): (1, 3, 3), (1, 4): (1, 4, 0)}
"""First release of each line with CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881 fixed."""


def _version(text: str) -> tuple[int, int, int] | None:
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _runc(facts: Facts) -> Check:
    text = facts.components.get("runc") or facts.components.get("OCI Runtime (runc)", "")
    text = text.split("\n")[0].removeprefix("runc version ")
    version = _version(text)
    if version is None:
        return Check(name="runc", level="warning", words="the engine does not tell its version")
    fixed = RUNC_FIXED.get(version[:2])
    if version >= (1, 5, 0) or (fixed is not None and version >= fixed):
        return Check(name="runc", level="ok", words=text)
    return Check(
        name="runc",
        level="warning",
        words=f"{text} is older than the fixes of CVE-2025-31133, -52565 and -52881 "
        "(1.2.8, 1.3.3, 1.4.0), unless your distribution backported them",
        remedy="Update runc, or check your distribution's security tracker.",
    )


_LIMITS = {"memory": "MemoryLimit", "processes": "PidsLimit", "CPU": "CpuCfsQuota"}
"""By the engine's names.  Source: Docker Engine API, SystemInfo."""


def unlimited(info: Mapping[str, object]) -> list[str]:
    """What an engine cannot limit, from what it says of itself."""
    return [what for what, name in _LIMITS.items() if info.get(name) is False]


def gvisor(info: Mapping[str, Any]) -> list[str]:
    """The runtimes of an engine that are gVisor, by their name or their program."""
    known = info.get("Runtimes") or {}
    return [name for name, how in known.items() if "runsc" in f"{name} {how.get('path', '')}"]


def _groups(facts: Facts) -> Check:
    if not facts.unlimited:
        return Check(name="cgroup", level="ok", words=f"version {facts.cgroup_version}")
    return Check(
        name="cgroup",
        level="warning",
        words=f"the engine cannot limit {', '.join(facts.unlimited)} of a whole sandbox: "
        "memory is limited for each process, processes by their uid, CPU not at all",
        remedy="Rootless engines need cgroup version 2 and systemd; or use one that runs as root.",
    )


def _apparmor(facts: Facts) -> Check:
    if "apparmor" in facts.security:
        words = "on; sandboxes have the engine's profile"
        return Check(name="apparmor", level="ok", words=words)
    words = "off on the engine's machine, or another module is in its place: one layer less"
    return Check(name="apparmor", level="warning", words=words)


def _security(facts: Facts) -> list[Check]:
    checks = []
    if "seccomp" in facts.security:
        checks.append(Check(name="seccomp", level="ok", words="on; sandboxes bring their own"))
    else:
        checks.append(
            Check(
                name="seccomp",
                level="error",
                words="the engine runs without seccomp: sandboxes would not be confined",
                remedy="Use a kernel and an engine with seccomp.",
            )
        )
    who = [name for name in ("rootless", "userns") if name in facts.security]
    words = f"{who[0]}: root in a container is nobody outside" if who else "the engine runs as root"
    checks.append(Check(name="user namespace", level="ok" if who else "warning", words=words))
    checks.append(_apparmor(facts))
    if PODMAN in facts.components:
        words = "Podman does not limit the number of files of a sandbox, only their size"
        checks.append(Check(name="files", level="warning", words=words))
    checks.append(_groups(facts))
    return checks


def _runtime(facts: Facts, config: LauncherConfig) -> list[Check]:
    if config.runtime is None:
        return []
    if config.runtime in facts.runtimes:
        words = f"{config.runtime}: a kernel of the sandbox's own"
        if config.runtime in facts.gvisor:
            words += "; it does not apply our seccomp profile, see docs/sandbox.md"
        return [Check(name="runtime", level="ok", words=words)]
    known = ", ".join(facts.runtimes)
    return [
        Check(
            name="runtime",
            level="error",
            words=f"the engine has no OCI runtime `{config.runtime}`; it has {known}",
            remedy="Register it in the engine's daemon.json, or take `runtime` out of `[sandbox]`.",
        )
    ]


def _image(config: LauncherConfig, found: tuple[str, Mapping[str, str]] | None) -> Check:
    flavor = image_build.flavor_of(config.image)
    remedy = "It is built at the first use, or now by `lap-mcp sandbox build`."
    if found is None:
        if flavor is None:
            words = f"`{config.image}` is not on this engine"
            return Check(name="image", level="error", words=words, remedy="Pull or build it.")
        words = f"`{config.image}` is not built yet"
        return Check(name="image", level="warning", words=words, remedy=remedy)
    if flavor is not None and found[1].get(image_build.HASH_LABEL) != (
        image_build.content_hash(flavor)
    ):
        words = f"`{config.image}` is of another version of lap-mcp"
        return Check(name="image", level="warning", words=words, remedy=remedy)
    return Check(name="image", level="ok", words=f"`{config.image}` ({found[0][7:19]})")


def checks(
    facts: Facts, config: LauncherConfig, image: tuple[str, Mapping[str, str]] | None
) -> list[Check]:
    """All checks of one engine."""
    engine = f"{facts.version} at {facts.address}, from {facts.how}"
    return [
        Check(name="engine", level="ok", words=engine),
        _runc(facts),
        *_security(facts),
        *_runtime(facts, config),
        _image(config, image),
    ]
