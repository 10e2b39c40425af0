"""Files of sandboxes and sessions, saved on the machine of the one local user: new files only.

Everything is done relative to a descriptor of the folder, without following links: a folder that
is exchanged meanwhile leads nowhere else.  A file appears under its name when it is whole, and
never in place of another.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote

import anyio.to_thread

from lap_mcp.errors import Invalid, LimitReached, Unavailable
from lap_mcp.model import Principal

from .output_names import check_output_name
from .prompt_files import SANDBOX_FILE, SESSION_FILE
from .services import Saved, SessionsAPI

FOLDER = "lap-output"
MAX_FILES = 16
_TRIES = 100
"""Names that are tried for one file: `a.csv`, `a-2.csv`, …"""
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Contents(Protocol):
    async def content(
        self, principal: Principal, sandbox_id: str, path: str
    ) -> AsyncIterator[bytes]: ...


class OutputFolder:
    """`configured` is the operator's folder; else it is `lap-output` in the working folder, which
    `working` names unless that is no project."""

    def __init__(
        self,
        sandboxes: Contents,
        sessions: SessionsAPI,
        *,
        working: Path | None,
        configured: Path | None = None,
    ) -> None:
        self._sandboxes = sandboxes
        self._sessions = sessions
        self._working = working
        self._configured = configured

    async def save(self, principal: Principal, uris: Sequence[str]) -> Sequence[Saved]:
        """Save each under the last part of its name, or the next free one: `a-2.csv`.

        Raises:
            Invalid: an address or a name is refused; nothing is saved.
            NotFound, Unavailable: what stands before it in the list is saved.
        """
        if len(uris) > MAX_FILES:
            raise LimitReached(f"{len(uris)} files at once; {MAX_FILES} is the limit.")
        names = [_name(uri) for uri in uris]
        for name in names:
            check_output_name(name)
        saved = []
        for uri, name in zip(uris, names, strict=True):
            content = await self._content(principal, uri)
            saved.append(await self._save(uri, name, content))
        return saved

    async def _content(self, principal: Principal, uri: str) -> AsyncIterator[bytes]:
        if match := SANDBOX_FILE.fullmatch(uri):
            return await self._sandboxes.content(principal, match[1], unquote(match[2]))
        match = SESSION_FILE.fullmatch(uri)
        assert match is not None  # `_name` knew it
        _, data = await self._sessions.file(principal, match[1], unquote(match[2]))
        return _once(data)

    async def _save(self, uri: str, name: str, content: AsyncIterator[bytes]) -> Saved:
        draft = await anyio.to_thread.run_sync(self._begin)
        try:
            async for piece in content:
                await anyio.to_thread.run_sync(draft.write, piece)
            final = await anyio.to_thread.run_sync(draft.publish, name)
        except OSError as error:
            raise _failed(self._shown, error) from error
        finally:
            await anyio.to_thread.run_sync(draft.close)
        return Saved(uri=uri, path=str(self._shown / final), size=draft.size)

    @property
    def _shown(self) -> Path:
        if self._configured is not None:
            return self._configured
        return (self._working or Path("/")) / FOLDER

    def _begin(self) -> _Draft:
        try:
            with self._folder() as folder:
                return _Draft(os.dup(folder))
        except OSError as error:
            raise _failed(self._shown, error) from error

    @contextmanager
    def _folder(self) -> Iterator[int]:
        if self._configured is not None:
            # The operator's own words: links on the way to it are theirs.
            folder = os.open(self._configured, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        elif self._working is None:
            raise Unavailable(
                "Nothing is saved: this server was started outside a project folder.",
                remedy='Set `output = "/absolute/path"` in [mcp] of lap.toml.',
            )
        else:
            folder = _below(self._working)
        try:
            state = os.fstat(folder)
            if state.st_uid != os.getuid() or state.st_mode & stat.S_IWOTH:
                raise Unavailable(
                    f"Nothing is saved: {self._shown} belongs to somebody else, or everybody may "
                    "write there.",
                    remedy="Use a folder of your own.",
                )
            yield folder
        finally:
            os.close(folder)


def _below(working: Path) -> int:
    """A descriptor of `lap-output` in the working folder, made if it is not there."""
    parent = os.open(working, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(FOLDER, 0o755, dir_fd=parent)
        return os.open(FOLDER, _FOLDER_FLAGS, dir_fd=parent)
    finally:
        os.close(parent)


class _Draft:
    """A file under a hidden name of its own, until it is whole."""

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._hidden = f".{FOLDER}-{secrets.token_hex(8)}"
        self.size = 0
        try:
            self._fd = os.open(self._hidden, _CREATE, 0o644, dir_fd=folder)
        except OSError:
            os.close(folder)
            raise

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self.size += len(data)

    def publish(self, name: str) -> str:
        """Give it the first free of its names.  Raises: OSError, LimitReached."""
        pure = PurePosixPath(name)
        for count in range(1, _TRIES + 1):
            free = name if count == 1 else f"{pure.stem}-{count}{pure.suffix}"
            if len(free.encode()) > 255 or not self._named(free):
                continue
            return free
        raise LimitReached(
            f"{_TRIES} files are called {name!r} or like it.", remedy="Remove some of them."
        )

    def _named(self, name: str) -> bool:
        """Whether nothing had that name; a link or a folder is something, too."""
        try:
            os.link(
                self._hidden,
                name,
                src_dir_fd=self._folder,
                dst_dir_fd=self._folder,
                follow_symlinks=False,
            )
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self._copied(name)
        return True

    def _copied(self, name: str) -> bool:
        """Where the file system knows no second names: it is there before it is whole."""
        try:
            out = os.open(name, _CREATE, 0o644, dir_fd=self._folder)
        except FileExistsError:
            return False
        source = os.open(self._hidden, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._folder)
        try:
            while piece := os.read(source, 1024 * 1024):
                view = memoryview(piece)
                while view:
                    view = view[os.write(out, view) :]
        except OSError:
            os.unlink(name, dir_fd=self._folder)
            raise
        finally:
            os.close(source)
            os.close(out)
        return True

    def close(self) -> None:
        os.close(self._fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._hidden, dir_fd=self._folder)
        os.close(self._folder)


def _name(uri: str) -> str:
    """Raises: Invalid: not the address of a file."""
    match = SANDBOX_FILE.fullmatch(uri) or SESSION_FILE.fullmatch(uri)
    if match is None:
        raise Invalid(
            f"{uri[:120]!r} is not the address of a file.",
            remedy="Give lap://sandboxes/ID/files/PATH or lap://sessions/ID/files/NAME.",
        )
    return unquote(match[2]).rsplit("/", 1)[-1]


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _failed(folder: Path, error: OSError) -> Unavailable:
    words = os.strerror(error.errno or 0).lower()
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        words = "it is a link or no folder"
    return Unavailable(
        f"Nothing could be saved in {folder}: {words}.", remedy="Look at that folder."
    )
