"""What the tests of one vendor's adapter share: a runtime that reaches a test's server, its events
read, and a server that answers with exactly the bytes that a test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from lap_runtimes.base import Asked, Done, Event, File, Message, Question
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.canary import canary
from tests.runtimes.bench import adapter_of

SECONDS = 15
for _kind in ("cursor", "elastic", "n8n", "snowflake"):
    # Imported while the tests are collected: it reads files, which an event loop may not.
    adapter_of(_kind)


@asynccontextmanager
async def reaching(kind: str, url: str, **settings: Any) -> AsyncIterator[Any]:
    """A runtime of this kind; every secret reference in its settings is the kind's canary."""
    adapter = adapter_of(kind)
    made = {"url": url, "auth": {"bearer": "env:KEY"}, **settings}
    context = {"resolve_secret": lambda reference: canary(kind)}
    runtime = adapter(adapter.Config.model_validate(made, context=context))
    try:
        with anyio.fail_after(SECONDS):
            yield runtime
    finally:
        await runtime.aclose()


async def read(stream: Any) -> list[Event]:
    async with stream as events:
        return [event async for event in events]


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Message)]


def files(events: list[Event]) -> list[File]:
    return [event for event in events if isinstance(event, File)]


def questions(events: list[Event]) -> list[Question]:
    return [event.question for event in events if isinstance(event, Asked)]


def done(events: list[Event]) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


class Deviant:
    """Answers each request to a path with the bytes named for it; `paths` maps how a path ends to
    a body, a media type and a status."""

    def __init__(self, paths: dict[str, tuple[str, str, int]]) -> None:
        self._paths = paths
        self.requests: list[str] = []
        every = Route("/{path:path}", self.answer, methods=["GET", "POST"])
        self.app = Starlette(routes=[every])

    async def answer(self, request: Request) -> Response:
        self.requests.append(f"{request.method} {request.url.path}")
        for end, (body, media_type, status) in self._paths.items():
            if request.url.path.endswith(end):
                return Response(body, status, media_type=media_type)
        return Response("{}", 404, media_type="application/json")


SSE = "text/event-stream"
JSON = "application/json"
