"""The face: its routes, and what they share.

Who may come in is the gate's business (`lap_mcp/gate.py`): every route here is behind its key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lap_mcp.config import ModelTable, OpenAITable
from lap_mcp.control.services import Services
from lap_mcp.front_parts.guarding import guarded
from lap_mcp.front_parts.http import answered, handled
from lap_mcp.front_parts.models import Models

from .chat_routes import ChatRoutes
from .container_routes import ContainerRoutes
from .file_routes import FileRoutes
from .response_routes import ResponseRoutes
from .shared import Shared
from .wire import Json, error_body, missing


def _told(words: str, request_id: str) -> tuple[Json, str]:
    return error_body(500, words), "x-request-id"


class OpenAIFront:
    """Routes for `build_app`, and their background work."""

    def __init__(
        self,
        services: Callable[[], Awaitable[Services]],
        tables: Mapping[str, ModelTable],
        settings: OpenAITable,
    ) -> None:
        self.shared = Shared(services, Models(tables), settings)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Leaving ends background responses and closes connections."""
        async with self.shared.running():
            yield

    @property
    def routes(self) -> Sequence[Route]:
        shared = self.shared
        routes = [
            Route("/v1/models", handled(self._models), methods=["GET"]),
            Route("/v1/models/{name:path}", handled(self._model), methods=["GET"]),
            *ResponseRoutes(shared).routes,
            *ChatRoutes(shared).routes,
            *ContainerRoutes(shared).routes,
            *FileRoutes(shared).routes,
        ]
        return guarded(routes, _told)

    async def _models(self, request: Request) -> Response:
        return answered({"object": "list", "data": await self._listed()})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        for model in await self._listed():
            if model["id"] == name:
                return answered(model)
        raise missing(f"The model '{name[:100]}' does not exist", "model")

    async def _listed(self) -> list[Json]:
        services = await self.shared.services()
        agents = {agent.name: 0.0 for agent in services.registry.agents() if agent.enabled}
        return self.shared.models.listed(agents)
