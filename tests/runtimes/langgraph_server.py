"""A LangGraph server made of the official OpenAPI document (langgraph-api 0.16) and of what the
real one sent: assistants, threads, runs that stream and can be taken up again, interrupts, cancel.

The same cases run against the real `langgraph dev`, so that this one cannot drift away from it.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PAUSE = 0.02
ASSISTANT = "000f32a8-79a6-598c-bbcd-3df69e65f8d0"
USED = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
SCHEMA = {
    "$defs": {"AIMessage": {"type": "object"}, "Unit": {"type": "string", "enum": ["C", "F"]}},
    "properties": {
        "messages": {"type": "array", "items": {"$ref": "#/$defs/AIMessage"}},
        "unit": {"$ref": "#/$defs/Unit"},
    },
    "required": ["messages"],
    "title": "Input",
    "type": "object",
}


class Run:
    def __init__(self, thread: str, body: dict[str, Any]) -> None:
        self.id = str(uuid.uuid4())
        self.thread = thread
        self.body = body
        self.status = "running"
        self.frames: list[tuple[str, str]] = []
        """Id and text of each event."""
        self.changed = asyncio.Condition()
        self.task: asyncio.Task[None] | None = None


class Server:
    """The application and its memory: messages and open interrupts of each thread."""

    def __init__(self, *, key: str = "") -> None:
        self.messages: dict[str, list[dict[str, Any]]] = {}
        self.interrupts: dict[str, list[dict[str, Any]]] = {}
        self.runs: dict[str, Run] = {}
        self.cancelled: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self._key = key
        self._numbers = itertools.count(1)
        self.app = Starlette(
            routes=[
                Route("/info", self.info),
                Route("/assistants/search", self.assistants, methods=["POST"]),
                Route("/assistants/{id}/schemas", self.schemas),
                Route("/threads/{thread}/state", self.state),
                Route("/threads/{thread}/runs/stream", self.run, methods=["POST"]),
                Route("/threads/{thread}/runs/{run}", self.look),
                Route("/threads/{thread}/runs/{run}/stream", self.join),
                Route("/threads/{thread}/runs/{run}/cancel", self.cancel, methods=["POST"]),
            ]
        )

    async def info(self, request: Request) -> Response:
        return JSONResponse({"version": "0.16.7", "langgraph_py_version": "1.2.24"})

    async def assistants(self, request: Request) -> Response:
        if refusal := self._refused(request):
            return refusal
        wanted = json.loads(await request.body())
        one = {"assistant_id": ASSISTANT, "graph_id": "words", "name": "words", "version": 1}
        listed = [{**one, "description": "says words", "metadata": {"created_by": "system"}}]
        return JSONResponse(listed[wanted["offset"] : wanted["offset"] + wanted["limit"]])

    async def schemas(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse({"input_schema": SCHEMA})

    async def state(self, request: Request) -> Response:
        thread = request.path_params["thread"]
        values = {"messages": self.messages[thread]}
        return self._refused(request) or JSONResponse({"values": values, "next": []})

    async def run(self, request: Request) -> Response:
        if refusal := self._refused(request):
            return refusal
        thread, body = request.path_params["thread"], json.loads(await request.body())
        self.requests.append(body)
        if body["assistant_id"] not in (ASSISTANT, "words"):
            return self._error(422, f"Invalid assistant: '{body['assistant_id']}'.")
        uuid.UUID(thread)
        if any(r.thread == thread and r.status == "running" for r in self.runs.values()):
            return self._error(409, "Thread is already running a task.")
        if thread not in self.messages and body.get("if_not_exists") != "create":
            return self._error(404, "Thread not found")
        self.messages.setdefault(thread, [])
        made = Run(thread, body)
        self.runs[made.id] = made
        made.task = asyncio.ensure_future(self._work(made))
        return self._stream(made, "")

    async def look(self, request: Request) -> Response:
        run = self.runs.get(request.path_params["run"])
        if run is None:
            return self._error(404, "Run not found")
        found = {"run_id": run.id, "thread_id": run.thread, "status": run.status}
        return self._refused(request) or JSONResponse(found)

    async def join(self, request: Request) -> Response:
        run = self.runs.get(request.path_params["run"])
        if run is None or run.thread != request.path_params["thread"]:
            return self._error(404, "Run not found")
        after = request.headers.get("last-event-id", "")
        return self._refused(request) or self._stream(run, after)

    async def cancel(self, request: Request) -> Response:
        if refusal := self._refused(request):
            return refusal
        run = self.runs.get(request.path_params["run"])
        if run is None or run.status != "running" or run.task is None:
            return self._error(404, "No matching runs to cancel.")
        self.cancelled.append(run.id)
        run.task.cancel()
        return Response(status_code=202)

    def _refused(self, request: Request) -> Response | None:
        if self._key and request.headers.get("x-api-key") != self._key:
            return self._error(403, "Invalid or missing x-api-key")
        return None

    @staticmethod
    def _error(status: int, detail: str) -> Response:
        return JSONResponse({"detail": detail}, status_code=status)

    def _stream(self, run: Run, after: str) -> Response:
        where = f"/threads/{run.thread}/runs/{run.id}"
        return StreamingResponse(
            self._follow(run, after),
            media_type="text/event-stream",
            headers={"Content-Location": where, "Location": f"{where}/stream"},
        )

    async def _follow(self, run: Run, after: str) -> AsyncIterator[str]:
        ids = [each for each, _ in run.frames]
        position = ids.index(after) + 1 if after in ids else 0
        yield ": heartbeat\n\n"
        while True:
            async with run.changed:
                while position >= len(run.frames) and run.status == "running":
                    await run.changed.wait()
                fresh = run.frames[position:]
            for _, text in fresh:
                yield text
            position += len(fresh)
            if not fresh:
                return

    # A run

    async def _emit(self, run: Run, event: str, data: Any) -> None:
        number = f"1795638092213-{next(self._numbers)}"
        text = f"event: {event}\ndata: {json.dumps(data)}\nid: {number}\n\n"
        async with run.changed:
            run.frames.append((number, text))
            run.changed.notify_all()

    async def _work(self, run: Run) -> None:
        status = "success"
        try:
            await self._emit(run, "metadata", {"run_id": run.id, "attempt": 1})
            await self._node(run)
        except asyncio.CancelledError:
            status = "interrupted"
        except ValueError as failure:
            status = "error"
            about = {"error": "ValueError", "message": str(failure)}
            await self._emit(run, "error", about)
        async with run.changed:
            run.status = status
            run.changed.notify_all()

    async def _node(self, run: Run) -> None:
        said = self.messages[run.thread]
        if command := run.body.get("command"):
            asked = self.interrupts.pop(run.thread)
            await self._resumed(run, asked, command["resume"])
            return
        for message in (run.body.get("input") or {}).get("messages", []):
            said.append({"type": "human", "id": str(uuid.uuid4()), **message})
        skill, _, rest = _text(said[-1]).partition(" ") if said else ("", "", "")
        do = getattr(self, f"_do_{skill}", None)
        if do is not None:
            await do(run, rest)
            return
        await self._say(run, [f"{word} " for word in f"you said: {skill} {rest}".split()])

    async def _resumed(self, run: Run, asked: list[dict[str, Any]], value: Any) -> None:
        if len(asked) > 1:
            assert set(value) == {each["id"] for each in asked}
            value = " and ".join(value.values())
        if isinstance(value, dict) and "decisions" in value:
            allowed = value["decisions"] == [{"type": "approve"}]
            await self._say(run, ["allowed" if allowed else f"refused: {value}"])
        else:
            await self._say(run, [f"you answered {value}"])

    async def _messages(self, run: Run, message: dict[str, Any]) -> None:
        about = {"langgraph_node": "answer", "run_id": run.id, "thread_id": run.thread}
        await self._emit(run, "messages", [message, about])

    async def _update(self, run: Run, messages: list[dict[str, Any]]) -> None:
        self.messages[run.thread] += messages
        await self._emit(run, "updates", {"answer": {"messages": messages}})

    async def _say(self, run: Run, chunks: list[str], pause: float = 0.0) -> None:
        """As a chat model says it: pieces, and then the whole in the node's update."""
        message_id = f"lc_run--{uuid.uuid4()}"
        for chunk in [*chunks, ""]:
            piece = {"type": "AIMessageChunk", "content": chunk, "id": message_id}
            await self._messages(run, {**piece, "tool_calls": [], "usage_metadata": None})
            await asyncio.sleep(pause)
        whole = {"type": "ai", "content": "".join(chunks), "id": message_id, "tool_calls": []}
        await self._update(run, [{**whole, "usage_metadata": USED}])

    async def _return(self, run: Run, messages: list[dict[str, Any]]) -> None:
        """Messages that a node returns without a model: each once whole, then in the update."""
        whole = [{"id": str(uuid.uuid4()), **message} for message in messages]
        for message in whole:
            await self._messages(run, message)
        await self._update(run, whole)

    async def _interrupt(self, run: Run, *values: Any) -> None:
        asked = [{"value": v, "id": uuid.uuid4().hex, "response_schema": None} for v in values]
        self.interrupts[run.thread] = asked
        await self._emit(run, "updates", {"__interrupt__": asked})

    async def _do_fail(self, run: Run, rest: str) -> None:
        raise ValueError(rest)

    async def _do_break(self, run: Run, rest: str) -> None:
        """In the middle of what a model says."""
        piece = {"type": "AIMessageChunk", "content": "It began well. ", "id": f"lc_{run.id}"}
        await self._messages(run, {**piece, "tool_calls": [], "usage_metadata": None})
        raise ValueError(rest)

    async def _do_ask(self, run: Run, rest: str) -> None:
        await self._interrupt(run, {"question": rest})

    async def _do_both(self, run: Run, rest: str) -> None:
        await self._interrupt(run, *rest.split())

    async def _do_allow(self, run: Run, rest: str) -> None:
        request = {"name": "delete_file", "args": {"path": rest}, "description": f"Delete {rest}?"}
        review = {"action_name": "delete_file", "allowed_decisions": ["approve", "reject"]}
        await self._interrupt(run, {"action_requests": [request], "review_configs": [review]})

    async def _do_tool(self, run: Run, rest: str) -> None:
        call = {"name": rest, "args": {"q": 1}, "id": "call_1", "type": "tool_call"}
        result = {"type": "tool", "content": "found", "tool_call_id": "call_1", "status": "success"}
        last = {"type": "ai", "content": "used a tool", "usage_metadata": USED}
        first = {"type": "ai", "content": "", "tool_calls": [call]}
        await self._return(run, [first, result, last])

    async def _do_file(self, run: Run, rest: str) -> None:
        name, _, content = rest.partition(" ")
        data = base64.b64encode((content or f"content of {name}").encode()).decode()
        block = {"type": "file", "base64": data, "mime_type": "text/plain"}
        text = {"type": "text", "text": "made a file"}
        content_blocks = [text, {**block, "extras": {"name": name}}]
        await self._return(run, [{"type": "ai", "content": content_blocks, "usage_metadata": USED}])

    async def _do_slow(self, run: Run, rest: str) -> None:
        await self._say(run, [f"chunk {n + 1} of {rest}\n" for n in range(int(rest))], PAUSE)

    async def _do_recall(self, run: Run, rest: str) -> None:
        earlier = [_text(m) for m in self.messages[run.thread] if m.get("role") == "user"]
        kept = [text.partition(" ")[2] for text in earlier if text.startswith("remember ")]
        await self._say(run, ["; ".join(kept) or "nothing yet"])

    async def _do_big(self, run: Run, rest: str) -> None:
        await self._say(run, ["x" * int(rest)])


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
