"""A socket for one supervisor: mounted into its container, it takes the place of the engine's
attached streams, which carry every frame through two more processes.

The engine goes on to hold the container's stdin, so that its end is noticed by both sides as
before.  Where the socket cannot be reached (the engine runs in a virtual machine or another
container, a security module forbids it) the attached streams are used, and it is not tried again.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread

from lap_sandbox.base import Mount

TARGET = "/run/lap"
"""The folder in the container …"""
_NAME = "host"
INSIDE = f"{TARGET}/{_NAME}"
"""… and the socket in it."""
_STALE_SECONDS = 600.0
"""Longer than any container takes to start."""
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.ENOBUFS)

logger = logging.getLogger(__name__)


class Meeting:
    """Listens for one connection.  To be closed, whatever comes of it."""

    def __init__(self, folder: Path, given_up: Callable[[], None]) -> None:
        """Raises: OSError."""
        self._folder = folder
        self._given_up = given_up
        self._path = folder / _NAME
        self._listening = socket.socket(socket.AF_UNIX)
        try:
            folder.mkdir()
            folder.chmod(0o755)  # whatever the umask
            self._listening.bind(str(self._path))
            # The sandbox has a uid of its own; the folder above lets nobody else get here.
            self._path.chmod(0o666)
            self._listening.listen(1)
            self._listening.setblocking(False)
        except OSError:
            self.close()
            raise

    @property
    def mount(self) -> Mount:
        return Mount(source=self._folder, target=TARGET)

    def accept(self) -> socket.socket:
        """The connection of a supervisor that says that it has connected.  Raises: OSError."""
        return self._listening.accept()[0]

    def give_up(self) -> None:
        """The container cannot reach it, so the next one need not try."""
        self._given_up()

    async def aclose(self) -> None:
        """Nobody else can connect from now on.  Also where the caller is cancelled."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.close)

    def close(self) -> None:
        self._listening.close()
        with contextlib.suppress(OSError):
            self._path.unlink()
        with contextlib.suppress(OSError):
            self._folder.rmdir()


class Meetings:
    """Makes meetings in a folder that nobody else may enter, until it is known to be in vain."""

    def __init__(self, runtime_folder: str | None) -> None:
        """`runtime_folder`: `XDG_RUNTIME_DIR`, where there is one."""
        self._runtime_folder = runtime_folder
        self.useful = sys.platform == "linux"
        """Nothing was found so far that will not change."""

    def new(self) -> Meeting | None:
        """`None` where this cannot be, now or ever."""
        if not self.useful:
            return None
        try:
            return Meeting(self._house() / secrets.token_hex(8), self._unreachable)
        except OSError as error:
            if error.errno not in _PASSING:
                self.stop(str(error))
            return None

    def _unreachable(self) -> None:
        self.stop("a container cannot reach it")

    def stop(self, why: str) -> None:
        """It will not be tried again."""
        if self.useful:
            logger.info("sandboxes do without a socket of their own: %s", why)
        self.useful = False

    def _house(self) -> Path:
        """
        Raises:
            OSError: somebody else was there first.
        """
        house = self._above() / f"lap-mcp-{os.getuid()}"
        house.mkdir(mode=0o700, exist_ok=True)
        status = house.lstat()
        if house.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise PermissionError(f"{house} is not this user's alone")
        self._sweep(house)
        return house

    def _above(self) -> Path:
        """The runtime folder, where it is this user's alone; under `sudo -E` it is another's."""
        given = Path(self._runtime_folder or "")
        with contextlib.suppress(OSError):
            status = given.lstat()
            own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
            if given.is_absolute() and own and not status.st_mode & 0o022:
                return given
        return Path(tempfile.gettempdir())

    def _sweep(self, house: Path) -> None:
        """What a server left that was killed while a container started."""
        for left in house.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - left.lstat().st_mtime > _STALE_SECONDS:
                    (left / _NAME).unlink(missing_ok=True)
                    left.rmdir()
