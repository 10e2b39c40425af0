"""Notices every opening of a file below a folder, through inotify."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_IN_OPEN = 0x20
_IN_NONBLOCK = 0o4000
_HEADER = struct.Struct("iIII")


class Opened:
    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor: int = self._libc.inotify_init1(_IN_NONBLOCK)
        assert self.descriptor >= 0, os.strerror(ctypes.get_errno())
        self._folders: dict[int, Path] = {}
        for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            watch = self._libc.inotify_add_watch(self.descriptor, bytes(place), _IN_OPEN)
            assert watch >= 0, os.strerror(ctypes.get_errno())
            self._folders[watch] = place

    def files(self) -> list[str]:
        """What was opened since the start, folders included (as `folder/`)."""
        found: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.descriptor, 65536):
                found += self._parsed(data)
        return found

    def _parsed(self, data: bytes) -> Iterator[str]:
        at = 0
        while at < len(data):
            watch, _, _, length = _HEADER.unpack_from(data, at)
            at += _HEADER.size
            name = data[at : at + length].rstrip(b"\0").decode()
            at += length
            yield f"{self._folders[watch]}/{name}"


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Opened]:
    watched = Opened(folder)
    try:
        yield watched
    finally:
        os.close(watched.descriptor)
