"""Files below one folder, for the supervisor, while hostile code shares that folder.

Every path is walked one component at a time without following links; only regular files are
read; a new file is written under a temporary name and renamed into place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

MAX_DEPTH = 16
SCAN_ENTRIES = 4096
SCAN_SECONDS = 0.05
TEMPORARY = ".lap-put-"

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Refused(Exception):
    """A request that is not done; `reason` is `path`, `missing` or `limit`."""

    def __init__(self, reason: str, words: str) -> None:
        super().__init__(words)
        self.reason = reason
        self.words = words


@dataclass(frozen=True, slots=True)
class Seen:
    """What tells a changed file from an unchanged one."""

    path: str
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    def describe(self) -> dict[str, object]:
        return {"path": self.path, "size": self.size, "modified": self.modified_ns / 1e9}


def _open_folder(name: str, folder: int) -> int:
    """A descriptor of the folder `name` in `folder`.  Not by O_DIRECTORY, with which gVisor of 2022
    follows a link that O_NOFOLLOW refuses.

    Raises:
        NotADirectoryError: a file or a link.
    """
    try:
        fd = os.open(name, _READ, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        raise
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return fd


def refusal(error: OSError, path: str) -> Refused:
    """`error` in the words of this protocol."""
    if error.errno == errno.ENOENT:
        return Refused("missing", f"There is no file `{path}` in /mnt/data.")
    if error.errno == errno.ENOTDIR:
        return Refused("path", f"A file or a link is in the way of `{path}`.")
    if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES, errno.EPERM):
        return Refused("path", f"`{path}` is not a regular file that can be used.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused("limit", "There is no room left in /mnt/data, or too many files are in it.")
    if error.errno == errno.EFBIG:
        return Refused("limit", f"`{path}` is larger than a file may be.")
    return Refused("path", f"`{path}`: {os.strerror(error.errno or 0)}.")


Mark = tuple[int, int, int]
"""Times of change and size of a folder."""


class Tree:
    """The files below `root`."""

    def __init__(self, root: str) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def mark(self) -> Mark:
        """Changes with every name that comes into or leaves the root."""
        status = os.fstat(self._root)
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size

    def is_empty(self, mark: Mark) -> bool:
        """Nothing at all is in the root, not even a folder, and nothing was since `mark`."""
        folder = self._open_folder("")
        try:
            with os.scandir(folder) as entries:
                return next(entries, None) is None and self.mark() == mark
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _folder_of(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """A descriptor of the folder that holds `path`, and the last component."""
        parts = path.split("/")
        if not all(part not in ("", ".", "..") and "\0" not in part for part in parts):
            raise Refused("path", f"`{path}` is not a path below /mnt/data.")
        if len(parts) > MAX_DEPTH:
            raise Refused("path", f"`{path}` is more than {MAX_DEPTH} folders deep.")
        folder = os.dup(self._root)
        try:
            for part in parts[:-1]:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=folder)
                inner = _open_folder(part, folder)
                os.close(folder)
                folder = inner
            yield folder, parts[-1]
        except OSError as error:
            raise refusal(error, path) from None
        finally:
            os.close(folder)

    def open_read(self, path: str) -> tuple[int, os.stat_result]:
        """A descriptor of the regular file `path`."""
        with self._folder_of(path) as (folder, name):
            fd = os.open(name, _READ, dir_fd=folder)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise Refused("path", f"`{path}` is not a regular file.")
        return fd, status

    def delete(self, path: str) -> None:
        with self._folder_of(path) as (folder, name):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                raise Refused("path", f"`{path}` is a folder, not a file.")
            os.unlink(name, dir_fd=folder)

    def room(self) -> tuple[int, int]:
        """Bytes that the file system has, and those that are free."""
        about = os.fstatvfs(self._root)
        return about.f_blocks * about.f_frsize, about.f_bavail * about.f_frsize

    def taken(self, folder: str) -> int:
        """Bytes of the regular files in a folder of the root, as far as it is looked at."""
        entries = islice(self._entries(f"{folder}/"), SCAN_ENTRIES)
        return sum(status.st_size for _, status in entries if stat.S_ISREG(status.st_mode))

    def create(self, path: str) -> int:
        """A descriptor of the new file `path`, to write at its end.

        Raises:
            FileExistsError: it is no new one.
        """
        with self._folder_of(path, make=True) as (folder, _):
            kept = os.dup(folder)
        try:
            return os.open(path.rpartition("/")[2], _CREATE | os.O_APPEND, 0o644, dir_fd=kept)
        except FileExistsError:
            raise
        except OSError as error:
            raise refusal(error, path) from None
        finally:
            os.close(kept)

    def begin_put(self, path: str, id: int) -> Upload:
        with self._folder_of(path, make=True) as (folder, name):
            kept = os.dup(folder)
        try:
            return Upload(path, kept, name, f"{TEMPORARY}{id}-{time.monotonic_ns()}")
        except OSError as error:
            os.close(kept)
            raise refusal(error, path) from None

    def scan(self, limit: int, *, seconds: float = SCAN_SECONDS) -> tuple[dict[str, Seen], bool]:
        """Regular files by path, and whether there are more than were looked at."""
        found: dict[str, Seen] = {}
        deadline = time.monotonic() + seconds
        looked = 0
        folders = [("", 0)]
        while folders:
            prefix, depth = folders.pop()
            for name, status in self._entries(prefix):
                looked += 1
                if looked > limit or time.monotonic() > deadline:
                    return found, True
                path = prefix + name
                if stat.S_ISDIR(status.st_mode):
                    if depth + 1 < MAX_DEPTH:
                        folders.append((path + "/", depth + 1))
                elif stat.S_ISREG(status.st_mode) and not name.startswith(TEMPORARY):
                    found[path] = _seen(path, status)
        return found, False

    def seen(self, path: str) -> Seen | None:
        """One regular file as `scan` sees it."""
        try:
            with self._folder_of(path) as (folder, name):
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except Refused:  # it went away
            return None
        return _seen(path, status) if stat.S_ISREG(status.st_mode) else None

    def _entries(self, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        try:
            folder = self._open_folder(prefix)
        except OSError:  # it went away, or is a link by now
            return
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        yield entry.name, entry.stat(follow_symlinks=False)
        finally:
            os.close(folder)

    def _open_folder(self, prefix: str) -> int:
        if not prefix:
            # A duplicate would share its position with the original.
            return _open_folder(".", self._root)
        folder = os.dup(self._root)
        for part in prefix.split("/")[:-1]:
            try:
                inner = _open_folder(part, folder)
            finally:
                os.close(folder)
            folder = inner
        return folder


def _seen(path: str, status: os.stat_result) -> Seen:
    return Seen(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Upload:
    """A file that is being written under a temporary name."""

    def __init__(self, path: str, folder: int, name: str, temporary: str) -> None:
        self.path = path
        self._folder = folder
        self._name = name
        self._temporary = temporary
        self._fd = os.open(temporary, _CREATE, 0o644, dir_fd=folder)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise refusal(error, self.path) from None

    def finish(self) -> dict[str, object]:
        """Put the file in its place."""
        try:
            os.rename(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            status = os.fstat(self._fd)
        except OSError as error:
            raise refusal(error, self.path) from None
        finally:
            os.close(self._fd)
            os.close(self._folder)
        return {"path": self.path, "size": status.st_size, "modified": status.st_mtime}

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._temporary, dir_fd=self._folder)
        os.close(self._fd)
        os.close(self._folder)
