"""Files in which everything that a cell printed is left, where that is more than whoever reads the
answer sees.  Bounded each and together; written as it comes; hostile code shares the folder."""

from __future__ import annotations

import contextlib
import os
from collections import deque

from lap_sandbox.runner.files import Refused, Seen, Tree
from lap_sandbox.runner.wire import Kind

FOLDER = "printed"
SUFFIXES = {Kind.STDOUT: ".txt", Kind.STDERR: "-stderr.txt"}
KEPT = 20
"""Files of this kind; older ones are removed …"""
SHARE = 4
"""… as they are where more than this part of /mnt/data is taken by them."""
MAX_TRIES = 200
"""Numbers that are taken already."""


class Printed:
    """The files made so far, by this supervisor."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._made: deque[Seen] = deque()
        self._number = 0

    def begin(self, kind: int, most: int) -> tuple[str, int, int] | None:
        """A new file for at most so many bytes: its path, descriptor, and how many it may have.
        `None` where there is no room."""
        share = self._tree.room()[0] // SHARE
        taken = self._tree.taken(FOLDER)
        while self._made and (len(self._made) >= KEPT or taken > share // 2):
            taken -= self._drop(self._made.popleft())
        # Those of an earlier container count too: they came back with its files, and stay.
        most = min(most, share - taken, self._tree.room()[1] // 2)
        for _ in range(MAX_TRIES if most > 0 else 0):
            path = f"{FOLDER}/{self._number + 1}{SUFFIXES[kind]}"
            try:
                return path, self._tree.create(path), most
            except FileExistsError:
                self._number += 1
            except Refused:
                return None
        return None

    def _drop(self, made: Seen) -> int:
        """Bytes that this freed: what was changed since is somebody else's."""
        with contextlib.suppress(Refused):
            if self._tree.seen(made.path) == made:
                self._tree.delete(made.path)
                return made.size
        return 0

    def end(self, path: str, fd: int) -> bool:
        """Close it; whether it is there by its name still."""
        seen = self._tree.seen(path)
        there = seen is not None and seen.inode == os.fstat(fd).st_ino
        os.close(fd)
        if seen is not None and there:
            self._made.append(seen)
        return there

    def next(self) -> None:
        """The streams of another execution get another number."""
        self._number += 1


class Whole:
    """All of one stream of one execution: held while it is `short`, then in a file of at most
    `most` bytes."""

    def __init__(self, printed: Printed, kind: int, *, short: int, most: int) -> None:
        self._printed = printed
        self._kind = kind
        self._short = short
        self._most = most
        self._held: list[bytes] | None = [] if most > 0 else None
        self._size = 0
        self._written = 0
        self._file: tuple[str, int] | None = None

    def feed(self, data: bytes) -> None:
        self._size += len(data)
        if self._held is None:
            self._write(data)
            return
        self._held.append(data)
        if self._size > self._short:
            held, self._held = self._held, None
            begun = self._printed.begin(self._kind, self._most)
            if begun is not None:
                path, fd, self._most = begun
                self._file = path, fd
            self._write(b"".join(held))

    def _write(self, data: bytes) -> None:
        if self._file is None:
            return
        view = memoryview(data)[: self._most - self._written]
        while view:
            try:
                done = os.write(self._file[1], view)
            except OSError:  # no room any more: the file ends here
                self._most = self._written
                return
            self._written += done
            view = view[done:]

    def end(self) -> dict[str, object] | None:
        """Where it is, and how many bytes of the end it lacks; `None` where it was short, or is
        nowhere."""
        if self._file is None:
            return None
        (path, fd), self._file = self._file, None
        there = self._printed.end(path, fd)
        return {"path": path, "missing": self._size - self._written} if there else None
