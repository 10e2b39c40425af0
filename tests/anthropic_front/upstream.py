"""A scripted Anthropic-compatible server: a real program on a real socket that plays one turn of
its script a request and keeps what it was asked.

Source of the format: the public Messages API reference.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.openai_front.model import served

Json = dict[str, Any]
USAGE = {"input_tokens": 10, "cache_read_input_tokens": 2, "output_tokens": 1}


@dataclass(frozen=True)
class Say:
    text: str


@dataclass(frozen=True)
class Think:
    text: str


@dataclass(frozen=True)
class Call:
    """A tool call; `raw`: its input as the model writes it, which may be no JSON."""

    name: str
    input: Any = None
    raw: str | None = None

    @property
    def written(self) -> str:
        return json.dumps(self.input) if self.raw is None else self.raw


def python(code: str) -> Call:
    return Call("code_execution", {"code": code})


def bash(command: str) -> Call:
    return Call("bash_code_execution", {"command": command})


def edit(command: str, path: str, **more: Any) -> Call:
    return Call("text_editor_code_execution", {"command": command, "path": path, **more})


@dataclass(frozen=True)
class Stop:
    """Ends for this reason."""

    reason: str


@dataclass(frozen=True)
class Oops:
    """An error inside the stream."""

    kind: str = "overloaded_error"
    message: str = "the model fell over"


@dataclass(frozen=True)
class Break:
    """The connection ends here."""


@dataclass(frozen=True)
class Hang:
    """Nothing more comes."""


@dataclass(frozen=True)
class Status:
    """Not a stream at all."""

    status: int
    body: Any = field(
        default_factory=lambda: {"type": "error", "error": {"type": "t", "message": "no"}}
    )
    headers: dict[str, str] = field(default_factory=dict)


Part = Say | Think | Call | Stop | Oops | Break | Hang
Turn = Sequence[Part] | Status


class Upstream:
    """`script`: turns, one a request; the last repeats if `endless`."""

    def __init__(self, *script: Turn, endless: bool = False, piece: int = 3) -> None:
        self.script = list(script)
        self.endless = endless
        self.piece = piece
        self.asked: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.open = 0
        self.whole = False
        """Answers JSON also where a stream is asked for."""
        self.url = ""
        self._ids = itertools.count(1)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/messages/count_tokens", self._count, methods=["POST"]),
            ]
        )

    async def _taken(self, request: Request) -> Json:
        body: Json = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        self.paths.append(str(request.url.path) + (f"?{request.url.query}"))
        return body

    async def _count(self, request: Request) -> Response:
        await self._taken(request)
        return JSONResponse({"input_tokens": 42, "extra": True})

    async def _messages(self, request: Request) -> Response:
        body = await self._taken(request)
        turn = self.script[0] if self.endless and len(self.script) == 1 else self.script.pop(0)
        if isinstance(turn, Status):
            return JSONResponse(turn.body, turn.status, turn.headers)
        if self.whole or not body.get("stream"):
            return JSONResponse(self.message(turn), headers={"request-id": "req_up"})
        return StreamingResponse(self._sent(turn), media_type="text/event-stream")

    async def _sent(self, turn: Sequence[Part]) -> AsyncIterator[bytes]:
        self.open += 1
        try:
            for event in self.events(turn):
                if event["type"] == "hang":
                    await asyncio.sleep(3600)
                if event["type"] == "break":
                    raise ConnectionAbortedError
                yield framed(event)
                await asyncio.sleep(0)
        finally:
            self.open -= 1

    def message(self, turn: Sequence[Part]) -> Json:
        content = [self._block(part) for part in turn if isinstance(part, (Say, Think, Call))]
        return {
            **self._start(),
            "content": content,
            "stop_reason": _reason(turn),
            "usage": {**USAGE, "output_tokens": 5},
        }

    def events(self, turn: Sequence[Part]) -> Iterator[Json]:
        yield {"type": "message_start", "message": self._start()}
        yield {"type": "ping"}
        index = 0
        for part in turn:
            if isinstance(part, Oops):
                error = {"type": part.kind, "message": part.message}
                yield {"type": "error", "error": error}
                return
            if isinstance(part, (Break, Hang)):
                yield {"type": type(part).__name__.lower()}
            if isinstance(part, (Say, Think, Call)):
                yield from self._block_events(part, index)
                index += 1
        ends = {"stop_reason": _reason(turn), "stop_sequence": None}
        yield {"type": "message_delta", "delta": ends, "usage": {"output_tokens": 5}}
        yield {"type": "message_stop"}

    def _start(self) -> Json:
        return {
            "id": f"msg_up{next(self._ids)}",
            "type": "message",
            "role": "assistant",
            "model": "claude-up",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": dict(USAGE),
        }

    def _block(self, part: Say | Think | Call) -> Json:
        if isinstance(part, Say):
            return {"type": "text", "text": part.text}
        if isinstance(part, Think):
            return {"type": "thinking", "thinking": part.text, "signature": "sig"}
        id_ = f"toolu_{next(self._ids)}"
        return {"type": "tool_use", "id": id_, "name": part.name, "input": part.input}

    def _block_events(self, part: Say | Think | Call, index: int) -> Iterator[Json]:
        place = {"index": index}
        delta = {"type": "content_block_delta", **place}
        start = self._block(part)
        if isinstance(part, Say):
            start["text"], kind, key, text = "", "text_delta", "text", part.text
        elif isinstance(part, Think):
            start |= {"thinking": "", "signature": ""}
            kind, key, text = "thinking_delta", "thinking", part.text
        else:
            start["input"], kind, key, text = {}, "input_json_delta", "partial_json", part.written
        yield {"type": "content_block_start", **place, "content_block": start}
        for at in range(0, len(text), self.piece):
            yield {**delta, "delta": {"type": kind, key: text[at : at + self.piece]}}
        if isinstance(part, Think):
            yield {**delta, "delta": {"type": "signature_delta", "signature": "sig"}}
        yield {"type": "content_block_stop", **place}


def framed(event: Json) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def _reason(turn: Sequence[Part]) -> str:
    for part in turn:
        if isinstance(part, Stop):
            return part.reason
    return "tool_use" if any(isinstance(part, Call) for part in turn) else "end_turn"


@asynccontextmanager
async def playing(upstream: Upstream) -> AsyncIterator[None]:
    async with served(upstream.app()) as url:
        upstream.url = f"{url}/v1"
        yield
