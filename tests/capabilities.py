"""What this machine offers to the tests and, in words, how to get what it lacks.

Each check returns `None` where the thing is there, else the reason with its remedy.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUBBLEWRAP_HOME = ROOT / ".cache" / "bubblewrap"
"""LAP_HOME of sandboxes without an engine: making their environment takes a while."""
SANDBOX_IMAGE = "lap-sandbox:core"


@functools.cache
def engine() -> str | None:
    """A Docker Engine that answers."""
    with warnings.catch_warnings():
        # The SDK leaves a socket open when it cannot connect.
        warnings.simplefilter("ignore", ResourceWarning)
        reason = _engine()
        gc.collect()
    return reason


def _engine() -> str | None:
    import docker
    from docker.errors import DockerException

    try:
        docker.from_env(timeout=5).close()
    except DockerException as error:
        return (
            f"no Docker Engine answers ({error}). Install one (Debian: apt install docker.io), "
            "start it, and let this user reach its socket"
        )
    return None


@functools.cache
def sandbox() -> str | None:
    """An engine, and the sandbox image in it."""
    import docker
    from docker.errors import DockerException, ImageNotFound

    if reason := engine():
        return reason
    try:
        client = docker.from_env(timeout=10)
        try:
            client.images.get(SANDBOX_IMAGE)
        finally:
            client.close()
    except ImageNotFound:
        return f"the image {SANDBOX_IMAGE} is missing: build it with `lap-mcp sandbox build`"
    except DockerException as error:
        return f"the Docker Engine does not answer as it should: {error}"
    return None


@functools.cache
def bubblewrap() -> str | None:
    """bubblewrap, and namespaces that it can make."""
    from lap_sandbox import bubblewrap_host, bubblewrap_preflight
    from lap_sandbox.errors import LauncherUnavailable

    try:
        bubblewrap_preflight.probe(bubblewrap_host.look(os.environ))
    except LauncherUnavailable as error:
        return str(error)
    return None


@functools.cache
def postgres() -> str | None:
    """A PostgreSQL server that the tests may write to."""
    if os.environ.get("LAP_TEST_POSTGRES"):
        return None
    return (
        "no PostgreSQL server: run the tests with `scripts/test`, which starts a private one "
        "where the binaries are installed (Debian: apt install postgresql), or name one in "
        "LAP_TEST_POSTGRES=postgresql+asyncpg://…"
    )


@functools.cache
def harness() -> str | None:
    """The real Claude Code and Codex, and a network namespace to shut them into."""
    absent = [m for m in ("claude_agent_sdk", "codex_cli_bin") if not importlib.util.find_spec(m)]
    if absent:
        return f"{' and '.join(absent)} not installed: run `scripts/setup harness`"
    if not sys.platform.startswith("linux") or not shutil.which("unshare"):
        return "needs Linux with `unshare` (Debian: apt install util-linux)"
    if not shutil.which("ip"):
        return "needs the `ip` command (Debian: apt install iproute2)"
    tried = subprocess.run(
        [*loopback_only(), "true"], capture_output=True, text=True, timeout=20, check=False
    )
    if tried.returncode:
        return (
            "no network namespace can be made here "
            f"({tried.stderr.strip() or tried.returncode}): run as root, or allow user namespaces "
            "(sysctl kernel.unprivileged_userns_clone=1)"
        )
    return None


def loopback_only() -> Sequence[str]:
    """The front of a command that runs in a network namespace with nothing but loopback."""
    unshare = ["unshare", "--net"]
    if os.geteuid() != 0:
        unshare.append("--map-root-user")
    return [*unshare, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


@functools.cache
def conformance() -> str | None:
    """Node, new enough for the official suite, the suite, and OpenAI's official npm client."""
    from tests.conformance import suite

    try:
        suite.node()
    except suite.Missing as reason:
        return str(reason)
    if lacking := suite.missing():
        return f"{lacking} is missing: run `scripts/conformance --install`"
    return None


CHECKS: dict[str, Callable[[], str | None]] = {
    "docker": sandbox,
    "bubblewrap": bubblewrap,
    "postgres": postgres,
    "harness": harness,
    "conformance": conformance,
}
"""By the name of the pytest marker, which is also the name in LAP_TEST_REQUIRE."""


def required() -> frozenset[str]:
    """What LAP_TEST_REQUIRE asks for.

    Raises:
        ValueError: it names something that no check is for.
    """
    names = {n.strip() for n in os.environ.get("LAP_TEST_REQUIRE", "").split(",") if n.strip()}
    if unknown := names - CHECKS.keys():
        raise ValueError(
            f"LAP_TEST_REQUIRE names {', '.join(sorted(unknown))}; known: {', '.join(CHECKS)}"
        )
    return frozenset(names)


def main(names: Sequence[str]) -> int:
    """`python -m tests.capabilities [NAME…]`: 0 where all of them are there."""
    checks: dict[str, Callable[[], str | None]] = {"engine": engine, **CHECKS}
    lacking = 0
    for name in names or checks:
        reason = checks[name]()
        print(f"{name}: {reason or 'here'}")
        lacking += reason is not None
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
