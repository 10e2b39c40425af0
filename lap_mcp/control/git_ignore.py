"""Asks git whether it ignores a file, in a repository that may be hostile.

A repository's own configuration can name programs for git to run (`core.fsmonitor`, hooks).  The
one command used here reads neither the index nor hooks, and those keys are overridden besides.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import anyio
import anyio.to_thread

DEADLINE = 5.0
_KEPT = ("HOME", "PATH", "XDG_CONFIG_HOME", "LANG")
_NO_REPOSITORY = b"fatal: not a git repository"
_OPTIONS = (
    ("core.fsmonitor", "false"),
    ("core.hooksPath", "/dev/null"),
    ("core.pager", "cat"),
    ("safe.bareRepository", "explicit"),
)


async def is_ignored(file: Path, environ: Mapping[str, str], *, deadline: float = DEADLINE) -> str:
    """Why `file` is refused, in words; empty if git does not ignore it or knows nothing of it.

    Where there is a repository and git cannot be asked, the file is refused: it may be a secret.
    """
    if not await anyio.to_thread.run_sync(_in_repository, file):
        return ""
    git = await anyio.to_thread.run_sync(_git, environ)
    if git is None:
        return "it is in a git repository, and git is not installed to say whether it ignores it"
    options = [word for key, value in _OPTIONS for word in ("-c", f"{key}={value}")]
    command = [git, *options, "check-ignore", "--no-index", "-q", "--", f"./{file.name}"]
    env = {name: environ[name] for name in _KEPT if name in environ}
    env |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        with anyio.fail_after(deadline):
            done = await anyio.run_process(
                command,
                cwd=file.parent,
                env=env,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
    except TimeoutError:
        return f"git did not say within {deadline:g} s whether it ignores it"
    except OSError:
        return ""  # its folder does not exist or cannot be entered: reading it says so
    if done.returncode == 0:
        return "git ignores it, and such files often hold secrets"
    none = any(line.startswith(_NO_REPOSITORY) for line in done.stderr.splitlines())
    if done.returncode == 1 or none:
        return ""
    return "git cannot say whether it ignores it"


def _in_repository(file: Path) -> bool:
    return any((folder / ".git").exists() for folder in file.parents)


def _git(environ: Mapping[str, str]) -> str | None:
    """Absolute path of git; a `PATH` entry that depends on the working folder is not used."""
    entries = environ.get("PATH", "/usr/bin:/bin").split(":")
    absolute = ":".join(entry for entry in entries if entry.startswith("/"))
    return shutil.which("git", path=absolute) if absolute else None
