"""Files that come with a prompt or an execution: found, checked, read."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

from lap_runtimes.base import MAX_FILE_BYTES
from sqlalchemy import Connection

from lap_mcp.errors import Invalid, LimitReached
from lap_mcp.model import Principal, SessionFile
from lap_mcp.store import files as file_store
from lap_mcp.store import turns as turn_store
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import Database

from .naming import safe_file_name
from .services import FileInput

MAX_INLINE = 5 * 1024 * 1024
MAX_FILES = 20

SESSION_FILE = re.compile(r"lap://sessions/(ses_[0-9a-f]{32})/files/([^/?#]+)")
SANDBOX_FILE = re.compile(r"lap://sandboxes/(sbx_[0-9a-f]{32})/files/([^?#]+)")


@dataclass(frozen=True, slots=True)
class GivenFile:
    name: str
    media_type: str
    data: bytes


ReadSandboxFile = Callable[[Principal, str, str], Awaitable[bytes]]
"""(principal, sandbox id, path) to bytes."""


class ReadPath(Protocol):
    """Reads a path of the local user, or refuses it in words (`local_files`)."""

    async def __call__(self, path: str, /) -> tuple[str, bytes]: ...


async def no_paths(path: str, /) -> tuple[str, bytes]:
    raise Invalid(
        f"The path {path[:100]!r} is a path on the caller's machine, which this server cannot see.",
        remedy="Send the file as {name, base64}, or as a lap:// address.",
    )


class GivenFiles:
    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        read_sandbox_file: ReadSandboxFile,
        read_path: ReadPath = no_paths,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._read_sandbox_file = read_sandbox_file
        self._read_path = read_path

    async def read(self, principal: Principal, given: Sequence[FileInput]) -> Sequence[GivenFile]:
        """Raises: Invalid, NotFound, LimitReached; each names the entry."""
        if len(given) > MAX_FILES:
            raise LimitReached(f"{len(given)} files at once; {MAX_FILES} is the limit.")
        found: list[GivenFile] = []
        names: set[str] = set()
        for entry in given:
            file = await self._one(principal, entry)
            if file.name in names:
                raise Invalid(f"Two of the files are called {file.name!r}.")
            names.add(file.name)
            found.append(file)
        return found

    async def _one(self, principal: Principal, entry: FileInput) -> GivenFile:
        if entry.data is not None:
            if len(entry.data) > MAX_INLINE:
                raise LimitReached(
                    f"The file {entry.name[:100]!r} is {len(entry.data)} bytes; inline files may "
                    f"have {MAX_INLINE}.",
                    remedy="Give it as a path (local) or as a lap:// address.",
                )
            return _given(entry.name, entry.data)
        if entry.path:
            name, data = await self._read_path(entry.path)
            return _given(name, data)
        return await self._by_uri(principal, entry.uri)

    async def _by_uri(self, principal: Principal, uri: str) -> GivenFile:
        if match := SESSION_FILE.fullmatch(uri):
            session_id, name = match[1], unquote(match[2])

            def find(connection: Connection) -> SessionFile:
                turn_store.find_session(connection, principal.id, session_id)
                return file_store.find(connection, session_id, name)

            file = await self._database.read(find)
            return GivenFile(file.name, file.media_type, await self._blobs.get(file.sha256))
        if match := SANDBOX_FILE.fullmatch(uri):
            path = unquote(match[2])
            data = await self._read_sandbox_file(principal, match[1], path)
            return _given(path.rsplit("/", 1)[-1], data)
        raise Invalid(
            f"{uri[:100]!r} is not a file that this server knows.",
            remedy="Give lap://sessions/{id}/files/{name}, lap://sandboxes/{id}/files/{path}, or "
            "{name, base64}.",
        )


def _given(name: str, data: bytes) -> GivenFile:
    if len(data) > MAX_FILE_BYTES:
        raise LimitReached(
            f"The file {name[:100]!r} is {len(data)} bytes; {MAX_FILE_BYTES} is the limit."
        )
    safe = safe_file_name(name)
    return GivenFile(safe, mimetypes.guess_type(safe)[0] or "application/octet-stream", data)
