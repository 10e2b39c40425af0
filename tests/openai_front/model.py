"""A scripted model's server: a real program on a real socket that speaks Responses and Chat
Completions, plays one turn of its script a request, and keeps what it was asked.

Source of the formats: the public API reference, and the event order recorded from OpenAI.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from lap_mcp.web import listen

Json = dict[str, Any]


@dataclass(frozen=True)
class Say:
    text: str


@dataclass(frozen=True)
class Think:
    text: str


@dataclass(frozen=True)
class Code:
    """A call of the interpreter; `raw`: its arguments as they are."""

    code: str = ""
    raw: Any = None


@dataclass(frozen=True)
class Call:
    """A call of a function of the client's."""

    name: str
    arguments: str = "{}"


@dataclass(frozen=True)
class Break:
    """The connection ends here."""


@dataclass(frozen=True)
class Oops:
    """An error inside the stream."""

    message: str = "the model fell over"


@dataclass(frozen=True)
class Hang:
    """Nothing more comes."""


@dataclass(frozen=True)
class Status:
    """Not a stream at all."""

    status: int
    body: Any = field(default_factory=lambda: {"error": {"message": "no", "type": "t"}})
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stopped:
    """Ends as incomplete."""

    reason: str = "max_output_tokens"


@dataclass(frozen=True)
class Wait:
    """Nothing comes for so many seconds."""

    seconds: float


Part = Say | Think | Code | Call | Break | Oops | Hang | Stopped | Wait
Turn = Sequence[Part] | Status
USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 2},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 15,
}


class Model:
    """`script`: turns, one a request; the last repeats if `endless`."""

    def __init__(self, *script: Turn, endless: bool = False, piece: int = 3) -> None:
        self.script = list(script)
        self.endless = endless
        self.piece = piece
        """Characters of a delta."""
        self.asked: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.open = 0
        """Streams that are being sent."""
        self.whole = False
        """Answer JSON, not a stream."""
        self.url = ""
        self._ids = itertools.count(1)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/responses", self._responses, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/{rest:path}", self._other, methods=["GET", "POST", "DELETE"]),
            ]
        )

    async def _taken(self, request: Request) -> tuple[Json, Turn]:
        body = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        self.paths.append(request.url.path)
        turn = self.script[0] if self.endless and len(self.script) == 1 else self.script.pop(0)
        return body, turn

    async def _other(self, request: Request) -> Response:
        self.paths.append(f"{request.method} {request.url.path}")
        self.headers.append(dict(request.headers))
        return JSONResponse({"id": "theirs", "object": "response", "extra": 1})

    async def _responses(self, request: Request) -> Response:
        body, turn = await self._taken(request)
        if isinstance(turn, Status):
            return JSONResponse(turn.body, turn.status, headers=turn.headers)
        events = list(self._events(body, turn))
        if self.whole or not body.get("stream"):
            await asyncio.sleep(sum(part.seconds for part in turn if isinstance(part, Wait)))
            return JSONResponse(events[-1]["response"], headers={"x-request-id": "req_1"})
        return self._streamed(self._named(events), turn)

    async def _chat(self, request: Request) -> Response:
        body, turn = await self._taken(request)
        if isinstance(turn, Status):
            return JSONResponse(turn.body, turn.status, headers=turn.headers)
        if self.whole or not body.get("stream"):
            return JSONResponse(self._completion(body, turn))
        return self._streamed(self._chunks(body, turn), turn)

    def _streamed(self, frames: Iterator[str | float], turn: Sequence[Part]) -> Response:
        async def stream() -> AsyncIterator[str]:
            self.open += 1
            try:
                for frame in frames:
                    if isinstance(frame, str):
                        yield frame
                    else:
                        await asyncio.sleep(frame)
                if any(isinstance(part, Hang) for part in turn):
                    await asyncio.sleep(3600)
                if any(isinstance(part, Break) for part in turn):
                    raise ConnectionResetError
            finally:
                self.open -= 1

        headers = {"x-request-id": "req_1", "openai-processing-ms": "7", "set-cookie": "a=b"}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)

    # Responses ---------------------------------------------------------------------------------

    def _named(self, events: Sequence[Json]) -> Iterator[str | float]:
        for event in events:
            if event["type"] == "wait":
                yield event["seconds"]
                continue
            yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"

    def _events(self, body: Json, turn: Sequence[Part]) -> Iterator[Json]:
        for number, event in enumerate(self._unnumbered(body, turn)):
            yield {**event, "sequence_number": number}

    def _unnumbered(self, body: Json, turn: Sequence[Part]) -> Iterator[Json]:
        response: Json = {
            "id": f"resp_up{next(self._ids)}",
            "object": "response",
            "created_at": 1_700_000_000,
            "status": "in_progress",
            "model": body["model"],
            "output": [],
            "usage": None,
            "tools": body.get("tools", []),
            "tool_choice": body.get("tool_choice", "auto"),
            "future_field": {"kept": True},
        }
        yield {"type": "response.created", "response": response}
        yield {"type": "response.in_progress", "response": response}
        output: list[Json] = []
        status, told = "completed", {}
        for part in turn:
            if isinstance(part, (Break, Hang)):
                return
            if isinstance(part, Oops):
                yield {"type": "error", "code": "server_error", "message": part.message}
                return
            if isinstance(part, Stopped):
                status, told = "incomplete", {"incomplete_details": {"reason": part.reason}}
                continue
            if isinstance(part, Wait):
                yield {"type": "wait", "seconds": part.seconds}
                continue
            item = self._item(body, part)
            yield from self._item_events(len(output), item)
            output.append(item)
        done = {**response, "status": status, "output": output, "usage": USAGE, **told}
        yield {"type": f"response.{status}", "response": done}

    def _item(self, body: Json, part: Part) -> Json:
        number = next(self._ids)
        match part:
            case Say(text):
                content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
                return {
                    "id": f"msg_{number}",
                    "type": "message",
                    "role": "assistant",
                    "status": "completed",
                    "content": content,
                }
            case Think(text):
                item: Json = {"id": f"rs_{number}", "type": "reasoning", "summary": []}
                if "reasoning.encrypted_content" in body.get("include", []):
                    item["encrypted_content"] = f"sealed:{text}"
                return item
            case Code() | Call():
                return {
                    "id": f"fc_{number}",
                    "type": "function_call",
                    "call_id": f"call_{number}",
                    "name": self._name(body, part),
                    "arguments": _arguments(part),
                    "status": "completed",
                }
        raise AssertionError(part)

    def _name(self, body: Json, part: Code | Call) -> str:
        if isinstance(part, Call):
            return part.name
        names = [t.get("name") or t.get("function", {}).get("name") for t in body.get("tools", [])]
        return next(name for name in names if name.startswith("python"))

    def _item_events(self, index: int, item: Json) -> Iterator[Json]:
        where = {"output_index": index, "item_id": item["id"]}
        opened = {**item, **({"status": "in_progress"} if "status" in item else {})}
        if item["type"] == "message":
            opened["content"] = []
        if item["type"] == "function_call":
            opened["arguments"] = ""
        yield {"type": "response.output_item.added", "output_index": index, "item": opened}
        if item["type"] == "message":
            part = item["content"][0]
            at = {**where, "content_index": 0}
            yield {"type": "response.content_part.added", **at, "part": {**part, "text": ""}}
            for piece in self._pieces(part["text"]):
                delta = {"delta": piece, "logprobs": []}
                yield {"type": "response.output_text.delta", **at, **delta}
            done = {"text": part["text"], "logprobs": []}
            yield {"type": "response.output_text.done", **at, **done}
            yield {"type": "response.content_part.done", **at, "part": part}
        if item["type"] == "function_call" and isinstance(item["arguments"], str):
            for piece in self._pieces(item["arguments"]):
                yield {"type": "response.function_call_arguments.delta", **where, "delta": piece}
            whole = {"arguments": item["arguments"]}
            yield {"type": "response.function_call_arguments.done", **where, **whole}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}

    def _pieces(self, text: str) -> Iterator[str]:
        for start in range(0, len(text), self.piece):
            yield text[start : start + self.piece]

    # Chat --------------------------------------------------------------------------------------

    def _chunks(self, body: Json, turn: Sequence[Part]) -> Iterator[str | float]:
        base = {
            "id": f"chatcmpl-{next(self._ids)}",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000,
            "model": body["model"],
            "system_fingerprint": "fp_1",
        }
        for delta, reason in self._deltas(body, turn):
            if "error" in delta:
                yield f"data: {json.dumps(delta)}\n\n"
                return
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            yield f"data: {json.dumps({**base, 'choices': [choice]})}\n\n"
        if any(isinstance(part, (Break, Hang)) for part in turn):
            return
        if (body.get("stream_options") or {}).get("include_usage"):
            yield f"data: {json.dumps({**base, 'choices': [], 'usage': CHAT_USAGE})}\n\n"
        yield "data: [DONE]\n\n"

    def _deltas(self, body: Json, turn: Sequence[Part]) -> Iterator[tuple[Json, str | None]]:
        yield {"role": "assistant", "content": ""}, None
        calls, reason = 0, "stop"
        for part in turn:
            match part:
                case Say(text):
                    for piece in self._pieces(text):
                        yield {"content": piece}, None
                case Think(text):
                    for piece in self._pieces(text):
                        yield {"reasoning_content": piece}, None
                case Code() | Call():
                    reason = "tool_calls"
                    yield from self._call_deltas(calls, body, part)
                    calls += 1
                case Oops(message):
                    yield {"error": {"message": message}}, None
                    return
                case Stopped():
                    reason = "length"
                case Break() | Hang():
                    return
        yield {}, reason

    def _call_deltas(
        self, index: int, body: Json, part: Code | Call
    ) -> Iterator[tuple[Json, str | None]]:
        arguments = _arguments(part)
        function = {"name": self._name(body, part), "arguments": ""}
        call = {"index": index, "id": f"call_{next(self._ids)}", "type": "function"}
        if not isinstance(arguments, str):
            whole = {**function, "arguments": arguments}
            yield {"tool_calls": [{**call, "function": whole}]}, None
            return
        yield {"tool_calls": [{**call, "function": function}]}, None
        for piece in self._pieces(arguments):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}, None

    def _completion(self, body: Json, turn: Sequence[Part]) -> Json:
        message: Json = {"role": "assistant", "content": None}
        reason = "stop"
        for part in turn:
            if isinstance(part, Say):
                message["content"] = (message["content"] or "") + part.text
            elif isinstance(part, (Code, Call)):
                reason = "tool_calls"
                function = {"name": self._name(body, part), "arguments": _arguments(part)}
                call = {"id": f"call_{next(self._ids)}", "type": "function", "function": function}
                message.setdefault("tool_calls", []).append(call)
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": CHAT_USAGE,
        }


CHAT_USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 2},
}


def _arguments(part: Code | Call) -> Any:
    if isinstance(part, Call):
        return part.arguments
    return json.dumps({"code": part.code}) if part.raw is None else part.raw


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """The application on a loopback port: its address."""
    socket = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
        ws="none",
        lifespan="off",
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    with closing(socket):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: server.serve(sockets=[socket]))
            try:
                yield f"http://127.0.0.1:{socket.getsockname()[1]}"
            finally:
                server.should_exit = True
                server.force_exit = True


@asynccontextmanager
async def playing(model: Model) -> AsyncIterator[Model]:
    async with served(model.app()) as url:
        model.url = f"{url}/v1"
        yield model
