"""`POST /v1/messages` and `/v1/messages/count_tokens`: relayed, or with `code_execution` among the
tools driven through a `MessageExchange`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lap_mcp.config import AnthropicTable
from lap_mcp.control.front import FrontDoor
from lap_mcp.errors import NotFound
from lap_mcp.front_parts.driving import Silent, Sink, drive
from lap_mcp.front_parts.http import body_of, principal_of
from lap_mcp.front_parts.models import Models, Target
from lap_mcp.front_parts.upstream import sent_on
from lap_mcp.front_parts.wire import Json, bad, encode, missing, sequence
from lap_mcp.model import Principal

from .exchange import MessageExchange, Setting
from .history import Upload, file_ids, upstream_messages
from .http import Relay, Stream, WholeMessage, handled, raise_if_failed
from .running import MINUTES, Running
from .tools import Plan, plan_of

VERSION: Final = "2023-06-01"
_OUR_BETA: Final = "code-execution-"

GetFront = Callable[[], Awaitable[FrontDoor]]


class MessageRoutes:
    def __init__(self, front: GetFront, models: Models, settings: AnthropicTable) -> None:
        self._front = front
        self._models = models
        self._settings = settings

    @property
    def routes(self) -> Sequence[Route]:
        return [
            Route("/v1/messages", handled(self._create), methods=["POST"]),
            Route("/v1/messages/count_tokens", handled(self._count), methods=["POST"]),
        ]

    async def _create(self, request: Request) -> Response:
        raw, body = await body_of(request)
        plan, target = plan_of(body), self._models.find(body.get("model"))
        headers, path = _headers(request, ours=plan.ours), _path(request, "messages")
        if not plan.ours and not file_ids(sequence(body.get("messages")))[1]:
            raw = _renamed(raw, body, target)
            return Relay(lambda: target.upstream.send("POST", path, raw, headers))
        front, principal = await self._front(), principal_of(request)
        files = await _files(front, principal, body)
        if not plan.ours:
            raw = encode(plan.asked(_upstream(body, files), target.model, first=True))
            return Relay(lambda: target.upstream.send("POST", path, raw, headers))
        if not isinstance(body.get("messages"), list):
            raise bad("messages: a list is required.")
        answering = Answering(front, principal, plan, target, self._settings)
        return _answer(answering, files, path, headers)

    async def _count(self, request: Request) -> Response:
        raw, body = await body_of(request)
        plan, target = plan_of(body), self._models.find(body.get("model"))
        headers, path = _headers(request, ours=plan.ours), _path(request, "messages/count_tokens")
        if plan.ours or file_ids(sequence(body.get("messages")))[1]:
            files = await _files(await self._front(), principal_of(request), body)
            raw = encode(plan.asked(_upstream(body, files), target.model, first=True))
        else:
            raw = _renamed(raw, body, target)
        return Relay(lambda: target.upstream.send("POST", path, raw, headers))


class Answering:
    """One message of ours."""

    def __init__(
        self,
        front: FrontDoor,
        principal: Principal,
        plan: Plan,
        target: Target,
        settings: AnthropicTable,
    ) -> None:
        self._front = front
        self._principal = principal
        self.plan = plan
        self._target = target
        self._settings = settings

    async def respond(
        self, files: Mapping[str, Upload], path: str, headers: Mapping[str, str], sink: Sink
    ) -> Mapping[str, Any]:
        """Raises: ApiError, Refused."""
        body, target = self.plan.body, self._target
        uploads = [id_ for id_ in file_ids(body["messages"])[0] if id_ in files]
        running = await self._running()
        for id_ in uploads:
            files = {**files, id_: await running.add(id_, files[id_])}
        known = bool(uploads) or self.plan.container_id is not None
        images = target.table.images
        exchange = MessageExchange(
            Setting(
                plan=self.plan,
                messages=_upstream(body, files),
                model=target.model,
                max_rounds=self._settings.rounds,
                images=True if images is None else images,
                container=await running.shown() if known else None,
            )
        )
        return await drive(
            exchange, lambda asked: target.upstream.events(path, asked, headers), running.run, sink
        )

    async def _running(self) -> Running:
        """Raises: ApiError."""
        containers, container_id = self._front.containers, self.plan.container_id
        if container_id is None:
            container = containers.fresh(self._principal, name="auto", minutes=MINUTES)
        else:
            try:
                container = await containers.get(self._principal, container_id)
            except NotFound as error:
                raise missing(f"container: {error.message}") from error
        return Running(containers, self._principal, container, self._settings.code_timeout)


def _answer(
    answering: Answering, files: Mapping[str, Upload], path: str, headers: Mapping[str, str]
) -> Response:
    if answering.plan.stream:

        async def produce(stream: Stream) -> None:
            await answering.respond(files, path, headers, stream)

        return Stream(produce)

    async def make() -> Mapping[str, Any]:
        return raise_if_failed(await answering.respond(files, path, headers, Silent()))

    return WholeMessage(make)


def _upstream(body: Json, files: Mapping[str, Upload]) -> list[Any]:
    return upstream_messages(sequence(body.get("messages")), files)


async def _files(front: FrontDoor, principal: Principal, body: Json) -> dict[str, Upload]:
    """Files that the messages name, by id.  One that an older message put into a container may be
    gone; one that the newest names may not.

    Raises: ApiError."""
    messages = sequence(body.get("messages"))
    uploads, sources = file_ids(messages)
    newest, _ = file_ids(messages[-1:])
    found: dict[str, Upload] = {}
    for id_ in (*uploads, *sources):
        try:
            file = await front.uploads.get(principal, id_)
            found[id_] = Upload(file.path, await front.uploads.content(file))
        except NotFound as error:
            if id_ in newest:
                raise missing(f"file_id: {error.message}") from error
    return found


def _headers(request: Request, *, ours: bool) -> dict[str, str]:
    headers = {"anthropic-version": VERSION, **sent_on(request.headers)}
    betas = headers.get("anthropic-beta", "")
    if ours and betas:
        kept = [each for each in betas.split(",") if not each.strip().startswith(_OUR_BETA)]
        headers["anthropic-beta"] = ",".join(kept)
        if not kept:
            del headers["anthropic-beta"]
    return headers


def _path(request: Request, path: str) -> str:
    query = request.url.query
    return f"{path}?{query}" if query else path


def _renamed(raw: bytes, body: Json, target: Target) -> bytes:
    return raw if body.get("model") == target.model else encode({**body, "model": target.model})
