"""Containers of the front doors: an environment with an id, a lifetime and files, as an
application of a model's vendor knows it; a sandbox behind it while there is something to run.

A container outlives its sandbox: every file is kept as a blob when it changes, and a new sandbox
gets all of them.  What it cannot get back are variables; the model is told so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal

from lap_sandbox.base import FileInfo, Output
from sqlalchemy import Connection

from lap_mcp.clock import Clock
from lap_mcp.errors import NotFound
from lap_mcp.model import Principal
from lap_mcp.store import front
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import Database
from lap_mcp.store.front import Container, FrontFile, PageOf

from .container_parts import (
    PICTURES,
    BoxesAPI,
    ContainerRun,
    Known,
    alias_of,
    link_code,
    missing_is_fine,
    paths_of,
    scope_of,
)
from .naming import safe_file_name

MINUTES: Final = 20
MAX_KEPT: Final = 50 * 1024 * 1024
"""Bytes of a file that code made and that is kept."""
MAX_FILES: Final = 20_000
"""Of one container, as many as a sandbox lists."""
_TOUCH: Final = 15.0
"""Seconds between two notes that a container is in use."""

Made = Literal["cntr", "cfile"]


class Containers:
    """Everything takes the principal that asks; foreign and missing are the same `NotFound`."""

    def __init__(
        self,
        boxes: BoxesAPI,
        database: Database,
        blobs: BlobStore,
        clock: Clock,
        new_id: Callable[[str], str],
    ) -> None:
        self._boxes = boxes
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._new_id = new_id
        self._known: dict[str, Known] = {}

    # Containers --------------------------------------------------------------------------------

    def fresh(
        self, principal: Principal, *, name: str = "", memory: str = "1g", minutes: int = MINUTES
    ) -> Container:
        """A container that is remembered as soon as something happens in it."""
        now = self._clock.now()
        container = Container(
            id=self._new_id("cntr"),
            principal=principal.id,
            name=name,
            memory=memory,
            minutes=minutes,
            created_at=now,
            used_at=now,
        )
        self._sweep(now)
        self._known[container.id] = Known(container, {}, stored=False, touched=now)
        return container

    async def create(
        self, principal: Principal, *, name: str, memory: str, minutes: int
    ) -> Container:
        container = self.fresh(principal, name=name, memory=memory, minutes=minutes)
        await self._stored(self._known[container.id])
        return container

    async def get(self, principal: Principal, container_id: str, *, use: bool = True) -> Container:
        """`use`: asking is using, which puts off its expiry; an expired one stays expired."""
        known = await self._find(principal, container_id)
        if use and not known.container.expired(self._clock.now()):
            await self._touch(known)
        return known.container

    async def list(
        self, principal: Principal, page: PageOf, name: str | None = None
    ) -> Sequence[Container]:
        return await self._database.read(
            lambda connection: front.list_containers(connection, principal.id, page, name)
        )

    async def delete(self, principal: Principal, container_id: str) -> None:
        known = await self._find(principal, container_id)
        async with known.lock:
            _require(known)
            await self._boxes.release(scope_of(container_id))
            await self._database.write(
                lambda connection: front.delete_container(connection, principal.id, container_id)
            )
            known.deleted = True
            self._known.pop(container_id, None)

    # Files -------------------------------------------------------------------------------------

    async def paths(self, principal: Principal, container_id: str) -> Mapping[str, str]:
        """As `ContainerRun.files`."""
        return paths_of((await self._find(principal, container_id)).files)

    async def list_files(
        self, principal: Principal, container_id: str, page: PageOf
    ) -> Sequence[FrontFile]:
        await self.get(principal, container_id)
        return await self._database.read(
            lambda connection: front.list_files(
                connection, principal.id, page, container_id=container_id
            )
        )

    async def file(self, principal: Principal, container_id: str, file_id: str) -> FrontFile:
        await self.get(principal, container_id)
        found = await self._database.read(
            lambda connection: front.file(connection, principal.id, file_id, container_id)
        )
        if found is None:
            raise NotFound(f"There is no file {file_id[:80]!r} in this container.")
        return found

    async def content(self, file: FrontFile) -> bytes:
        return await self._blobs.get(file.sha256)

    async def add_file(
        self,
        principal: Principal,
        container_id: str,
        name: str,
        data: bytes,
        *,
        upload_id: str | None = None,
    ) -> FrontFile:
        """Put a file of the user into `/mnt/data`.  The same upload twice is one file; another
        upload of a name that is taken gets the name that the vendor gives it, `ID-NAME`."""
        known = await self._find(principal, container_id)
        path = safe_file_name(name)
        async with known.lock:
            _require(known)
            before = known.files.get(path)
            if (
                before is not None
                and before.upload_id
                and upload_id not in (None, before.upload_id)
            ):
                path = safe_file_name(f"{upload_id}-{name}")
                before = known.files.get(path)
            if before is not None and upload_id is not None and before.upload_id == upload_id:
                return before
            await self._stored(known)
            file = await self._kept(known, path, data, source="user", upload_id=upload_id)
            await self._touch(known)
            known.pending.add(path)
            if known.opened:
                await self._box(principal, known)
            return file

    async def delete_file(self, principal: Principal, container_id: str, file_id: str) -> None:
        file = await self.file(principal, container_id, file_id)
        known = await self._find(principal, container_id)
        async with known.lock:
            _require(known)
            await self._database.write(lambda connection: front.delete_file(connection, file.id))
            known.files.pop(file.path, None)
            known.pending.discard(file.path)
            if file.kind == "file" and known.opened:
                box, fresh = await self._box(principal, known)
                if not fresh:
                    with missing_is_fine():
                        await self._boxes.delete(principal, box, file.path)

    # Running -----------------------------------------------------------------------------------

    async def run(
        self,
        principal: Principal,
        container_id: str,
        code: str,
        *,
        timeout: float,
        on_output: Callable[[Literal["stdout", "stderr"], str], None] | None = None,
    ) -> ContainerRun:
        """Run code, and keep what it left.  Executions of one container run one after the other.

        Raises:
            LapError: as `SandboxesAPI.run`; nothing ran.
        """
        known = await self._find(principal, container_id)
        async with known.lock:
            _require(known)
            await self._stored(known)
            box, fresh = await self._box(principal, known)
            run = await self._boxes.run(
                principal, code, sandbox_id=box, timeout=timeout, on_output=on_output
            )
            restarted = fresh and known.ran
            known.ran = True
            await self._touch(known)
            pictures = await self._pictures(known, run.execution.outputs)
            if run.execution.files_lost:
                # What is not there is not deleted: it is put back.
                known.pending.update(known.files)
                await self._box(principal, known)
            else:
                await self._collect(principal, known, box, run.execution.files)
            return ContainerRun(
                execution=run.execution,
                pictures=pictures,
                files=paths_of(known.files),
                restarted=restarted,
            )

    async def _box(self, principal: Principal, known: Known) -> tuple[str, bool]:
        """The container's sandbox; a new one has all its files."""
        container = known.container
        # The smallest tier is what the operator gives a sandbox.
        memory = None if container.memory == "1g" else int(container.memory[:-1]) * 1024**3
        box, fresh = await self._boxes.open(principal, scope_of(container.id), memory=memory)
        wanted = known.files.keys() if fresh else known.pending & known.files.keys()
        placed = [known.files[path] for path in sorted(wanted)]
        for file in placed:
            data = await self._blobs.get(file.sha256)
            await self._boxes.put(principal, box, file.path, data)
        await self._alias(principal, box, placed)
        known.opened = True
        known.pending.clear()
        return box, fresh

    async def _alias(self, principal: Principal, box: str, files: Sequence[FrontFile]) -> None:
        """The name that the vendor gives an upload, `ID-NAME`, as a link to the plain one."""
        links = {alias: file.path for file in files if (alias := alias_of(file))}
        if links:
            await self._boxes.run(principal, link_code(links), sandbox_id=box, timeout=10.0)

    async def _collect(
        self, principal: Principal, known: Known, box: str, changed: Sequence[FileInfo]
    ) -> None:
        """Keep new and changed files, and forget those that are gone."""
        if not changed and not known.files:
            return
        listed = {
            file.path: file for file in await self._boxes.files(principal, box, limit=MAX_FILES)
        }
        aliases = {alias_of(file) for file in known.files.values()}
        touched = {file.path for file in changed} | (listed.keys() - known.files.keys())
        for path in sorted(touched & listed.keys() - aliases):
            if listed[path].size <= MAX_KEPT:
                with missing_is_fine():
                    data = await self._boxes.file(principal, box, path)
                    await self._kept(known, path, data, source="assistant")
        for path in [p for p, f in known.files.items() if f.kind == "file" and p not in listed]:
            gone = known.files.pop(path)
            await self._database.write(
                lambda connection, id_=gone.id: front.delete_file(connection, id_)  # type: ignore[misc]
            )

    async def _pictures(
        self, known: Known, outputs: Sequence[Output]
    ) -> Sequence[tuple[FrontFile, Output]]:
        found = []
        for output in outputs:
            if output.mime in PICTURES:
                id_ = self._new_id("cfile")
                suffix = output.mime.partition("/")[2].replace("jpeg", "jpg")
                file = await self._kept(
                    known, f"{id_}.{suffix}", output.data, source="assistant", picture=id_
                )
                found.append((file, output))
        return found

    async def _kept(
        self,
        known: Known,
        path: str,
        data: bytes,
        *,
        source: str,
        upload_id: str | None = None,
        picture: str = "",
    ) -> FrontFile:
        """A file's newest bytes; its id stays."""
        sha256, now = await self._blobs.put(data), self._clock.now()
        before = known.files.get(path)
        if before is not None:
            file = replace(before, size=len(data), sha256=sha256, created_at=now)

            def change(connection: Connection) -> None:
                front.change_file(connection, file.id, file.size, sha256, now)

            if before.sha256 != sha256:
                await self._database.write(change)
        else:
            file = FrontFile(
                id=picture or self._new_id("cfile"),
                principal=known.container.principal,
                container_id=known.container.id,
                kind="picture" if picture else "file",
                path=path,
                source=source,
                upload_id=upload_id,
                size=len(data),
                sha256=sha256,
                created_at=now,
            )
            await self._database.write(lambda connection: front.add_file(connection, file))
        if file.kind == "file":
            known.files[path] = file
        return file

    # What is known -----------------------------------------------------------------------------

    async def _find(self, principal: Principal, container_id: str) -> Known:
        known = self._known.get(container_id)
        if known is None:
            known = await self._read(principal, container_id)
        if known is None or known.container.principal != principal.id:
            raise _no_container(container_id)
        return known

    async def _read(self, principal: Principal, container_id: str) -> Known | None:
        def read(connection: Connection) -> tuple[Container, Sequence[FrontFile]] | None:
            found = front.container(connection, principal.id, container_id)
            return None if found is None else (found, front.container_files(connection, found.id))

        found = await self._database.read(read)
        if found is None:
            return None
        container, files = found
        placed = {file.path: file for file in files if file.kind == "file"}
        known = Known(container, placed, stored=True, touched=container.used_at, ran=True)
        return self._known.setdefault(container_id, known)

    async def _stored(self, known: Known) -> None:
        if not known.stored:
            container = known.container
            await self._database.write(
                lambda connection: front.add_container(connection, container)
            )
            known.stored = True

    async def _touch(self, known: Known) -> None:
        now = self._clock.now()
        known.container = replace(known.container, used_at=now)
        if known.stored and now - known.touched >= _TOUCH:
            known.touched = now
            await self._database.write(
                lambda connection: front.touch_container(connection, known.container.id, now)
            )

    def _sweep(self, now: float) -> None:
        """Forget, here, what was not used for long; the store knows it still."""
        if len(self._known) > 256:
            for id_, known in list(self._known.items()):
                if now - known.container.used_at > 3600 and not known.lock.locked():
                    del self._known[id_]


def _no_container(container_id: str) -> NotFound:
    return NotFound(f"Container with id '{container_id[:100]}' not found.")


def _require(known: Known) -> None:
    """Raises: NotFound, where it was deleted while somebody waited for it."""
    if known.deleted:
        raise _no_container(known.container.id)
