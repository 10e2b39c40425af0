"""What a client is told where a handler of ours has a bug: an error in its vendor's shape, with an
id under which the log says where it was.

The log has the kinds of the errors and the lines they came through, never their words: those may
hold what a client or a model said.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import Final, TypeVar

from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .http import answered
from .wire import Json, encode, new_id

logger = logging.getLogger(__name__)

WORDS: Final = "This server failed at this request. Its log says more about {id}."
_FRAMES: Final = 6
_R = TypeVar("_R", bound=Route)

Told = Callable[[str, str], tuple[Json, str]]
"""From words and a request's id to the body of an error and the name of the header for the id."""


def guarded(routes: Sequence[_R], told: Told) -> Sequence[_R]:
    """The same routes, where a bug is answered."""
    for route in routes:
        route.app = _Guard(route.app, told)
    return routes


class _Guard:
    def __init__(self, app: ASGIApp, told: Told) -> None:
        self._app = app
        self._told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started: list[Message] = []

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.append(message)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ConnectionAbortedError:
            raise  # half an answer that is cut off, so that it does not look like a whole one
        except Exception as error:
            id_ = new_id("req")
            log_bug(f"request {id_}", error)
            answer = self._answer(id_, started)
            if answer is not None:
                await answer(scope, receive, send)
                return
            body, _ = self._told(WORDS.format(id=id_), id_)
            data = b"event: error\ndata: %b\n\n" % encode({"type": "error", **body})
            await send({"type": "http.response.body", "body": data})

    def _answer(self, id_: str, started: Sequence[Message]) -> Response | None:
        """`None`: a stream of events has begun, which can say it.

        Raises: ConnectionAbortedError where any other answer has begun."""
        if not started:
            body, header = self._told(WORDS.format(id=id_), id_)
            return answered(body, 500, {header: id_})
        kinds = [value for name, value in started[0]["headers"] if name == b"content-type"]
        if not kinds or not kinds[0].startswith(b"text/event-stream"):
            raise ConnectionAbortedError(f"request {id_} failed in its middle") from None
        return None


def log_bug(what: str, error: BaseException) -> None:
    places = "; ".join(map(_place, _leaves(error)))
    logger.error("%s failed: %s", what, places)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """What groups of errors hold."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    lines = (f"{PurePath(frame.filename).name}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__} at {' < '.join(reversed(list(lines)))}"
