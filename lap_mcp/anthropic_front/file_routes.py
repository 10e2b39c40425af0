"""`/v1/files` as Anthropic's clients know it: uploads, and what code left in containers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lap_mcp.errors import NotFound
from lap_mcp.front_parts.http import answered, principal_of
from lap_mcp.front_parts.wire import Json, bad, missing
from lap_mcp.store.front import FrontFile, PageOf

from .http import MarkedRoute, handled, limit_of, wanted
from .message_routes import GetFront

_ONE: Final = "/v1/files/{id}"
_IDS: Final = 100
_LIFETIME: Final = (3600, 7_776_000)
_PURPOSE: Final = "user_data"
_PAGE: Final = "page_"
_TYPES: Final = {
    "csv": "text/csv",
    "gif": "image/gif",
    "html": "text/html",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "json": "application/json",
    "md": "text/markdown",
    "pdf": "application/pdf",
    "png": "image/png",
    "py": "text/x-python",
    "svg": "image/svg+xml",
    "txt": "text/plain",
    "webp": "image/webp",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "zip": "application/zip",
}
"""Media types by suffix; Python's own table is read from files of the machine."""


class FileRoutes:
    def __init__(self, front: GetFront) -> None:
        self._front = front

    @property
    def routes(self) -> Sequence[Route]:
        return [
            MarkedRoute("/v1/files", handled(self._create), methods=["POST"]),
            MarkedRoute("/v1/files", handled(self._list), methods=["GET"]),
            MarkedRoute(_ONE, handled(self._get), methods=["GET"]),
            MarkedRoute(_ONE, handled(self._delete), methods=["DELETE"]),
            MarkedRoute(f"{_ONE}/content", handled(self._content), methods=["GET"]),
        ]

    async def _create(self, request: Request) -> Response:
        wanted(request)
        name, data, lifetime = await _form_file(request)
        front = await self._front()
        file = await front.uploads.add(
            principal_of(request), name, data, purpose=_PURPOSE, lifetime=lifetime
        )
        return answered(_file(file))

    async def _list(self, request: Request) -> Response:
        """Uploads, or the files of one container, newest first; both forms of paging that clients
        know."""
        names = ("ids", "scope_id", "limit", "page", "after_id", "before_id")
        query = wanted(request, *names)
        ids = list(dict.fromkeys([*query.getlist("ids[]"), *query.getlist("ids")]))
        if ids:
            if any(query.get(name) is not None for name in names[1:]):
                raise bad("ids goes with no other parameter: its answer is one page.")
            return answered(_listed(await self._those(request, ids), more=False))
        if query.get("before_id"):
            raise bad("before_id is not served; page on with after_id.")
        limit = limit_of(query)
        after = query.get("after_id") or query.get("page", "").removeprefix(_PAGE) or None
        page = PageOf(after=after, limit=limit, newest_first=True)
        found = await self._page(request, page, query.get("scope_id"))
        return answered(_listed(found[:limit], more=len(found) > limit))

    async def _those(self, request: Request, ids: Sequence[str]) -> Sequence[FrontFile]:
        """The files with these ids; those that are not there are left out.  Raises: ApiError."""
        if len(ids) > _IDS:
            raise bad(f"ids: at most {_IDS}.")
        front, principal, found = await self._front(), principal_of(request), []
        for id_ in ids:
            with suppress(NotFound):
                found.append(await front.uploads.get(principal, id_, anywhere=True))
        return found

    async def _page(self, request: Request, page: PageOf, scope: str | None) -> Sequence[FrontFile]:
        """`scope`: a container's id.  One that nobody knows has no files."""
        front, principal = await self._front(), principal_of(request)
        if scope is None:
            return await front.uploads.list(principal, page)
        try:
            return await front.containers.list_files(principal, scope, page)
        except NotFound:
            return ()

    async def _get(self, request: Request) -> Response:
        return answered(_file(await self._found(request)))

    async def _content(self, request: Request) -> Response:
        """Never shown as a page: the bytes are a stranger's."""
        front, file = await self._front(), await self._found(request)
        headers = {
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(_name(file))}",
            "X-Content-Type-Options": "nosniff",
        }
        data = await front.uploads.content(file)
        return Response(data, 200, headers, "application/octet-stream")

    async def _delete(self, request: Request) -> Response:
        front, principal, file = await self._front(), principal_of(request), None
        file = await self._found(request)
        if file.container_id is None:
            await front.uploads.delete(principal, file.id)
        else:
            await front.containers.delete_file(principal, file.container_id, file.id)
        return answered({"id": file.id, "type": "file_deleted"})

    async def _found(self, request: Request) -> FrontFile:
        """Raises: ApiError."""
        front, id_ = await self._front(), request.path_params["id"]
        try:
            return await front.uploads.get(principal_of(request), id_, anywhere=True)
        except NotFound as error:
            raise missing(error.message) from error


async def _form_file(request: Request) -> tuple[str, bytes, float | None]:
    """Name, bytes, and the seconds for which it is kept.  Raises: ApiError."""
    try:
        async with request.form(max_files=1, max_fields=20) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise bad("file: a file is required, as multipart/form-data.")
            if unknown := sorted(set(form) - {"file", "expires_in_seconds"}):
                raise bad(f"{unknown[0][:100]}: there is no such field here.")
            lifetime = _lifetime(form.get("expires_in_seconds"))
            return file.filename or "file", await file.read(), lifetime
    except HTTPException as error:
        raise bad(f"The form cannot be read: {error.detail}") from error


def _lifetime(value: object) -> float | None:
    """Raises: ApiError."""
    if value is None:
        return None
    least, most = _LIFETIME
    if not (isinstance(value, str) and value.isdecimal() and least <= int(value[:9]) <= most):
        raise bad(f"expires_in_seconds goes from {least} to {most}.")
    return float(value)


def _listed(files: Sequence[FrontFile], *, more: bool) -> Json:
    data = [_file(each) for each in files]
    return {
        "data": data,
        "has_more": more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "next_page": f"{_PAGE}{data[-1]['id']}" if more else None,
    }


def _name(file: FrontFile) -> str:
    return file.path.rpartition("/")[2]


def _file(file: FrontFile) -> Json:
    return {
        "id": file.id,
        "type": "file",
        "filename": _name(file),
        "mime_type": _TYPES.get(file.path.rpartition(".")[2].lower(), "application/octet-stream"),
        "size_bytes": file.size,
        "created_at": _time(file.created_at),
        "expires_at": None if file.expires_at is None else _time(file.expires_at),
        "downloadable": True,
    }


def _time(seconds: float) -> str:
    stamp = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
    return stamp.replace("+00:00", "Z")
