"""`%pip install NAME` without a network: from the unpacked wheels that the operator put there.

To install is to put a wheel's folder on the path of this interpreter and of what it starts.
"""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

HOUSE = Path("/mnt/wheelhouse")
_COMMAND = re.compile(r"^([ \t]*)[%!]pip3?[ \t]+(.*?)[ \t]*$", re.MULTILINE)
_IGNORED = frozenset({"-q", "--quiet", "-U", "--upgrade", "--no-input", "--user"})


class CannotInstall(Exception):
    """The message says what is there instead."""


def is_there() -> bool:
    return HOUSE.is_dir()


def translate(code: str) -> str:
    """`code` with each line `%pip …` made a call; the lines keep their numbers."""
    return _COMMAND.sub(lambda found: f"{found[1]}__pip__({found[2]!r})", code)


def pip(command: str) -> None:
    """What such a line does.

    Raises:
        CannotInstall
    """
    words = shlex.split(command, comments=True)
    if words[:1] != ["install"]:
        raise CannotInstall("Only `%pip install NAME…` works here, from the wheelhouse.")
    wanted = [word for word in words[1:] if word not in _IGNORED]
    options = [word for word in wanted if word.startswith("-")]
    if options or not wanted:
        raise CannotInstall(f"%pip install NAME… takes no {' '.join(options) or 'less'} here.")
    done: set[str] = set()
    for word in wanted:
        _install(word, frozenset(), done)
    importlib.invalidate_caches()


def _install(wanted: str, extras: frozenset[str], done: set[str]) -> None:
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    try:
        requirement = Requirement(wanted)
    except InvalidRequirement as error:
        raise CannotInstall(f"{wanted!r} is no name of a package: {error}") from None
    if requirement.url or not _applies(requirement, extras):
        if requirement.url:
            raise CannotInstall(f"{wanted!r} is an address; there is no network here.")
        return
    name = canonicalize_name(requirement.name)
    key = f"{name}[{','.join(sorted(requirement.extras))}]"
    if key in done:
        return
    done.add(key)
    found = _present(requirement)
    if found is None:
        found = _add(name, requirement)
    for needed in found.requires or ():
        _install(needed, frozenset(requirement.extras), done)


def _applies(requirement: Any, extras: frozenset[str]) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def _present(requirement: Any) -> metadata.Distribution | None:
    try:
        found = metadata.distribution(requirement.name)
    except metadata.PackageNotFoundError:
        return None
    return found if requirement.specifier.contains(found.version, prereleases=True) else None


def _add(name: str, requirement: Any) -> metadata.Distribution:
    version, folder = _best(name, requirement)
    before = os.environ.get("PYTHONPATH")
    sys.path.append(str(folder))
    os.environ["PYTHONPATH"] = f"{before}:{folder}" if before else str(folder)
    print(f"Installed {name} {version}.")  # noqa: T201
    found = next(iter(metadata.distributions(path=[str(folder)])), None)
    if found is None:
        raise CannotInstall(f"The wheel of {name} says nothing about itself.")
    return found


def _best(name: str, requirement: Any) -> tuple[Any, Path]:
    """The newest that fits this interpreter."""
    from packaging.tags import sys_tags
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    fitting = frozenset(sys_tags())
    found: list[tuple[Any, Path]] = []
    names: set[str] = set()
    for folder in HOUSE.iterdir():
        try:
            its_name, version, _, tags = parse_wheel_filename(f"{folder.name}.whl")
        except InvalidWheelFilename:
            continue
        names.add(str(its_name))
        suits = requirement.specifier.contains(version, prereleases=True)
        if its_name == name and suits and tags & fitting:
            found.append((version, folder))
    if not found:
        there = ", ".join(sorted(names)[:40]) or "nothing"
        raise CannotInstall(
            f"The wheelhouse has no {requirement} for this Python. It has: {there}."
        )
    return max(found, key=lambda each: each[0])
