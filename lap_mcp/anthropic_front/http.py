"""Answers in Anthropic's words: errors, whole messages, streams, and routes that only clients of
Anthropic's API reach."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from lap_mcp.errors import LapError
from lap_mcp.front_parts.http import (
    EventStream,
    Failed,
    Handler,
    Relayed,
    Whole,
    answered,
    as_api_error,
)
from lap_mcp.front_parts.http import failure as plain_failure
from lap_mcp.front_parts.upstream import Refused
from lap_mcp.front_parts.wire import ApiError, Json, bad, mapping

from .wire import error_of, event_bytes

MARK: Final = b"anthropic-version"
"""A header that Anthropic's clients always send, and others never."""
MOST: Final = 1000
"""Entries of one page."""
_SCOPES: Final = ("anthropic-workspace-id", "anthropic-user-profile-id")


class MarkedRoute(Route):
    """A path that OpenAI's API has as well: this route is for clients of Anthropic's only."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if not any(name == MARK for name, _ in scope.get("headers", ())):
            return Match.NONE, {}
        return super().matches(scope)


def handled(handler: Handler) -> Handler:
    """The handler, its errors answered."""

    async def endpoint(request: Request) -> Response:
        try:
            _refuse_scopes(request)
            return await handler(request)
        except (ApiError, Refused, LapError) as error:
            return failure(error)

    return endpoint


def _refuse_scopes(request: Request) -> None:
    """Raises: ApiError."""
    for name in _SCOPES:
        if name in request.headers:
            raise bad(
                f"The header {name} is not served: the key of this server's operator decides whose "
                "account is used. Send the request without it."
            )


def wanted(request: Request, *known: str) -> QueryParams:
    """The query of a route of ours, which has these parameters and no others.  Raises: ApiError."""
    query = request.query_params
    # `beta=true` is how clients name the routes that they call beta.
    if unknown := [name for name in query if name.removesuffix("[]") not in ("beta", *known)]:
        raise bad(f"{unknown[0][:100]}: there is no such parameter here.")
    return query


def limit_of(query: QueryParams) -> int:
    """Raises: ApiError."""
    try:
        limit = int(query.get("limit", 20))
    except ValueError as error:
        raise bad("limit has to be a number.") from error
    if not 1 <= limit <= MOST:
        raise bad(f"limit goes from 1 to {MOST}.")
    return limit


def failure(error: Failed) -> Response:
    """An upstream's own error goes on as it came."""
    if isinstance(error, Refused):
        return plain_failure(error)
    api = as_api_error(error) if isinstance(error, LapError) else error
    return answered(error_of(api.status, api.message), api.status, api.headers)


class WholeMessage(Whole):
    answer = staticmethod(failure)


class Relay(Relayed):
    answer = staticmethod(failure)


class Stream(EventStream):
    """Events of one message."""

    answer = staticmethod(failure)

    def __init__(self, produce: Any) -> None:
        super().__init__(produce, event_bytes)

    async def broke(self, failed: Failed, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._started:
            await super().broke(failed, scope, receive, send)
            return
        await self._write(event_bytes(_told(failed)))
        await self._end()


def _told(failed: Failed) -> Json:
    if isinstance(failed, Refused):
        try:
            said = mapping(mapping(json.loads(failed.body)).get("error"))
        except (ValueError, RecursionError):
            said = {}
        words = f"The model's server answered {failed.status} in the middle of the answer."
        return error_of(failed.status, f"{words} {said.get('message', '')}".strip())
    api = as_api_error(failed) if isinstance(failed, LapError) else failed
    return error_of(api.status, api.message)


def raise_if_failed(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises: ApiError, for a message that ended as an error."""
    error = mapping(result.get("error"))
    if not error:
        return result
    words = str(error.get("message") or "The model's server failed in the middle of its answer.")
    raise ApiError(int(result.get("status", 502)), words)
