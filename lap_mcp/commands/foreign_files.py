"""Configuration files of other programs: read as they are, and replaced at once or not at all.

What is not ours stays: line ends, a byte order mark, the rights, the owner, and where a link leads.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

from lap_mcp.errors import ConfigError, Conflict, Invalid

_MARK = "\ufeff"
_NEW_FILE = 0o600
"""Rights of a file that was not there: it may come to hold secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignFile:
    path: Path
    """As it was named: perhaps a link."""
    data: bytes | None
    """`None`: there is none."""
    text: str
    """Without a byte order mark; lines end with `\\n`, unless some end otherwise."""
    marked: bool
    windows: bool
    """Every line ends with `\\r\\n`."""

    def encoded(self, text: str) -> bytes:
        """`text` as this file would hold it."""
        lines = text.replace("\n", "\r\n") if self.windows else text
        return (_MARK * self.marked + lines).encode()

    def difference(self, text: str) -> str:
        names = f"{self.path} (now)", f"{self.path} (then)"
        lines = unified_diff(self.text.splitlines(), text.splitlines(), *names, lineterm="")
        return "\n".join(lines)


def read_foreign(path: Path) -> ForeignFile:
    """Raises: Invalid."""
    try:
        data = _data(path)
        text = (data or b"").decode()
    except OSError as exc:
        raise Invalid(f"{path} cannot be read: {(exc.strerror or str(exc)).lower()}.") from exc
    except UnicodeDecodeError as exc:
        raise Invalid(f"{path} is not UTF-8 text.") from exc
    marked = text.startswith(_MARK)
    text = text.removeprefix(_MARK)
    windows = "\r\n" in text and text.count("\r\n") == text.count("\n")
    return ForeignFile(
        path=path,
        data=data,
        text=text.replace("\r\n", "\n") if windows else text,
        marked=marked,
        windows=windows,
    )


def _data(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Invalid(f"{path} is not a regular file.")
        return file.read()


def replace_foreign(file: ForeignFile, text: str) -> None:
    """Put `text` into the file, through a link if it is one.

    Raises:
        Conflict: it is not what was read any more.
        ConfigError: it cannot be written.
    """
    real = Path(os.path.realpath(file.path))
    data = file.encoded(text)
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=real.parent, prefix=".lap-mcp-")
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(descriptor)
                _take_rights(descriptor, real)
            if _data(real) != file.data:
                raise Conflict(
                    f"{file.path} was changed by somebody else just now.", remedy="Run it again."
                )
            os.replace(name, real)  # noqa: PTH105
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as exc:
        words = (exc.strerror or str(exc)).lower()
        raise ConfigError(f"{file.path} cannot be written: {words}.") from exc


def _take_rights(descriptor: int, real: Path) -> None:
    try:
        state = real.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, _NEW_FILE)
        return
    if (state.st_uid, state.st_gid) != (os.getuid(), os.getgid()):
        with contextlib.suppress(PermissionError):  # a file of a group that we are not in
            os.fchown(descriptor, state.st_uid, state.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(state.st_mode))
