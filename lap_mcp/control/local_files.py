"""Files that a local client names by path: which are read, and how, so that nothing else is.

A path arrives from a model, perhaps talked into it by what it read.  Only regular files below
the client's working folder or a configured folder are read; every folder on the way is opened
without following links, so that what was checked is what is read.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import anyio.to_thread

from lap_mcp.errors import Invalid, LimitReached, NotFound

from .git_ignore import DEADLINE, is_ignored

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_HIDDEN_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_SHOWN = 120
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class LocalFiles:
    """Reads files for one local user.  `folders` are the allowed ones, the working folder first.

    Construction looks at the folders (off the event loop, please).  `environ` is for git, which
    knows what it ignores."""

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        environ: Mapping[str, str],
        hidden: bool = False,
        ignored: bool = False,
        max_bytes: int = 50 * 1024 * 1024,
        git_deadline: float = DEADLINE,
    ) -> None:
        self._folders = [Folder(given=f, real=Path(os.path.realpath(f))) for f in folders]
        self._environ = environ
        self._hidden = hidden
        self._ignored = ignored
        self._max_bytes = max_bytes
        self._git_deadline = git_deadline

    async def read(self, path: str, /) -> tuple[str, bytes]:
        """The file's name and bytes.

        Raises:
            Invalid: the path is refused; why, and what to do.
            NotFound: no such file.
            LimitReached: it is too large.
        """
        folder, parts = self._locate(path)
        if not self._ignored:
            # git is asked before anything is opened, and its answer is about a name; what is read
            # below is found by file descriptor.
            await self._refuse_ignored(path, folder.real.joinpath(*parts))
        data = await anyio.to_thread.run_sync(self._read, path, folder, parts)
        return parts[-1], data

    def _locate(self, path: str) -> tuple[Folder, tuple[str, ...]]:
        _refuse_form(path)
        pure = PurePosixPath(path)
        if ".." in pure.parts:
            raise _refused(path, "it has `..` in it", "Write the path without `..`.")
        folder, relative = self._below(path, pure)
        if not relative.parts:
            raise _refused(path, "it is a folder", "Name a file in it.")
        hidden = next((part for part in relative.parts if part.startswith(".")), None)
        if hidden is not None and not self._hidden:
            raise _refused(
                path,
                f"`{hidden}` is hidden, and hidden files often hold secrets",
                "Copy what is needed to another name, or set `hidden_files = true` in [mcp].",
            )
        return folder, relative.parts

    def _below(self, path: str, pure: PurePosixPath) -> tuple[Folder, PurePosixPath]:
        if not self._folders:
            raise _refused(
                path,
                "this server was started outside a project folder",
                'Set `folders = ["/absolute/path"]` in [mcp] of lap.toml.',
            )
        if not pure.is_absolute():
            return self._folders[0], pure
        for folder in self._folders:
            for base in (folder.given, folder.real):
                if pure.is_relative_to(base):
                    return folder, pure.relative_to(base)
        allowed = ", ".join(str(folder.given) for folder in self._folders)
        raise _refused(
            path,
            f"it is outside of {allowed}",
            "Copy the file there, or add its folder to `folders` in [mcp] of lap.toml.",
        )

    async def _refuse_ignored(self, path: str, file: Path) -> None:
        reason = await is_ignored(file, self._environ, deadline=self._git_deadline)
        if reason:
            raise _refused(
                path,
                reason,
                "Copy what is needed to a file that git does not ignore, or set "
                "`ignored_files = true` in [mcp].",
            )

    def _read(self, path: str, folder: Folder, parts: tuple[str, ...]) -> bytes:
        try:
            with _opened(folder.real, parts) as descriptor:
                return self._bytes(path, descriptor)
        except _Odd as odd:
            raise _refused(path, odd.words, odd.remedy) from None
        except FileNotFoundError:
            raise NotFound(
                f"There is no file `{show(path)}` in {folder.given}.",
                remedy="Check the name; a relative path starts at that folder.",
            ) from None
        except OSError as exc:
            words = (exc.strerror or "it cannot be read").lower()
            raise _refused(path, f"it cannot be read ({words})", "Check its rights.") from None

    def _bytes(self, path: str, descriptor: int) -> bytes:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise _Odd("it is not a regular file", "Name a regular file.")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            data = file.read(self._max_bytes + 1)
        if len(data) > self._max_bytes:
            limit = self._max_bytes // (1024 * 1024)
            raise LimitReached(
                f"`{show(path)}` is larger than {limit} MB.", remedy="Give a smaller file."
            )
        return data


@dataclass(frozen=True, slots=True)
class Folder:
    given: Path
    """As it was named."""
    real: Path
    """Without links, fixed when the server started."""


class _Odd(Exception):
    """Something on the way that is refused."""

    def __init__(self, words: str, remedy: str) -> None:
        super().__init__(words)
        self.words = words
        self.remedy = remedy


@contextmanager
def _opened(base: Path, parts: tuple[str, ...]) -> Iterator[int]:
    """A descriptor of the file, reached from `base` folder by folder."""
    current = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            _refuse_link(part, current)
            below = os.open(part, _FOLDER_FLAGS, dir_fd=current)
            os.close(current)
            current = below
        # Looked at before it is opened: opening a device or a FIFO can already do something.
        mode = _refuse_link(parts[-1], current)
        if stat.S_ISDIR(mode):
            raise _Odd("it is a folder", "Name a file in it.")
        if not stat.S_ISREG(mode):
            raise _Odd("it is a device, a pipe or a socket", "Name a regular file.")
        file = os.open(parts[-1], _FILE_FLAGS, dir_fd=current)
        os.close(current)
        current = file
        yield current
    finally:
        os.close(current)


def _refuse_link(name: str, folder: int) -> int:
    mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        raise _Odd(f"`{show(name)}` is a link", "Name the file itself, not a link to it.")
    return mode


def _refuse_form(path: str) -> None:
    if not path.strip() or len(path) > 4096:
        raise _refused(path, "it is empty or too long", "Give the path of a file.")
    if _SCHEME.match(path):
        raise _refused(
            path, "it is an address, and nothing is fetched from one", "Give the path of a file."
        )
    if path.startswith("~"):
        raise _refused(
            path, "`~` stands for a home folder", "Give a path below the working folder."
        )
    if any(unicodedata.category(char) in _HIDDEN_CATEGORIES for char in path):
        raise _refused(
            path, "it has control or invisible characters in it", "Name it without them."
        )


def _refused(path: str, why: str, remedy: str) -> Invalid:
    return Invalid(f"The file `{show(path)}` is refused: {why}.", remedy=remedy)


def show(path: str) -> str:
    """The path as far as it can be shown."""
    kept = "".join(
        char if unicodedata.category(char) not in _HIDDEN_CATEGORIES else "?" for char in path
    )
    return kept if len(kept) <= _SHOWN else kept[:_SHOWN] + "…"


def allowed_folders(working: Path, home: Path, configured: Sequence[str]) -> list[Path]:
    """The working folder, unless it is no project (`/` or the home folder), and configured ones."""
    folders = [home / name[2:] if name.startswith("~/") else Path(name) for name in configured]
    project = working.is_absolute() and working not in (Path("/"), home)
    return [working, *folders] if project else folders
