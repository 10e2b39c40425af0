"""Links to one version of one file that need no key: for a person who sees an answer of the HTTP
server and wants the file in a browser.

A link is the bytes' hash, an end, and a name, signed with a key of this `LAP_HOME`.  Whoever has it
may read those bytes until the end, nothing else, and cannot make another one.
"""

from __future__ import annotations

import os
import secrets
import stat
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from lap_mcp.clock import Clock
from lap_mcp.errors import ConfigError, NotFound
from lap_mcp.store.blobs import BlobStore

from .signed_text import content_of, signed_text

KEY_FILE = "links.key"
SECONDS = 300
PATH = "/files/"
MAX_TOKEN = 1024

_KEY_BYTES = 32
_PURPOSE = b"lap-mcp signed link 1\0"
_HEAD = struct.Struct("!Q32s")
"""End in seconds since the epoch, SHA-256.  The name follows in UTF-8."""


@dataclass(frozen=True, slots=True)
class Download:
    name: str
    size: int
    pieces: AsyncIterator[bytes]


class SignedLinks:
    """`blobs`: those of sandboxes.  `base`: where clients reach this server, without a path."""

    def __init__(self, blobs: BlobStore, key: bytes, base: str, clock: Clock) -> None:
        self._blobs = blobs
        self._key = key
        self._base = base
        self._clock = clock

    def link(self, sha256: str, name: str) -> str:
        """A link that works for `SECONDS`."""
        end = int(self._clock.now()) + SECONDS
        short = name.rsplit("/", 1)[-1].encode("utf-8", "replace")[:200]
        signed = _HEAD.pack(end, bytes.fromhex(sha256)) + short
        token = signed_text(signed, self._key, _PURPOSE)
        return f"{self._base}{PATH}{token}"

    async def open(self, token: str) -> Download:
        """Raises: NotFound, in the same words whatever is wrong with it."""
        nothing = NotFound("This link is not valid, or not valid any more.")
        signed = self._verified(token)
        if signed is None:
            raise nothing
        end, digest = _HEAD.unpack_from(signed)
        if end < self._clock.now():
            raise nothing
        name = signed[_HEAD.size :].decode("utf-8", "replace")
        try:
            size = await self._blobs.size(digest.hex())
        except NotFound:
            raise nothing from None
        return Download(name, size, self._blobs.pieces(digest.hex()))

    def _verified(self, token: str) -> bytes | None:
        if len(token) > MAX_TOKEN:
            return None
        signed = content_of(token, self._key, _PURPOSE)
        return signed if signed is not None and len(signed) >= _HEAD.size else None


def link_key(home: Path) -> bytes:
    """The key of this `LAP_HOME`, made (32 random bytes, mode 0600) if there is none.

    Raises:
        ConfigError: the file cannot be used; others can read it.
    """
    file = home / KEY_FILE
    draft = home / f".{KEY_FILE}-{secrets.token_hex(8)}"
    try:
        if not os.path.lexists(file):
            _make(draft, file)
        state, key = _read(file)
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be used: {error.strerror}.", key="LAP_HOME", remedy="Look at that file."
        ) from error
    if not stat.S_ISREG(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise ConfigError(
            f"{file} is no file of yours alone, so it is no secret.",
            remedy="Remove it: the next start makes another one.",
        )
    if len(key) != _KEY_BYTES:
        raise ConfigError(
            f"{file} holds no key.", remedy="Remove it: the next start makes another one."
        )
    return key


def _make(draft: Path, file: Path) -> None:
    """Whole under its name at once: of two servers that start, one's key is both's."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(draft, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(secrets.token_bytes(_KEY_BYTES))
        try:
            os.link(draft, file, follow_symlinks=False)
        except FileExistsError:
            return
    finally:
        draft.unlink(missing_ok=True)


def _read(file: Path) -> tuple[os.stat_result, bytes]:
    """The very file that is looked at; of what is no regular file, nothing is read."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        state = os.fstat(descriptor)
        key = os.read(descriptor, _KEY_BYTES + 1) if stat.S_ISREG(state.st_mode) else b""
    finally:
        os.close(descriptor)
    return state, key
