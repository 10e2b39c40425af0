"""The scripted model as a program: both wire formats on loopback, every request on record.

    python -m tests.models.server --record requests.jsonl

prints `serving http://127.0.0.1:PORT` and serves until it is ended.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.models import anthropic, responses
from tests.models.script import ScriptError, Shown, answer

DIALECTS: Mapping[str, ModuleType] = {"/v1/messages": anthropic, "/v1/responses": responses}
REPEAT_PACE = 0.3
"""Seconds before a step is repeated, so that it does not spin."""


def model_app(record: Path) -> Starlette:
    """The application; every request body becomes a line of `record` before it is answered."""
    numbers = itertools.count(1)

    async def generate(request: Request) -> Response:
        body: dict[str, Any] = await request.json()
        dialect = DIALECTS[request.url.path]
        with record.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"path": request.url.path, "body": body}) + "\n")
        try:
            say = answer(dialect.read(body))
        except ScriptError as error:
            problem = {"type": "invalid_request_error", "message": f"scripted model: {error}"}
            return JSONResponse({"type": "error", "error": problem}, status_code=400)
        if say.repeats:
            await asyncio.sleep(REPEAT_PACE)
        events = dialect.write(say, body.get("model", ""), next(numbers))
        return StreamingResponse(_encoded(events), media_type="text/event-stream")

    async def models(request: Request) -> Response:
        listed = [{"id": "scripted", "object": "model", "type": "model"}]
        return JSONResponse({"object": "list", "data": listed, "models": [], "has_more": False})

    async def count_tokens(request: Request) -> Response:
        return JSONResponse({"input_tokens": max(1, len(await request.body()) // 4)})

    return Starlette(
        routes=[
            *(Route(path, generate, methods=["POST"]) for path in DIALECTS),
            Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
            Route("/v1/models", models),
        ]
    )


def _encoded(events: Iterator[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    for name, data in events:
        yield f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n"


def recorded(record: Path) -> list[Shown]:
    """What the model was shown, request by request, in order."""
    if not record.exists():
        return []
    # The server may be in the middle of a line.
    *whole, _ = record.read_text(encoding="utf-8").split("\n")
    lines = [json.loads(line) for line in whole]
    return [DIALECTS[line["path"]].read(line["body"]) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description="A scripted model on loopback.")
    parser.add_argument("--record", type=Path, required=True, help="requests, one JSON line each")
    parser.add_argument("--port", type=int, default=0, help="default: any that is free")
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", options.port))
    print(f"serving http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    server = uvicorn.Server(uvicorn.Config(model_app(options.record), log_level="error"))
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
