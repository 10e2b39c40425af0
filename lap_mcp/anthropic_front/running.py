"""The container of one request, and code run in it.

Whatever goes wrong with a sandbox is told to the model and the client as the outcome of the call,
never as the failure of the answer.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Final

from lap_mcp.control.container_parts import ContainerRun
from lap_mcp.control.containers import Containers
from lap_mcp.errors import Invalid, LapError, LimitReached
from lap_mcp.front_parts.driving import Live
from lap_mcp.front_parts.wire import Json
from lap_mcp.model import Principal
from lap_mcp.store.front import Container

from .history import Upload
from .results import Outcome

logger = logging.getLogger(__name__)

MINUTES: Final = 30 * 24 * 60
"""A container of this face lives as long as one of Anthropic's."""
RESTARTED: Final = (
    "(The environment was replaced since the last call: files in /mnt/data are as they were, "
    "variables and imports are gone.)"
)


class Running:
    """The container that a request's code runs in."""

    def __init__(
        self, containers: Containers, principal: Principal, container: Container, timeout: float
    ) -> None:
        self._containers = containers
        self._principal = principal
        self._container = container
        self._timeout = timeout

    async def add(self, file_id: str, file: Upload) -> Upload:
        """The file under the name that it has there."""
        found = await self._containers.add_file(
            self._principal, self._container.id, file.name, file.data, upload_id=file_id
        )
        return Upload(found.path, file.data)

    async def shown(self) -> Json:
        """As answers name it."""
        container = await self._containers.get(self._principal, self._container.id)
        expires = datetime.fromtimestamp(container.used_at + container.minutes * 60, UTC)
        return {
            "id": container.id,
            "expires_at": expires.isoformat(timespec="seconds").replace("+00:00", "Z"),
        }

    async def run(self, source: str, live: Live) -> Outcome:
        try:
            run = await self._containers.run(
                self._principal, self._container.id, source, timeout=self._timeout, on_output=live
            )
            container = await self.shown()
        except LapError as error:
            logger.info("code was not run: %s", error)
            return Outcome(error_code=_error_code(error), message=str(error))
        return Outcome(
            execution=run.execution,
            note=RESTARTED if run.restarted else "",
            file_ids=_file_ids(run),
            pictures=[output for _, output in run.pictures],
            container=container,
        )


def _file_ids(run: ContainerRun) -> list[str]:
    changed = [run.files[each.path] for each in run.execution.files if each.path in run.files]
    return list(dict.fromkeys([*(file.id for file, _ in run.pictures), *changed]))


def _error_code(error: LapError) -> str:
    if isinstance(error, LimitReached):
        return "too_many_requests"
    return "invalid_tool_input" if isinstance(error, Invalid) else "unavailable"
