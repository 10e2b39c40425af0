"""Bytes by their SHA-256, in `LAP_HOME/blobs`: written once, never changed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import AsyncGenerator, Collection, Sequence
from pathlib import Path
from typing import BinaryIO

import anyio.to_thread

from lap_mcp.errors import NotFound, StoreError

PIECE = 1024 * 1024
"""Bytes of what is read and written at once."""

_NEW = ".new-"
_ASIDE = ".aside-"


class BlobStore:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, data: bytes) -> str:
        """Keep `data`; its SHA-256 in hex.

        Raises:
            StoreError: no room, or not writable.
        """
        return await anyio.to_thread.run_sync(self._put, data)

    async def put_all(self, datas: Sequence[bytes]) -> Sequence[str]:
        """Keep each.  Raises: StoreError."""
        return await anyio.to_thread.run_sync(lambda: [self._put(data) for data in datas])

    async def get(self, sha256: str) -> bytes:
        """Raises: NotFound."""
        return await anyio.to_thread.run_sync(self._get, sha256)

    async def writer(self) -> BlobWriter:
        """For bytes that come in pieces.  `close` it, whatever happens.

        Raises:
            StoreError
        """
        return await anyio.to_thread.run_sync(BlobWriter, self)

    async def pieces(self, sha256: str) -> AsyncGenerator[bytes]:
        """The bytes, a piece at a time.  Raises: NotFound."""
        file = await anyio.to_thread.run_sync(self._open, sha256)
        try:
            while piece := await anyio.to_thread.run_sync(file.read, PIECE):
                yield piece
        finally:
            file.close()

    async def size(self, sha256: str) -> int:
        """Raises: NotFound."""
        return await anyio.to_thread.run_sync(self._size, sha256)

    async def part(self, sha256: str, start: int, size: int) -> bytes:
        """`size` bytes from `start` on, fewer at the end.  Raises: NotFound."""
        return await anyio.to_thread.run_sync(self._part, sha256, start, size)

    async def discard(self, sha256s: Collection[str], before: float) -> None:
        """Delete blobs that nothing names, unless they were put again since `before`."""
        await anyio.to_thread.run_sync(self._discard, sha256s, before)

    async def old(self, before: float) -> Sequence[str]:
        """Blobs that were last put before `before`."""
        return await anyio.to_thread.run_sync(self._old, before)

    def _put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        target = self._folder / digest
        try:
            # Being put again makes it young again: see `old`.
            os.utime(target)
            return digest
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._worded(error, f"A file of {len(data)} bytes") from error
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(data, target)
        except OSError as error:
            raise self._worded(error, f"A file of {len(data)} bytes") from error
        return digest

    def _worded(self, error: OSError, what: str) -> StoreError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return StoreError(
            f"{what} could not be kept in {self._folder}: {os.strerror(error.errno or 0)}.",
            remedy="Free some room, then try again." if full else "Check the folder's rights.",
        )

    def _write(self, data: bytes, target: Path) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=_NEW)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _old(self, before: float) -> Sequence[str]:
        if not self._folder.is_dir():
            return []
        return [
            entry.name
            for entry in os.scandir(self._folder)
            if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime < before
        ]

    def _discard(self, sha256s: Collection[str], before: float) -> None:
        """Whoever puts the same bytes meanwhile finds the blob and makes it young, or finds it
        gone and writes it anew: it is looked at once nobody can find it any more."""
        for sha256 in sha256s:
            blob, aside = self._folder / sha256, self._folder / f"{_ASIDE}{sha256}"
            try:
                if blob.stat().st_mtime >= before:
                    continue
                blob.rename(aside)
                if aside.stat().st_mtime >= before:
                    aside.rename(blob)
                else:
                    aside.unlink()
            except FileNotFoundError:
                continue  # another process was faster

    def _get(self, sha256: str) -> bytes:
        with self._open(sha256) as file:
            return file.read()

    def _part(self, sha256: str, start: int, size: int) -> bytes:
        with self._open(sha256) as file:
            file.seek(start)
            return file.read(size)

    def _size(self, sha256: str) -> int:
        with self._open(sha256) as file:
            return os.fstat(file.fileno()).st_size

    def _open(self, sha256: str) -> BinaryIO:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise NotFound("There is no such file.")
        try:
            return (self._folder / sha256).open("rb")
        except FileNotFoundError as error:
            raise NotFound("The bytes of this file are no longer kept.") from error
        except OSError as error:
            raise StoreError(
                f"A kept file cannot be read in {self._folder}: {os.strerror(error.errno or 0)}.",
                remedy="Check the folder's rights and its disk.",
            ) from error


class BlobWriter:
    """A blob that is being written.  Made, and its methods without `a`, off the event loop."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        self.size = 0
        try:
            store._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=store._folder, prefix=_NEW)
        except OSError as error:
            raise store._worded(error, "A file") from error
        self._file, self._path = os.fdopen(descriptor, "wb"), Path(name)

    async def write(self, data: bytes) -> None:
        """Raises: StoreError."""
        await anyio.to_thread.run_sync(self._write, data)

    async def finish(self) -> str:
        """Keep it; its SHA-256 in hex.  Raises: StoreError."""
        return await anyio.to_thread.run_sync(self._finish)

    async def close(self) -> None:
        """Without `finish` before: nothing is kept."""
        await anyio.to_thread.run_sync(self._close)

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        self._hash.update(data)
        self.size += len(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise self._store._worded(error, "A file") from error

    def _finish(self) -> str:
        assert self._file is not None
        digest = self._hash.hexdigest()
        try:
            self._file.close()
            self._path.replace(self._store._folder / digest)
        except OSError as error:
            raise self._store._worded(error, f"A file of {self.size} bytes") from error
        self._file = None
        return digest

    def _close(self) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # what could not be written cannot be flushed either
            self._file.close()
        self._file = None
        self._path.unlink(missing_ok=True)
