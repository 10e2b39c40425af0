"""What the front doors for models keep besides containers: uploads, responses, and what stood
upstream in place of a code call."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import anyio
import anyio.to_thread

from lap_mcp.clock import Clock, SystemClock
from lap_mcp.errors import LimitReached, NotFound, StoreError
from lap_mcp.model import Principal
from lap_mcp.store import front, owners
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import Database
from lap_mcp.store.front import FrontFile, PageOf, StoredResponse

from .container_parts import BoxesAPI
from .containers import Containers
from .naming import safe_file_name

log = logging.getLogger(__name__)

HELD: Final = 15.0
"""Seconds after which a process that said nothing of a response counts as gone."""
_CUT_OFF: Final = {
    "code": "server_error",
    "message": "The server that ran this response ended while it ran. Send it again.",
}
_FORGET_EVERY: Final = 3600.0
_UNSTORED: Final = 512


class Uploads:
    """Files that are in no container: `/v1/files`."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        clock: Clock,
        new_id: Callable[[str], str],
        max_bytes: int,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._new_id = new_id
        self.max_bytes = max_bytes

    async def add(
        self,
        principal: Principal,
        name: str,
        data: bytes,
        *,
        purpose: str,
        lifetime: float | None = None,
    ) -> FrontFile:
        """`lifetime` in seconds; `None`: until it is deleted.  Raises: LimitReached."""
        if len(data) > self.max_bytes:
            raise LimitReached(
                f"The file has {len(data)} bytes; {self.max_bytes} is the limit "
                "(openai.max_file in lap.toml)."
            )
        now = self._clock.now()
        file = FrontFile(
            id=self._new_id("file"),
            principal=principal.id,
            path=safe_file_name(name),
            purpose=purpose,
            size=len(data),
            sha256=await self._blobs.put(data),
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        await self._database.write(lambda connection: front.add_file(connection, file))
        return file

    async def get(self, principal: Principal, file_id: str, *, anywhere: bool = False) -> FrontFile:
        """`anywhere`: also one that is in a container.  Raises: NotFound."""
        find = front.any_file if anywhere else front.file
        found = await self._database.read(
            lambda connection: find(connection, principal.id, file_id)
        )
        expired = found is not None and (
            found.expires_at is not None and found.expires_at < self._clock.now()
        )
        if found is None or expired:
            raise NotFound(f"No such File object: {file_id[:100]}")
        return found

    async def content(self, file: FrontFile) -> bytes:
        return await self._blobs.get(file.sha256)

    async def list(
        self, principal: Principal, page: PageOf, purpose: str | None = None
    ) -> Sequence[FrontFile]:
        return await self._database.read(
            lambda connection: front.list_files(connection, principal.id, page, purpose=purpose)
        )

    async def delete(self, principal: Principal, file_id: str) -> None:
        file = await self.get(principal, file_id)
        await self._database.write(lambda connection: front.delete_file(connection, file.id))


class Remembered:
    """Responses by id, and code calls by the ids that a client shows again."""

    def __init__(self, database: Database, clock: Clock, scrub: Callable[[Any], Any]) -> None:
        """`scrub` takes known secrets out of what is stored."""
        self._database = database
        self._clock = clock
        self._scrub = scrub
        self._unstored: OrderedDict[tuple[str, str], Any] = OrderedDict()
        """Calls of responses that are not to be stored: in memory, the newest only."""
        self._me = ""

    async def keep(self, kept: StoredResponse, *, held_by: str | None = None) -> bool:
        """As `front.keep_response`."""
        kept = replace(
            kept,
            response=self._scrub(kept.response),
            given=self._scrub(kept.given),
            history=self._scrub(kept.history),
        )
        return await self._database.write(
            lambda connection: front.keep_response(connection, kept, held_by)
        )

    async def response(self, principal: Principal, response_id: str) -> StoredResponse | None:
        """One whose process is gone has failed."""
        found = await self._read(principal, response_id)
        if found is None or not found.running or not await self._left(found):
            return found
        failed = {**found.response, "status": "failed", "error": _CUT_OFF}
        return await self._ended(principal, found, failed)

    async def cancel(self, principal: Principal, response_id: str) -> None:
        """Of another process, which notices when it next says that it still runs it."""
        found = await self._read(principal, response_id)
        if found is not None and found.running:
            await self._ended(principal, found, {**found.response, "status": "cancelled"})

    async def me(self) -> str:
        """This process, as the holder of what it runs."""
        if not self._me:
            this = await anyio.to_thread.run_sync(owners.this_process, "")
            self._me = json.dumps([this.host, this.pid, this.started])
        return self._me

    async def hold(self, principal: Principal, response_id: str) -> bool:
        """Say that this process still runs it; false where it is not its to run any more."""
        me, until = await self.me(), self._clock.now() + HELD
        return await self._database.write(
            lambda connection: front.hold_response(connection, principal.id, response_id, me, until)
        )

    async def held(self, kept: StoredResponse) -> StoredResponse:
        """The same, held by this process."""
        return replace(kept, held_by=await self.me(), held_until=self._clock.now() + HELD)

    async def _read(self, principal: Principal, response_id: str) -> StoredResponse | None:
        return await self._database.read(
            lambda connection: front.response(connection, principal.id, response_id)
        )

    async def _left(self, found: StoredResponse) -> bool:
        """Whether nobody runs it any more."""
        if found.held_by is None or (found.held_until or 0.0) < self._clock.now():
            return True
        host, pid, started = json.loads(found.held_by)
        return await anyio.to_thread.run_sync(owners.gone, owners.Owner("", host, pid, started))

    async def _ended(
        self, principal: Principal, found: StoredResponse, ended: Mapping[str, Any]
    ) -> StoredResponse | None:
        """As it is then: whoever came before has the last word."""
        await self._database.write(lambda connection: front.end_response(connection, found, ended))
        return await self._read(principal, found.id)

    async def delete(self, principal: Principal, response_id: str) -> bool:
        return await self._database.write(
            lambda connection: front.delete_response(connection, principal.id, response_id)
        )

    async def keep_calls(
        self, principal: Principal, found: Mapping[str, Any], *, stored: bool
    ) -> None:
        if not stored:
            for id_, data in found.items():
                self._unstored[principal.id, id_] = data
            while len(self._unstored) > _UNSTORED:
                self._unstored.popitem(last=False)
        elif found:
            now, clean = self._clock.now(), self._scrub(found)
            await self._database.write(
                lambda connection: front.keep_calls(connection, principal.id, clean, now)
            )

    async def calls(self, principal: Principal, ids: Sequence[str]) -> Mapping[str, Any]:
        here = {id_: self._unstored.get((principal.id, id_)) for id_ in ids}
        known = {id_: data for id_, data in here.items() if data is not None}
        rest = [id_ for id_ in ids if id_ not in known]
        if not rest:
            return known
        stored = await self._database.read(
            lambda connection: front.known_calls(connection, principal.id, rest)
        )
        return {**known, **stored}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontDoor:
    """Everything that the front doors work on."""

    containers: Containers
    uploads: Uploads
    remembered: Remembered
    clock: Clock
    new_id: Callable[[str], str]


def front_door(
    database: Database,
    blobs: BlobStore,
    boxes: BoxesAPI,
    new_id: Callable[[str], str],
    max_file: int,
    *,
    scrub: Callable[[Any], Any],
    clock: Clock | None = None,
) -> FrontDoor:
    """Does no I/O."""
    clock = clock or SystemClock()
    return FrontDoor(
        containers=Containers(boxes, database, blobs, clock, new_id),
        uploads=Uploads(database, blobs, clock, new_id, max_file),
        remembered=Remembered(database, clock, scrub),
        clock=clock,
        new_id=new_id,
    )


async def keep_forgetting(database: Database, clock: Clock, retention: float) -> None:
    """Drop, hourly, what nobody used for `retention` seconds."""
    while True:
        now = clock.now()
        try:
            await _forget(database, now - retention, now)
        except StoreError as error:
            log.warning("old responses and containers were not forgotten: %s", error)
        await anyio.sleep(_FORGET_EVERY)


async def _forget(database: Database, before: float, now: float) -> None:
    dropped = 1
    while dropped:
        dropped = await database.write(lambda connection: front.forget(connection, before, now))
