"""Responses with `background: true`: they go on without their client, and are asked for by id.

Kept in this process while they run; what they came to is in the store.  A server that ends marks
what still runs as failed; of one that was killed, whoever asks finds it so, since each is held by
the process that runs it for as long as that says so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from starlette.requests import Request
from starlette.responses import Response

from lap_mcp.control.front import HELD
from lap_mcp.errors import LapError, StoreError
from lap_mcp.front_parts.guarding import WORDS, log_bug
from lap_mcp.front_parts.http import EventStream, answered
from lap_mcp.front_parts.upstream import Refused
from lap_mcp.model import Principal

from .response_objects import finished, started
from .responses import Asked, Responding
from .shared import Shared
from .wire import ApiError, Json, bad, missing, named_event

logger = logging.getLogger(__name__)

MAX_RUNNING: Final = 32
"""Of everybody together."""
MAX_EVENTS: Final = 20_000
"""Events of one response that can be read again while it runs and a little after; beyond it, no
pieces of texts any more."""
KEPT: Final = 300.0
"""Seconds for which the events of one that has ended can be read again."""


@dataclass(slots=True)
class _Work:
    principal: str
    responding: Responding
    request: Asked
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    events: list[Mapping[str, Any]] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)
    over: anyio.Event = field(default_factory=anyio.Event)
    cancelled: bool = False
    forgotten: bool = False
    """It was deleted: nothing of it is to be stored any more."""

    async def event(self, event: Mapping[str, Any], /) -> None:
        """A sink: every event is kept for whoever follows."""
        response = event.get("response")
        if isinstance(response, dict):
            event = {**event, "response": {**response, "background": True}}
        # What is left out beyond the limit are pieces: each item's end has all of it.
        if len(self.events) < MAX_EVENTS or not str(event.get("type", "")).endswith(".delta"):
            self.events.append(event)
        self.tell()

    def tell(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()


class Background:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._works: dict[str, _Work] = {}

    async def begin(self, responding: Responding, request: Asked) -> Response:
        """Raises: ApiError."""
        if not request.plan.stored:
            raise bad("background needs store: it is asked for by its id.", "background")
        tasks = self._shared.tasks
        running = sum(not work.over.is_set() for work in self._works.values())
        if tasks is None or running >= MAX_RUNNING:
            raise ApiError(429, f"{running} background responses run already; try again later.")
        await responding.prepare()
        work = _Work(request.principal.id, responding, request)
        first = {**self._state(work, "queued"), "status": "queued"}
        remembered = (await self._shared.front()).remembered
        await remembered.keep(await remembered.held(responding.record(first)))
        responding.held_by = await remembered.me()
        self._make_room()
        self._works[responding.id] = work
        tasks.start_soon(self._run, work)
        if request.plan.stream:
            return EventStream(lambda stream: _follow(work, stream, 0), named_event)
        return answered(first)

    def _make_room(self) -> None:
        """Of those that have ended, the oldest are no longer streamed again."""
        ended = [id_ for id_, work in self._works.items() if work.over.is_set()]
        for id_ in ended[: max(0, len(ended) - MAX_RUNNING)]:
            del self._works[id_]

    async def _run(self, work: _Work) -> None:
        try:
            with work.scope:
                await self._keep(work, self._state(work, "in_progress"))
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._hold, work)
                    await self._respond(work)
                    tasks.cancel_scope.cancel()
            if work.cancelled and not work.forgotten:
                await self._keep(work, self._state(work, "cancelled"))
        finally:
            if not work.over.is_set() and not work.cancelled and work.scope.cancel_called is False:
                with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                    await self._unfinished(work)
            work.over.set()
            work.tell()
        await anyio.sleep(KEPT)
        self._works.pop(work.responding.id, None)

    async def _hold(self, work: _Work) -> None:
        """Say, again and again, that it is run here; end it where it is not ours any more."""
        remembered = (await self._shared.front()).remembered
        ours = True
        while ours:
            await anyio.sleep(HELD / 3)
            try:
                ours = await remembered.hold(work.request.principal, work.responding.id)
            except StoreError as error:
                logger.warning("response %s cannot be held: %s", work.responding.id, error)
        work.cancelled = work.forgotten = True
        work.scope.cancel()

    async def _respond(self, work: _Work) -> None:
        try:
            await work.responding.respond(work)
        except (ApiError, Refused, LapError) as error:
            await self._failed(work, _words(error))
        except Exception as error:
            log_bug(f"response {work.responding.id}", error)
            await self._failed(work, WORDS.format(id=work.responding.id))
        work.over.set()

    async def _failed(self, work: _Work, words: str) -> None:
        failed = self._state(work, "failed")
        failed["error"] = {"code": "server_error", "message": words}
        await self._keep(work, failed)
        number = 1 + max((event.get("sequence_number", 0) for event in work.events), default=-1)
        told = {"type": "response.failed", "response": failed, "sequence_number": number}
        await work.event(told)

    async def _unfinished(self, work: _Work) -> None:
        failed = self._state(work, "failed")
        failed["error"] = {
            "code": "server_error",
            "message": "The server was stopped while this response ran. Send it again.",
        }
        await self._keep(work, failed)

    async def cancel(self, principal: Principal, response_id: str) -> None:
        """Returns when it is over.  One that has ended stays as it is; one that another process
        runs ends when that looks for it next."""
        work = self._works.get(response_id)
        if work is None:
            await (await self._shared.front()).remembered.cancel(principal, response_id)
            return
        if work.over.is_set():
            return
        work.cancelled = True
        work.scope.cancel()
        await work.over.wait()

    def forget(self, principal: Principal, response_id: str) -> None:
        work = self._works.get(response_id)
        if work is not None and work.principal == principal.id:
            work.cancelled = work.forgotten = True
            work.scope.cancel()

    async def follow(self, principal: Principal, request: Request) -> Response:
        """The events of a background response, from the beginning or after a sequence number.

        Raises: ApiError."""
        work = self._works.get(request.path_params["id"])
        if work is None or work.principal != principal.id:
            raise missing(
                "This response is not running here, so its events cannot be streamed again. "
                "Ask for it without stream."
            )
        after = request.query_params.get("starting_after")
        if after is not None and not (after.isdecimal() and len(after) < 20):
            raise bad("starting_after has to be a sequence number.", "starting_after")
        first = 0 if after is None else int(after) + 1
        return EventStream(lambda stream: _follow(work, stream, first), named_event)

    def _state(self, work: _Work, status: str) -> Json:
        plan, responding = work.request.plan, work.responding
        base = {"model": plan.body.get("model")}
        now = self._now(responding)
        if status in ("queued", "in_progress"):
            shown = started(plan, base, response_id=responding.id, now=now)
            return {**shown, "status": status, "background": True}
        return finished(
            plan, base, response_id=responding.id, now=now, status=status, output=[], usage={}
        )

    @staticmethod
    def _now(responding: Responding) -> float:
        return responding.record({}).created_at

    async def _keep(self, work: _Work, response: Mapping[str, Any]) -> None:
        remembered = (await self._shared.front()).remembered
        kept = work.responding.record(response)
        if kept.running:
            kept = await remembered.held(kept)
        try:
            await remembered.keep(kept, held_by=await remembered.me())
        except StoreError as error:
            # Nobody holds it any more in a while, and whoever asks finds that it has failed.
            logger.warning("response %s cannot be kept: %s", work.responding.id, error)


async def _follow(work: _Work, stream: EventStream, first: int) -> None:
    position = 0
    while True:
        changed, over = work.changed, work.over.is_set()
        while position < len(work.events):
            event = work.events[position]
            position += 1
            if event.get("sequence_number", 0) >= first:
                await stream.event(event)
        if over:
            return
        await changed.wait()


def _words(error: ApiError | Refused | LapError) -> str:
    if isinstance(error, Refused):
        return f"The model's server answered {error.status}."
    return error.message
