"""`/v1/responses` and what is below it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lap_mcp.front_parts.http import (
    EventStream,
    Relayed,
    Whole,
    answered,
    body_of,
    handled,
    principal_of,
)
from lap_mcp.front_parts.models import AGENT
from lap_mcp.front_parts.upstream import sent_on
from lap_mcp.store.front import StoredResponse

from .agents import AgentResponse
from .background import Background
from .plans import OUTPUTS
from .responses import Asked, Responding, asked, relayed
from .rewriting import as_input_items
from .shared import Shared
from .wire import Json, bad, mapping, missing, named_event, sequence

_PAGE: Final = 100
_CALL: Final = "code_interpreter_call"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")


class ResponseRoutes:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._background = Background(shared)

    @property
    def routes(self) -> Sequence[Route]:
        one = "/v1/responses/{id}"
        return [
            Route("/v1/responses", handled(self._create), methods=["POST"]),
            Route(one, handled(self._get), methods=["GET"]),
            Route(one, handled(self._delete), methods=["DELETE"]),
            Route(f"{one}/cancel", handled(self._cancel), methods=["POST"]),
            Route(f"{one}/input_items", handled(self._input_items), methods=["GET"]),
            Route("/v1/responses/{rest:path}", handled(self._rest), methods=["POST"]),
        ]

    async def _create(self, request: Request) -> Response:
        raw, body = await body_of(request)
        model = body.get("model")
        if isinstance(model, str) and model.startswith(AGENT):
            return await self._agent(request, body, model.removeprefix(AGENT))
        front, principal = await self._shared.front(), principal_of(request)
        target = self._shared.models.find(model)
        found = await asked(front, principal, body, target, sent_on(request.headers))
        if found.relayed:
            return Relayed(lambda: relayed(found, raw))
        responding = Responding(front, self._shared.settings, found, front.new_id("resp"))
        if body.get("background") is True:
            return await self._background.begin(responding, found)
        return _answer(responding, found)

    async def _agent(self, request: Request, body: Json, name: str) -> Response:
        services, front = await self._shared.services(), await self._shared.front()
        agent = AgentResponse(services, front, principal_of(request), name, body)
        await agent.begin()
        if body.get("stream") is True:
            return EventStream(agent.stream, named_event)
        return Whole(agent.whole)

    # What is kept ------------------------------------------------------------------------------

    async def _get(self, request: Request) -> Response:
        if request.query_params.get("include_obfuscation") == "true":
            raise bad(
                "include_obfuscation: streams of this server have none.", "include_obfuscation"
            )
        if request.query_params.get("stream") == "true":
            return await self._background.follow(principal_of(request), request)
        found = await self._found(request)
        if found is None:
            return await self._elsewhere(request)
        _refuse_what_is_not_kept(found.response, _included(request))
        return answered(found.response)

    async def _delete(self, request: Request) -> Response:
        id_ = request.path_params["id"]
        front = await self._shared.front()
        self._background.forget(principal_of(request), id_)
        if await front.remembered.delete(principal_of(request), id_):
            return answered({"id": id_, "object": "response", "deleted": True})
        return await self._elsewhere(request)

    async def _cancel(self, request: Request) -> Response:
        found = await self._found(request)
        if found is None:
            return await self._elsewhere(request)
        if found.response.get("background") is not True:
            raise bad("Only a background response can be cancelled.")
        await self._background.cancel(principal_of(request), found.id)
        again = await self._found(request)
        return answered((again or found).response)

    async def _input_items(self, request: Request) -> Response:
        found = await self._found(request)
        if found is None:
            return await self._elsewhere(request)
        numbers = itertools.count(1)
        if included := _included(request):
            raise bad(f"{included[0][:100]} is not kept of input items here.", "include")
        items = as_input_items(
            found.given, lambda prefix: f"{prefix}_{found.id[5:]}_{next(numbers)}"
        )
        if request.query_params.get("order", "desc") == "desc":
            items.reverse()
        return answered(_page(items, request.query_params))

    async def _found(self, request: Request) -> StoredResponse | None:
        front = await self._shared.front()
        return await front.remembered.response(principal_of(request), request.path_params["id"])

    # What is not ours --------------------------------------------------------------------------

    async def _rest(self, request: Request) -> Response:
        """`compact`, `input_tokens` and whatever comes: the upstream's business."""
        rest = request.path_params["rest"]
        if not _PLAIN.fullmatch(rest):
            # The upstream would see its own path, under our key.
            raise missing("There is no such path.")
        raw, body = await body_of(request)
        target = self._shared.models.find(body.get("model"))
        found = await asked(
            await self._shared.front(), principal_of(request), body, target,
            sent_on(request.headers),
        )  # fmt: skip
        return Relayed(lambda: relayed(found, raw, f"responses/{rest}"))

    async def _elsewhere(self, request: Request) -> Response:
        """An id that is not ours may be the upstream's."""
        upstream = self._shared.models.only()
        id_ = request.path_params["id"]
        if upstream is None or not _PLAIN.fullmatch(id_):
            raise missing(f"Response with id '{id_[:100]}' not found.")
        path = request.url.path.removeprefix("/v1/")
        query = f"?{request.url.query}" if request.url.query else ""
        headers, method = sent_on(request.headers), request.method
        return Relayed(lambda: upstream.send(method, f"{path}{query}", None, headers))


def _answer(responding: Responding, request: Asked) -> Response:
    if request.plan.stream:

        async def produce(stream: EventStream) -> None:
            await responding.prepare()
            await responding.respond(stream)

        return EventStream(produce, named_event)

    async def make() -> Mapping[str, Any]:
        await responding.prepare()
        return await responding.respond()

    return Whole(make)


def _included(request: Request) -> list[str]:
    query = request.query_params
    return [*query.getlist("include"), *query.getlist("include[]")]


def _refuse_what_is_not_kept(response: Mapping[str, Any], included: Sequence[str]) -> None:
    """A response is kept as it was told; what was not asked for then cannot be had later.

    Raises: ApiError."""
    calls = [i for i in sequence(response.get("output")) if mapping(i).get("type") == _CALL]
    kept = all(call.get("outputs") is not None for call in calls)
    for name in included:
        if name != OUTPUTS or not kept:
            raise bad(
                f"{name[:100]} was not kept of this response: ask for it with include when it is "
                "created.",
                "include",
            )


def _page(items: Sequence[Any], query: Mapping[str, str]) -> Json:
    """Raises: ApiError."""
    try:
        limit = int(query.get("limit", "20"))
    except ValueError as error:
        raise bad("limit has to be a number.", "limit") from error
    if not 1 <= limit <= _PAGE:
        raise bad(f"limit goes from 1 to {_PAGE}.", "limit")
    ids = [item.get("id") if isinstance(item, dict) else None for item in items]
    start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
    page = list(items[start : start + limit])
    shown = ids[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": shown[0] if shown else None,
        "last_id": shown[-1] if shown else None,
        "has_more": start + limit < len(items),
    }
