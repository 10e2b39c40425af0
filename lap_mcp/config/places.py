"""Where the configuration and the data of this user are, by the conventions of the platform.

The process environment is read here and nowhere else; everything else takes `Surroundings`.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lap_mcp.errors import ConfigError

FILE_NAME = "lap.toml"
FOLDER_NAME = "lap-mcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the process was started with."""

    environ: Mapping[str, str]
    home: Path
    """Home folder of the user: absolute."""
    folder: Path
    """Working folder.  Nothing is read from it unless a person names it."""
    platform: str = sys.platform


def surroundings() -> Surroundings:
    return Surroundings(
        environ=dict(os.environ), home=_home(os.environ.get("HOME", "")), folder=_folder()
    )


def _home(variable: str) -> Path:
    home = Path(variable)
    if home.is_absolute():
        return home
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a user without an entry, as containers have them
        return Path("/")


def _folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/")


def _absolute(here: Surroundings, name: str) -> Path | None:
    """A folder from a variable; a relative one is ignored, as the XDG specification says."""
    path = Path(here.environ.get(name, ""))
    return path if path.is_absolute() else None


def config_file(here: Surroundings, option: str | None = None) -> tuple[Path, bool]:
    """The configuration file, and whether somebody named it (then it has to exist).

    `option` is what a person typed after `--config`.

    Raises:
        ConfigError: `LAP_CONFIG` is a relative path: it would be looked up in a working folder
            that may be anybody's.
    """
    if option:
        below_home = option.startswith("~/")
        return (here.home / option[2:] if below_home else here.folder / option), True
    named = here.environ.get("LAP_CONFIG", "")
    if named:
        return _named(here, "LAP_CONFIG", named), True
    return config_folder(here) / FILE_NAME, False


def _named(here: Surroundings, variable: str, value: str) -> Path:
    path = here.home / value[2:] if value.startswith("~/") else Path(value)
    if not path.is_absolute():
        raise ConfigError(
            "is a relative path, which would be looked up in whatever folder we are started in.",
            key=variable,
            remedy="Give an absolute path.",
        )
    return path


def config_folder(here: Surroundings) -> Path:
    base = _absolute(here, "XDG_CONFIG_HOME")
    if base is None:
        mac = here.platform == "darwin"
        base = here.home / ("Library/Application Support" if mac else ".config")
    return base / FOLDER_NAME


def data_folder(here: Surroundings) -> Path:
    """`LAP_HOME`, else the user's data folder.

    Raises:
        ConfigError: `LAP_HOME` is a relative path.
    """
    named = here.environ.get("LAP_HOME", "")
    if named:
        return _named(here, "LAP_HOME", named)
    base = _absolute(here, "XDG_DATA_HOME")
    if base is None:
        mac = here.platform == "darwin"
        base = here.home / ("Library/Application Support" if mac else ".local/share")
    return base / FOLDER_NAME


def make_private_folder(path: Path) -> None:
    """Make `path` with mode 0700, or take the rights of others from one that is ours.

    Raises:
        ConfigError: it is not a folder, belongs to another user, or cannot be written.
    """
    remedy = "Set LAP_HOME to a folder that only you can read and write."
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = path.stat()
        if state.st_uid != os.getuid():
            raise ConfigError(f"{path} belongs to another user.", key="LAP_HOME", remedy=remedy)
        if stat.S_IMODE(state.st_mode) & 0o077:
            path.chmod(0o700)
        if not os.access(path, os.W_OK | os.X_OK):
            raise ConfigError(f"{path} cannot be written.", key="LAP_HOME", remedy=remedy)
    except OSError as exc:
        words = exc.strerror or str(exc)
        raise ConfigError(
            f"{path} cannot be made or written: {words}.", key="LAP_HOME", remedy=remedy
        ) from exc
