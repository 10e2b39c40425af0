"""`GET /files/TOKEN`: the bytes of a signed link, as something to save and not to show.

The gate in front lets these through without a key, after the same checks of Host and origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from lap_mcp.control.signed_links import PATH, SignedLinks
from lap_mcp.errors import NotFound
from lap_mcp.gate import error_response

_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "private, no-store",
    "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def download_route(links: SignedLinks) -> Route:
    async def download(request: Request) -> Response:
        try:
            found = await links.open(request.path_params["token"])
        except NotFound as error:
            return error_response(404, str(error), _HEADERS)
        headers = {
            **_HEADERS,
            "Content-Length": str(found.size),
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(found.name, safe='')}",
        }
        if request.method == "HEAD":
            return Response(headers=headers, media_type="application/octet-stream")
        return StreamingResponse(
            found.pieces, headers=headers, media_type="application/octet-stream"
        )

    return Route(f"{PATH}{{token}}", download, methods=["GET"])
