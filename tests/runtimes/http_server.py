"""A custom agent behind plain HTTP, in three forms (JSON, NDJSON, server-sent events), with memory
per session and a call that cancels.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PAUSE = 0.02
REQUEST_ID = "req_late"
"""The id of every request that is answered with a stream."""


class Server:
    """`notes` are kept per session; `runs` holds what each turn said, to be read again."""

    def __init__(self) -> None:
        self.notes: dict[str, list[str]] = defaultdict(list)
        self.prompts: dict[str, int] = defaultdict(int)
        self.runs: dict[str, asyncio.Event] = {}
        self.said: dict[str, list[str]] = {}
        self.jobs: dict[str, asyncio.Task[str]] = {}
        self.cancelled: list[str] = []
        self.requests: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.app = Starlette(
            routes=[
                Route("/agent/ping", self.ping),
                Route("/agent/jobs", self.begin, methods=["POST"]),
                Route("/agent/jobs/{id}", self.look),
                Route("/agent/{form}", self.run, methods=["POST"]),
                Route("/agent/runs/{id}/events", self.again),
                Route("/agent/runs/{id}", self.cancel, methods=["DELETE"]),
            ]
        )

    async def ping(self, request: Request) -> Response:
        return JSONResponse({"status": "Healthy"})

    async def run(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        # A configuration may send no ids: then each request stands alone.
        body = {"turn": f"turn{len(self.requests)}", "session": f"s{len(self.requests)}", **body}
        form, turn = request.path_params["form"], body["turn"]
        self.runs[turn] = asyncio.Event()
        words = self._words(body)
        if form == "json":
            text = "".join([word async for word in words])
            if text.startswith("!"):
                return JSONResponse({"error": {"message": text[1:]}})
            return JSONResponse({"run": turn, "output": {"text": text}, "used": [3, 4]})
        return self._stream(form, turn, words)

    async def begin(self, request: Request) -> Response:
        """Work in the background; the answer says how to look at it."""
        body = json.loads(await request.body())
        self.requests.append(body)
        turn = body["turn"]
        self.runs[turn] = asyncio.Event()
        self.jobs[turn] = asyncio.get_running_loop().create_task(_joined(self._words(body)))
        return JSONResponse({"run": turn, "status": "queued"}, status_code=202)

    async def look(self, request: Request) -> Response:
        turn = request.path_params["id"]
        job = self.jobs[turn]
        if not job.done():
            return JSONResponse({"run": turn, "status": "working", "output": {"text": "not yet"}})
        text = job.result()
        if text.startswith("!"):
            return JSONResponse({"error": {"message": text[1:]}})
        done = {"run": turn, "status": "done", "output": {"text": text}, "used": [3, 4]}
        return JSONResponse(done)

    async def again(self, request: Request) -> Response:
        turn = request.path_params["id"]
        return self._stream("sse", turn, _listed(self.said.get(turn, ["lost"])))

    async def cancel(self, request: Request) -> Response:
        turn = request.path_params["id"]
        if turn not in self.runs:
            return JSONResponse({"detail": "no such run"}, status_code=404)
        self.cancelled.append(turn)
        self.runs[turn].set()
        return Response(status_code=204)

    def _stream(self, form: str, turn: str, words: AsyncIterator[str]) -> Response:
        async def ndjson() -> AsyncIterator[str]:
            yield json.dumps({"type": "begin", "run": turn}) + "\n"
            async for word in words:
                kind = {"type": "oops", "error": _error(word)} if word[:1] == "!" else None
                yield json.dumps(kind or {"type": "item", "content": word}) + "\n"
            yield json.dumps({"type": "end", "used": [3, 4]}) + "\n"

        async def sse() -> AsyncIterator[str]:
            yield f'event: run\ndata: {{"run": "{turn}"}}\n\n: working\n\n'
            async for word in words:
                name = "failed" if word[:1] == "!" else "chunk"
                data = json.dumps({"error": _error(word)} if word[:1] == "!" else {"text": word})
                yield f"event: {name}\ndata: {data}\n\n"
            yield 'event: done\ndata: {"used": [3, 4]}\n\n'

        # Both lie about the content type, as real servers do.
        body = ndjson() if form == "ndjson" else sse()
        named = {"x-request-id": REQUEST_ID}
        return StreamingResponse(body, media_type="application/octet-stream", headers=named)

    async def _words(self, body: dict[str, Any]) -> AsyncIterator[str]:
        session, turn = body["session"], body["turn"]
        self.prompts[session] += 1
        skill, _, rest = body["prompt"].partition(" ")
        said = self.said.setdefault(turn, [])
        ended = self.runs[turn]
        for word in self._answer(skill, rest, session):
            if ended.is_set():
                return
            said.append(word)
            yield word
            if skill == "slow":
                await asyncio.sleep(PAUSE)

    def _answer(self, skill: str, rest: str, session: str) -> list[str]:
        if skill == "remember":
            self.notes[session].append(rest)
            return ["kept"]
        if skill == "recall":
            return ["; ".join(self.notes[session]) or "nothing yet"]
        if skill == "slow":
            return [f"chunk {n + 1} of {rest}\n" for n in range(int(rest))]
        if skill == "fail":
            return [f"!{rest}"]
        if skill == "break":
            return ["It began ", "well. ", f"!!{rest}"]
        if skill == "big":
            return ["x" * int(rest)]
        return [f"[{self.prompts[session]}]", *(f" {word}" for word in f"{skill} {rest}".split())]


def _error(word: str) -> Any:
    """What a word with a mark before it says: two marks are an error with a status of its own."""
    return {"message": word[2:], "status": 429} if word[:2] == "!!" else word[1:]


async def _listed(words: list[str]) -> AsyncIterator[str]:
    for word in words:
        yield word


async def _joined(words: AsyncIterator[str]) -> str:
    return "".join([word async for word in words])
