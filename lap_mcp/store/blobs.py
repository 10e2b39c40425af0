"""Bytes by their SHA-256, in `LAP_HOME/blobs`: written once, never changed."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import anyio.to_thread

from lap_mcp.errors import NotFound, StoreError


class BlobStore:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, data: bytes) -> str:
        """Keep `data`; its SHA-256 in hex.

        Raises:
            StoreError: no room, or not writable.
        """
        return await anyio.to_thread.run_sync(self._put, data)

    async def get(self, sha256: str) -> bytes:
        """Raises: NotFound."""
        return await anyio.to_thread.run_sync(self._get, sha256)

    async def old(self, before: float) -> Sequence[str]:
        """Blobs that were last put before `before`."""
        return await anyio.to_thread.run_sync(self._old, before)

    async def drop(self, sha256s: Sequence[str]) -> None:
        await anyio.to_thread.run_sync(self._drop, sha256s)

    def _put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        target = self._folder / digest
        try:
            # Being put again makes it young again: see `old`.
            os.utime(target)
            return digest
        except FileNotFoundError:
            pass
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(data, target)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise StoreError(
                f"A file of {len(data)} bytes could not be kept in {self._folder}: "
                f"{os.strerror(error.errno or 0)}.",
                remedy="Free some room, then try again." if full else "Check the folder's rights.",
            ) from error
        return digest

    def _write(self, data: bytes, target: Path) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=".new-")
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

    def _drop(self, sha256s: Sequence[str]) -> None:
        for sha256 in sha256s:
            (self._folder / sha256).unlink(missing_ok=True)

    def _get(self, sha256: str) -> bytes:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise NotFound("There is no such file.")
        try:
            return (self._folder / sha256).read_bytes()
        except FileNotFoundError as error:
            raise NotFound("The bytes of this file are no longer kept.") from error
