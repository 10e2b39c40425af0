"""What the routes of this face share: services, models, settings, and a place for work that goes
on without its client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from lap_mcp.config import OpenAITable
from lap_mcp.control.front import FrontDoor
from lap_mcp.control.services import Services
from lap_mcp.errors import Unavailable
from lap_mcp.front_parts.models import Models


@dataclass(slots=True)
class Shared:
    services: Callable[[], Awaitable[Services]]
    models: Models
    settings: OpenAITable
    tasks: TaskGroup | None = field(default=None, init=False)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.models.running(), anyio.create_task_group() as tasks:
            self.tasks = tasks
            try:
                yield
            finally:
                self.tasks = None
                tasks.cancel_scope.cancel()

    async def front(self) -> FrontDoor:
        """Raises: Unavailable."""
        front = (await self.services()).front
        if front is None:
            raise Unavailable("Containers and files are not served here.")
        return front
