"""The face: its routes.

Who may come in is the gate's business (`lap_mcp/gate.py`): every route here is behind its key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lap_mcp.config import AnthropicTable, ModelTable
from lap_mcp.control.front import FrontDoor
from lap_mcp.control.services import Services
from lap_mcp.errors import Unavailable
from lap_mcp.front_parts.guarding import guarded
from lap_mcp.front_parts.http import answered
from lap_mcp.front_parts.models import Models
from lap_mcp.front_parts.wire import Json, missing

from .file_routes import FileRoutes
from .http import MarkedRoute, handled, limit_of, wanted
from .message_routes import MessageRoutes
from .wire import error_of

_SINCE = "1970-01-01T00:00:00Z"


def _told(words: str, request_id: str) -> tuple[Json, str]:
    return {**error_of(500, words), "request_id": request_id}, "request-id"


class AnthropicFront:
    """Routes for `build_app`; they have to stand before those of the OpenAI face, with which they
    share paths."""

    def __init__(
        self,
        services: Callable[[], Awaitable[Services]],
        tables: Mapping[str, ModelTable],
        settings: AnthropicTable,
    ) -> None:
        """`tables`: those whose `api` is `anthropic`."""
        self._services = services
        self._models = Models(tables)
        self._settings = settings

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Leaving closes connections."""
        async with self._models.running():
            yield

    @property
    def routes(self) -> Sequence[Route]:
        routes = [
            *MessageRoutes(self._front, self._models, self._settings).routes,
            *FileRoutes(self._front).routes,
            MarkedRoute("/v1/models", handled(self._listed), methods=["GET"]),
            MarkedRoute("/v1/models/{name:path}", handled(self._model), methods=["GET"]),
        ]
        return guarded(routes, _told)

    async def _front(self) -> FrontDoor:
        """Raises: Unavailable."""
        front = (await self._services()).front
        if front is None:
            raise Unavailable("Containers and files are not served here.")
        return front

    async def _listed(self, request: Request) -> Response:
        query = wanted(request, "limit", "after_id", "before_id", "lifecycle")
        lifecycle = [*query.getlist("lifecycle[]"), *query.getlist("lifecycle")]
        known = self._known() if not lifecycle or "active" in lifecycle else []
        ids, limit = [model["id"] for model in known], limit_of(query)
        after, before = query.get("after_id"), query.get("before_id")
        start = ids.index(after) + 1 if after in ids else 0
        end = ids.index(before) if before in ids else len(ids)
        if before is not None:
            start = max(start, end - limit)
        data = known[start : min(end, start + limit)]
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        more = start > 0 if before is not None else start + limit < end
        return answered({"data": data, "has_more": more, "first_id": first, "last_id": last})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        for model in self._known():
            if model["id"] == name:
                return answered(model)
        raise missing(f"model: {name[:100]}")

    def _known(self) -> list[Json]:
        names = [model["id"] for model in self._models.listed({})]
        return [
            {"id": name, "type": "model", "display_name": name, "created_at": _SINCE}
            for name in names
        ]
