"""`/v1/files`: uploads that responses and containers name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lap_mcp.front_parts.http import answered, handled, principal_of
from lap_mcp.store.front import FrontFile

from .container_routes import download, form_file
from .paging import listed, wanted
from .shared import Shared
from .wire import Json, bad

_ONE: Final = "/v1/files/{id}"
_PURPOSES: Final = frozenset(
    {"assistants", "batch", "fine-tune", "vision", "user_data", "evals", "code_interpreter"}
)
_LIFETIME: Final = (3600, 2_592_000)


class FileRoutes:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    @property
    def routes(self) -> Sequence[Route]:
        return [
            Route("/v1/files", handled(self._create), methods=["POST"]),
            Route("/v1/files", handled(self._list), methods=["GET"]),
            Route(_ONE, handled(self._get), methods=["GET"]),
            Route(_ONE, handled(self._delete), methods=["DELETE"]),
            Route(f"{_ONE}/content", handled(self._content), methods=["GET"]),
        ]

    async def _create(self, request: Request) -> Response:
        front = await self._shared.front()
        name, data, fields = await form_file(request)
        if name is None:
            raise bad("A file is required, as multipart/form-data.", "file")
        purpose = fields.get("purpose", "")
        if purpose not in _PURPOSES:
            raise bad(f"purpose has to be one of {', '.join(sorted(_PURPOSES))}.", "purpose")
        file = await front.uploads.add(
            principal_of(request), name, data, purpose=purpose, lifetime=_lifetime(fields)
        )
        return answered(_file(file))

    async def _list(self, request: Request) -> Response:
        front = await self._shared.front()
        page = wanted(request.query_params, most=10_000, usual=10_000)
        found = await front.uploads.list(
            principal_of(request), page, request.query_params.get("purpose")
        )
        return answered(listed([_file(each) for each in found], page))

    async def _get(self, request: Request) -> Response:
        return answered(_file(await self._found(request)))

    async def _content(self, request: Request) -> Response:
        front, file = await self._shared.front(), await self._found(request)
        return download(file.path, await front.uploads.content(file))

    async def _delete(self, request: Request) -> Response:
        front, id_ = await self._shared.front(), request.path_params["id"]
        await front.uploads.delete(principal_of(request), id_)
        return answered({"id": id_, "object": "file", "deleted": True})

    async def _found(self, request: Request) -> FrontFile:
        front = await self._shared.front()
        return await front.uploads.get(principal_of(request), request.path_params["id"])


def _lifetime(fields: dict[str, str]) -> float | None:
    """Raises: ApiError."""
    seconds = fields.get("expires_after[seconds]")
    if seconds is None:
        return None
    if fields.get("expires_after[anchor]") != "created_at" or not seconds.isdecimal():
        raise bad(
            'expires_after has to be {"anchor": "created_at", "seconds": …}.', "expires_after"
        )
    least, most = _LIFETIME
    if not least <= int(seconds[:12]) <= most:
        raise bad(f"expires_after.seconds goes from {least} to {most}.", "expires_after.seconds")
    return float(seconds)


def _file(file: FrontFile) -> Json:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.path,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
