"""`POST /v1/responses`: relayed where nothing in it is ours, else driven through an `Exchange`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from lap_mcp.config import OpenAITable
from lap_mcp.control.front import FrontDoor
from lap_mcp.errors import NotFound
from lap_mcp.front_parts.driving import AskUpstream, Live, RunCode, Silent, Sink, drive
from lap_mcp.front_parts.models import Target
from lap_mcp.model import Principal
from lap_mcp.store.front import StoredResponse

from .chat_events import ChatEvents
from .chat_requests import chat_request
from .exchange import Exchange, Setting
from .interpreter import Interpreter, interpreter_for
from .plans import Plan, plan_of
from .results import CodeResult, refused
from .rewriting import GivenFile, Rewriting, containers_in, referred
from .wire import ApiError, Json, bad


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request and where it goes."""

    principal: Principal
    plan: Plan
    target: Target
    headers: Mapping[str, str]
    """Of the client, those that go upstream."""
    previous: StoredResponse | None = None
    calls: Mapping[str, Any]
    """Known code calls that the input names."""
    uploads: Mapping[str, GivenFile]

    @property
    def relayed(self) -> bool:
        """Nothing in it is ours."""
        body = self.plan.body
        return (
            self.plan.tool is None
            and self.target.table.api == "responses"
            and self.previous is None
            and not (self.calls or self.uploads)
            and body.get("background") is not True
            and next(containers_in(body.get("input")), None) is None
        )


async def asked(
    front: FrontDoor,
    principal: Principal,
    body: Json,
    target: Target,
    headers: Mapping[str, str],
) -> Asked:
    """Read a request.  Raises: ApiError."""
    plan = plan_of(body)
    calls, files = referred(body.get("input"))
    return Asked(
        principal=principal,
        plan=plan,
        target=target,
        headers=headers,
        previous=await _previous(front, principal, body, target),
        calls=await front.remembered.calls(principal, calls),
        uploads=await _uploads(front, principal, files),
    )


async def _previous(
    front: FrontDoor, principal: Principal, body: Json, target: Target
) -> StoredResponse | None:
    """The response that this one follows, if it is ours; an unknown one may be the upstream's."""
    id_ = body.get("previous_response_id")
    if id_ is None:
        return None
    if not isinstance(id_, str):
        raise bad("previous_response_id has to be text.", "previous_response_id")
    if body.get("conversation") is not None:
        raise bad("Give previous_response_id or conversation, not both.", "previous_response_id")
    found = await front.remembered.response(principal, id_)
    if found is None and target.table.api == "chat":
        raise ApiError(
            400,
            f"Previous response with id '{id_[:100]}' not found.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    if found is not None and found.response.get("status") in ("queued", "in_progress"):
        raise bad("The previous response still runs; wait until it ends.", "previous_response_id")
    return found


async def _uploads(
    front: FrontDoor, principal: Principal, ids: Sequence[str]
) -> Mapping[str, GivenFile]:
    """Those of the ids that are uploads here; others are the upstream's."""
    found: dict[str, GivenFile] = {}
    for id_ in dict.fromkeys(ids):
        try:
            file = await front.uploads.get(principal, id_)
        except NotFound:
            continue
        found[id_] = GivenFile(file.path, await front.uploads.content(file), file.id)
    return found


class Responding:
    """One response of ours, from the client's request to what is kept of it."""

    def __init__(
        self, front: FrontDoor, settings: OpenAITable, request: Asked, response_id: str
    ) -> None:
        self.id = response_id
        self._front = front
        self._settings = settings
        self._request = request
        self._interpreter: Interpreter | None = None
        self._exchange: Exchange | None = None
        self._now = front.clock.now()
        self.held_by: str | None = None
        """The process that has to hold it still, for its end to be kept."""

    async def prepare(self) -> None:
        """Find the container and the conversation.  Raises: ApiError."""
        request, plan = self._request, self._request.plan
        rewriting = Rewriting(plan.name, request.calls, request.uploads)
        given = rewriting.items(plan.body.get("input"))
        if plan.tool is not None:
            self._interpreter = await interpreter_for(
                self._front, request.principal, plan.container, self._settings, self._earlier()
            )
            moved = await self._interpreter.add(rewriting.placed)
            if moved:
                given = rewriting.renamed(moved).items(plan.body.get("input"))
        earlier = request.previous.history if request.previous else ()
        given = [*earlier, *given]
        self._exchange = Exchange(await self._setting(given))

    def _earlier(self) -> list[str]:
        found = list(containers_in(self._request.plan.body.get("input")))
        previous = self._request.previous
        if previous is not None and previous.container_id is not None:
            found.append(previous.container_id)
        return found

    async def _setting(self, given: Sequence[Any]) -> Setting:
        plan, interpreter = self._request.plan, self._interpreter
        return Setting(
            plan=plan,
            given=given,
            response_id=self.id,
            container_id=interpreter.container_id if interpreter else "",
            files=await interpreter.files() if interpreter else {},
            now=self._now,
            new_id=self._front.new_id,
            max_rounds=self._settings.rounds,
            images=self._request.target.images,
            incremental=plan.body.get("conversation") is not None,
            live=self._settings.live_output,
            drop_previous=self._request.previous is not None,
            model=self._request.target.model,
        )

    async def respond(self, sink: Sink | None = None) -> Mapping[str, Any]:
        """Raises: ApiError, Refused."""
        assert self._exchange is not None
        run: RunCode[CodeResult] = self._interpreter.run if self._interpreter else _nothing_runs
        return await drive(self._exchange, self._ask(), run, sink or Silent(), self.keep)

    def _ask(self) -> AskUpstream:
        target, headers = self._request.target, self._request.headers
        if target.table.api == "responses":
            return lambda body: target.upstream.events("responses", body, headers)
        return lambda body: chat_upstream(target, body, headers, self._front)

    async def keep(self, result: Mapping[str, Any]) -> None:
        request, exchange = self._request, self._exchange
        assert exchange is not None
        stored = request.plan.stored
        await self._front.remembered.keep_calls(
            request.principal,
            {id_: list(pair) for id_, pair in exchange.exchanged.items()},
            stored=stored,
        )
        if stored:
            await self._front.remembered.keep(self.record(result), held_by=self.held_by)

    def record(self, result: Mapping[str, Any]) -> StoredResponse:
        request, exchange = self._request, self._exchange
        earlier = request.previous.container_id if request.previous else None
        return StoredResponse(
            id=self.id,
            principal=request.principal.id,
            container_id=self._interpreter.container_id if self._interpreter else earlier,
            response=result,
            given=Rewriting("", {}, {}).items(request.plan.body.get("input")),
            history=[*exchange.given, *exchange.history] if exchange else [],
            created_at=self._now,
        )


async def _nothing_runs(source: str, live: Live) -> CodeResult:
    return refused("No code can be run in this response.")


@asynccontextmanager
async def chat_upstream(
    target: Target, body: Mapping[str, Any], headers: Mapping[str, str], front: FrontDoor
) -> AsyncIterator[AsyncIterator[Json]]:
    """A Responses question put to an upstream that speaks Chat Completions only."""
    events = ChatEvents(front.new_id)
    asked = target.upstream.events("chat/completions", chat_request(body), headers)
    async with asked as chunks:
        yield _translated(events, chunks)


async def _translated(events: ChatEvents, chunks: AsyncIterator[Json]) -> AsyncIterator[Json]:
    async for chunk in chunks:
        for event in events.feed(chunk):
            yield event
    for event in events.close():
        yield event


def relayed(
    request: Asked, raw: bytes, path: str = "responses"
) -> AbstractAsyncContextManager[Any]:
    """The request as it came, under the upstream's name for the model."""
    from .wire import encode

    body = request.plan.body
    if body.get("model") != request.target.model:
        raw = encode({**body, "model": request.target.model})
    return request.target.upstream.send("POST", path, raw, request.headers)
