"""The container of one request: found or made, filled, and code run in it.

Whatever goes wrong with a sandbox is told to the model and the client as the outcome of the call,
never as the failure of the response.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from lap_mcp.config import OpenAITable
from lap_mcp.control.containers import Containers
from lap_mcp.control.front import FrontDoor
from lap_mcp.errors import LapError, NotFound
from lap_mcp.front_parts.driving import Live
from lap_mcp.model import Principal
from lap_mcp.store.front import Container

from .plans import MEMORY_TIERS, ContainerWish
from .results import CodeResult, Picture, refused, result_of
from .rewriting import GivenFile
from .wire import bad, missing

logger = logging.getLogger(__name__)

RESTARTED: Final = (
    "(The environment was replaced since the last call: files in /mnt/data are as they were, "
    "variables and imports are gone.)"
)
NEW: Final = (
    "(The environment of the earlier calls does not exist any more. This is a new one: variables "
    "and files of then are gone.)"
)


class Interpreter:
    """The container that a request's code runs in."""

    def __init__(
        self,
        containers: Containers,
        principal: Principal,
        container_id: str,
        settings: OpenAITable,
        note: str = "",
    ) -> None:
        self.container_id = container_id
        self._containers = containers
        self._principal = principal
        self._settings = settings
        self._note = note
        """What the model is told with its first result."""
        self.used = False

    async def files(self) -> Mapping[str, str]:
        return await self._containers.paths(self._principal, self.container_id)

    async def add(self, files: Iterable[GivenFile]) -> Mapping[str, str]:
        """Id to path below `/mnt/data`, of uploads whose name was taken by another one."""
        moved: dict[str, str] = {}
        for file in files:
            found = await self._containers.add_file(
                self._principal, self.container_id, file.name, file.data, upload_id=file.upload_id
            )
            if file.upload_id is not None and found.path != file.name:
                moved[file.upload_id] = found.path
        return moved

    async def run(self, source: str, live: Live) -> CodeResult:
        self.used = True
        try:
            run = await self._containers.run(
                self._principal,
                self.container_id,
                source,
                timeout=self._settings.code_timeout,
                on_output=live,
            )
        except LapError as error:
            logger.info("code was not run: %s", error)
            return refused(f"The code was not run: {error}")
        note, self._note = self._note, ""
        if run.restarted and not note:
            note = RESTARTED
        pictures = [
            Picture(file_id=file.id, mime=output.mime, data=output.data)
            for file, output in run.pictures
        ]
        return result_of(run.execution, pictures=pictures, files=run.files, note=note)


async def interpreter_for(
    front: FrontDoor,
    principal: Principal,
    wish: ContainerWish,
    settings: OpenAITable,
    earlier: Sequence[str],
) -> Interpreter:
    """The container that the client names, else the newest of the conversation that exists, else
    a new one.  `earlier`: ids of the conversation's containers, newest first.

    Raises:
        ApiError: a container or a file that is not there, or more memory than there is.
    """
    containers, note = front.containers, ""
    if wish.id is not None:
        container_id = (await _known(containers, principal, wish.id)).id
    else:
        refuse_memory(wish.memory, settings)
        found = await _newest(containers, principal, earlier)
        note = NEW if found is None and earlier else ""
        container_id = found or containers.fresh(principal, name="auto", memory=wish.memory).id
    interpreter = Interpreter(containers, principal, container_id, settings, note)
    for file_id in wish.file_ids:
        await interpreter.add([await uploaded(front, principal, file_id)])
    return interpreter


async def _known(containers: Containers, principal: Principal, container_id: str) -> Container:
    try:
        return await containers.get(principal, container_id)
    except NotFound as error:
        raise missing(error.message, "tools[0].container") from error


async def _newest(
    containers: Containers, principal: Principal, earlier: Sequence[str]
) -> str | None:
    for container_id in earlier:
        try:
            return (await containers.get(principal, container_id)).id
        except NotFound:
            continue
    return None


async def uploaded(front: FrontDoor, principal: Principal, file_id: str) -> GivenFile:
    """Raises: ApiError."""
    try:
        file = await front.uploads.get(principal, file_id)
        return GivenFile(file.path, await front.uploads.content(file), file.id)
    except NotFound as error:
        raise missing(error.message, "file_ids") from error


def refuse_memory(tier: str, settings: OpenAITable) -> None:
    """Raises: ApiError."""
    if MEMORY_TIERS[tier] > MEMORY_TIERS[settings.max_memory]:
        raise bad(
            f"memory_limit is {tier}; this server gives a container at most "
            f"{settings.max_memory} (openai.max_memory in lap.toml).",
            "memory_limit",
        )
