"""What the servers of vendors that cannot run here share: work whose events are kept, so that any
number of readers follow it from any place, and requests that are remembered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

PAUSE = 0.02


class Job:
    """Work that emits frames.  `end` says how it ended, once."""

    def __init__(self) -> None:
        self.frames: list[str] = []
        self.outcome = ""
        self.changed = asyncio.Condition()
        self.task: asyncio.Task[None] | None = None

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        self.task = asyncio.ensure_future(work)

    async def emit(self, frame: str) -> None:
        async with self.changed:
            self.frames.append(frame)
            self.changed.notify_all()

    async def end(self, outcome: str) -> None:
        async with self.changed:
            self.outcome = self.outcome or outcome
            self.changed.notify_all()

    async def cancel(self) -> bool:
        """Stop working.  Whether it was still at work; how it ended is the caller's to say."""
        if self.outcome or self.task is None:
            return False
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        return True

    async def follow(self, position: int = 0) -> AsyncIterator[str]:
        while True:
            async with self.changed:
                while position >= len(self.frames) and not self.outcome:
                    await self.changed.wait()
                fresh = self.frames[position:]
            for frame in fresh:
                yield frame
            position += len(fresh)
            if not fresh:
                return


def sse(event: str, data: Any, *, event_id: str = "") -> str:
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}event: {event}\ndata: {json.dumps(data)}\n\n"


class Ledger:
    """What a server was asked, and the next answer that a test wants instead of the usual one."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        """Method, path with query, body."""
        self.headers: list[dict[str, str]] = []
        self._instead: list[tuple[str, int, Any, dict[str, str]]] = []

    def instead(self, path: str, status: int, body: Any, **headers: str) -> None:
        """Answer the next request whose path holds `path` like this."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._instead.append((path, status, body, named))

    async def note(self, request: Request) -> tuple[Any, JSONResponse | None]:
        """The request's JSON body, and the answer that a test wants."""
        raw = await request.body()
        kind = request.headers.get("content-type", "")
        body = json.loads(raw) if raw and kind.startswith("application/json") else raw or None
        query = f"?{request.url.query}" if request.url.query else ""
        self.requests.append((request.method, request.url.path + query, body))
        self.headers.append(dict(request.headers))
        for each in self._instead:
            path, status, said, headers = each
            if path in request.url.path:
                self._instead.remove(each)
                return body, JSONResponse(said, status, headers=headers)
        return body, None

    def bodies(self, path: str) -> list[Any]:
        """The bodies of all POSTs to paths that end like this."""
        return [b for m, p, b in self.requests if m == "POST" and p.split("?")[0].endswith(path)]
