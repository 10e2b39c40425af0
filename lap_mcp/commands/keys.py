"""`lap-mcp keys`: the key that clients of `lap-mcp serve` send."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

import typer

from lap_mcp.config import make_private_folder
from lap_mcp.errors import ConfigError, NotFound

from .console import Yes, confirm, fail, put, read_config, say

app = typer.Typer(no_args_is_help=True, help="The key of `lap-mcp serve`.")

FILE_NAME = "serve.key"
_MAX_BYTES = 4096


def key_file(home: Path) -> Path:
    return home / FILE_NAME


def make_key(home: Path) -> str:
    """The key of this `LAP_HOME`, made (32 random bytes, mode 0600) if there is none.

    Raises:
        ConfigError: the folder or the file cannot be used; others can read the file.
    """
    make_private_folder(home)
    file = key_file(home)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return read_key(home)
    except OSError as exc:
        raise ConfigError(f"{file} cannot be written: {exc.strerror}.", key="LAP_HOME") from exc
    key = f"lap_{secrets.token_urlsafe(32)}"
    with os.fdopen(descriptor, "w", encoding="ascii") as out:
        out.write(f"{key}\n")
    return key


def read_key(home: Path) -> str:
    """Raises: NotFound, ConfigError."""
    file = key_file(home)
    try:
        state, key = _read(file)
    except FileNotFoundError as exc:
        raise NotFound(
            f"There is no key yet in {file}.", remedy="`lap-mcp serve` writes one."
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file} cannot be read.", remedy="Run `lap-mcp keys rotate`.") from exc
    if not stat.S_ISREG(state.st_mode) or state.st_uid != os.getuid():
        raise ConfigError(f"{file} is no file of yours.", remedy="Run `lap-mcp keys rotate`.")
    if state.st_mode & 0o077:
        raise ConfigError(
            f"Others can read {file}, so it is no secret any more.",
            remedy=f"Run `chmod 600 {file}` and `lap-mcp keys rotate`.",
        )
    if len(key) < 20:
        raise ConfigError(f"{file} holds no key.", remedy="Run `lap-mcp keys rotate`.")
    return key


def _read(file: Path) -> tuple[os.stat_result, str]:
    """The very file that is looked at; of what is no regular file, nothing is read."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        state = os.fstat(descriptor)
        data = os.read(descriptor, _MAX_BYTES) if stat.S_ISREG(state.st_mode) else b""
    finally:
        os.close(descriptor)
    return state, data.decode("ascii").strip()


@app.command()
def show(context: typer.Context) -> None:
    """Print the key."""
    config = read_config(context)
    try:
        put(read_key(config.home))
    except (ConfigError, NotFound) as error:
        fail(error)


@app.command()
def rotate(context: typer.Context, yes: Yes = False) -> None:
    """Make a new key; clients with the old one are refused once the server is started again."""
    config = read_config(context)
    confirm("Replace the key? Every client needs the new one.", yes=yes)
    try:
        key_file(config.home).unlink(missing_ok=True)
        key = make_key(config.home)
    except (ConfigError, NotFound) as error:
        fail(error)
    say("Start `lap-mcp serve` again, and give this key to its clients.")
    put(key)
