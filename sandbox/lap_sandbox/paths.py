"""Which file names a sandbox takes, and how a hostile one is shown.  Opens no file."""

from __future__ import annotations

import unicodedata

from lap_sandbox.errors import BadPath

MAX_COMPONENT = 255
"""Bytes of one name, the limit of Linux file systems."""
MAX_PATH = 1024
MAX_DEPTH = 16

# Cc: control characters, Cf: invisible ones (bidirectional marks, zero-width), Cs: lone surrogates,
# Zl and Zp: line and paragraph separators.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def clean_path(path: str) -> str:
    """`path`, relative to `/mnt/data`, in Unicode normal form C.

    Raises:
        BadPath: empty, absolute, `.` or `..` in it, control or invisible characters, too long,
            too deep.  The message says which.
    """
    name = unicodedata.normalize("NFC", path)
    check_path(name)
    return name


def check_path(path: str) -> None:
    """As `clean_path`, for a file that exists and may have been named by the sandbox's own code.

    Raises:
        BadPath
    """
    shown = show_name(path)
    if not path or path.startswith("/"):
        raise BadPath(
            f"`{shown}` is refused: give a path relative to /mnt/data, such as `data.csv`."
        )
    if any(unicodedata.category(char) in _REFUSED_CATEGORIES for char in path):
        raise BadPath(f"`{shown}` is refused: it has control or invisible characters in it.")
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise BadPath(f"`{shown}` is refused: `.`, `..` and empty folder names are not allowed.")
    too_long = any(len(part.encode()) > MAX_COMPONENT for part in parts)
    if too_long or len(path.encode()) > MAX_PATH or len(parts) > MAX_DEPTH:
        raise BadPath(
            f"`{shown[:80]}…` is refused: a name has at most {MAX_COMPONENT} bytes, a path "
            f"{MAX_PATH} bytes and {MAX_DEPTH} folders."
        )


def show_name(name: str) -> str:
    """`name` with everything escaped that could move a cursor, reorder text or hide."""
    return "".join(
        char
        if unicodedata.category(char) not in _REFUSED_CATEGORIES
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in name
    )
