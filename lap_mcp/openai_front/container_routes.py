"""`/v1/containers` and the files in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lap_mcp.control.containers import MINUTES
from lap_mcp.front_parts.http import answered, body_of, handled, principal_of
from lap_mcp.plain_text import one_line
from lap_mcp.store.front import Container, FrontFile

from .interpreter import refuse_memory, uploaded
from .paging import listed, wanted
from .plans import memory_tier, refuse_network
from .shared import Shared
from .wire import ApiError, Json, bad, mapping

_ONE: Final = "/v1/containers/{id}"
_FILE: Final = f"{_ONE}/files/{{file_id}}"


class ContainerRoutes:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    @property
    def routes(self) -> Sequence[Route]:
        return [
            Route("/v1/containers", handled(self._create), methods=["POST"]),
            Route("/v1/containers", handled(self._list), methods=["GET"]),
            Route(_ONE, handled(self._get), methods=["GET"]),
            Route(_ONE, handled(self._delete), methods=["DELETE"]),
            Route(f"{_ONE}/files", handled(self._add_file), methods=["POST"]),
            Route(f"{_ONE}/files", handled(self._files), methods=["GET"]),
            Route(_FILE, handled(self._file), methods=["GET"]),
            Route(_FILE, handled(self._delete_file), methods=["DELETE"]),
            Route(f"{_FILE}/content", handled(self._content), methods=["GET"]),
        ]

    async def _create(self, request: Request) -> Response:
        _, body = await body_of(request)
        front, principal = await self._shared.front(), principal_of(request)
        name = body.get("name")
        if not isinstance(name, str) or not 0 < len(name) <= 300:
            raise bad("name is required: text of at most 300 characters.", "name")
        name = one_line(name, 300)
        refuse_network(body.get("network_policy"), "network_policy")
        if body.get("skills"):
            raise bad("Containers of this server take no skills.", "skills")
        memory = memory_tier(body.get("memory_limit"), "memory_limit")
        refuse_memory(memory, self._shared.settings)
        minutes = _minutes(body.get("expires_after"))
        files = [
            await uploaded(front, principal, file_id) for file_id in _ids(body.get("file_ids"))
        ]
        container = await front.containers.create(
            principal, name=name, memory=memory, minutes=minutes
        )
        for file in files:
            await front.containers.add_file(
                principal, container.id, file.name, file.data, upload_id=file.upload_id
            )
        return answered(_container(container, front.clock.now()))

    async def _list(self, request: Request) -> Response:
        front, page = await self._shared.front(), wanted(request.query_params)
        found = await front.containers.list(
            principal_of(request), page, request.query_params.get("name")
        )
        now = front.clock.now()
        return answered(listed([_container(each, now) for each in found], page))

    async def _get(self, request: Request) -> Response:
        front = await self._shared.front()
        found = await front.containers.get(principal_of(request), request.path_params["id"])
        return answered(_container(found, front.clock.now()))

    async def _delete(self, request: Request) -> Response:
        front, id_ = await self._shared.front(), request.path_params["id"]
        await front.containers.delete(principal_of(request), id_)
        return answered({"id": id_, "object": "container.deleted", "deleted": True})

    # Files -------------------------------------------------------------------------------------

    async def _add_file(self, request: Request) -> Response:
        front, principal = await self._shared.front(), principal_of(request)
        id_ = request.path_params["id"]
        await front.containers.get(principal, id_)
        name, data, upload_id = await self._given(request)
        if len(data) > front.uploads.max_bytes:
            raise ApiError(413, f"A file may have {front.uploads.max_bytes} bytes.", param="file")
        file = await front.containers.add_file(principal, id_, name, data, upload_id=upload_id)
        return answered(_file(file))

    async def _given(self, request: Request) -> tuple[str, bytes, str | None]:
        """A file in the body, or one of `/v1/files` by id."""
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            name, data, fields = await form_file(request)
            if name is not None:
                return name, data, None
            file_id: Any = fields.get("file_id")
        else:
            _, body = await body_of(request)
            file_id = body.get("file_id")
        if not isinstance(file_id, str):
            raise bad("Send a file as multipart/form-data, or a file_id.", "file")
        found = await uploaded(await self._shared.front(), principal_of(request), file_id)
        return found.name, found.data, found.upload_id

    async def _files(self, request: Request) -> Response:
        front, page = await self._shared.front(), wanted(request.query_params)
        found = await front.containers.list_files(
            principal_of(request), request.path_params["id"], page
        )
        return answered(listed([_file(each) for each in found], page))

    async def _file(self, request: Request) -> Response:
        return answered(_file(await self._found(request)))

    async def _content(self, request: Request) -> Response:
        front, file = await self._shared.front(), await self._found(request)
        return download(file.path, await front.containers.content(file))

    async def _delete_file(self, request: Request) -> Response:
        front, file = await self._shared.front(), await self._found(request)
        await front.containers.delete_file(
            principal_of(request), request.path_params["id"], file.id
        )
        return answered({"id": file.id, "object": "container.file.deleted", "deleted": True})

    async def _found(self, request: Request) -> FrontFile:
        front, params = await self._shared.front(), request.path_params
        return await front.containers.file(principal_of(request), params["id"], params["file_id"])


async def form_file(request: Request) -> tuple[str | None, bytes, dict[str, str]]:
    """The file of a form with its name, and the form's other fields.  Raises: ApiError."""
    from starlette.exceptions import HTTPException

    try:
        async with request.form(max_files=1, max_fields=20) as form:
            fields = {key: value for key, value in form.items() if isinstance(value, str)}
            file = form.get("file")
            if isinstance(file, UploadFile):
                return file.filename or "file", await file.read(), fields
            return None, b"", fields
    except HTTPException as error:
        raise bad(f"The form cannot be read: {error.detail}") from error


def download(name: str, data: bytes) -> Response:
    """Never shown as a page: the bytes are a stranger's."""
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name.rpartition('/')[2])}",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(data, 200, headers, "application/octet-stream")


def _ids(value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise bad("file_ids has to be a list of file ids.", "file_ids")
    return value


def _minutes(expires: Any) -> int:
    if expires is None:
        return MINUTES
    minutes = mapping(expires).get("minutes")
    if mapping(expires).get("anchor") != "last_active_at" or not isinstance(minutes, int):
        raise bad(
            'expires_after has to be {"anchor": "last_active_at", "minutes": …}.', "expires_after"
        )
    if not 1 <= minutes <= 24 * 60:
        raise bad("expires_after.minutes goes from 1 to 1440.", "expires_after.minutes")
    return minutes


def _container(container: Container, now: float) -> Json:
    return {
        "id": container.id,
        "object": "container",
        "created_at": int(container.created_at),
        "status": "expired" if container.expired(now) else "running",
        "expires_after": {"anchor": "last_active_at", "minutes": container.minutes},
        "last_active_at": int(container.used_at),
        "memory_limit": container.memory,
        "network_policy": {"type": "disabled"},
        "name": container.name,
    }


def _file(file: FrontFile) -> Json:
    return {
        "id": file.id,
        "object": "container.file",
        "bytes": file.size,
        "container_id": file.container_id,
        "created_at": int(file.created_at),
        "path": f"/mnt/data/{file.path}",
        "source": file.source,
    }
