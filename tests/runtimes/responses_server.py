"""A Responses server made of the official SDK's types: it streams, keeps conversations, works in
the background, asks, and makes files.  No model: the prompt's first word says what it does.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any, get_args

from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseContentPartAddedEvent,
    ResponseCreatedEvent,
    ResponseErrorEvent,
    ResponseFailedEvent,
    ResponseFunctionToolCall,
    ResponseInProgressEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseReasoningItem,
    ResponseTextDeltaEvent,
    ResponseUsage,
)
from openai.types.responses.response_output_item import McpApprovalRequest, McpCall
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

PAUSE = 0.02
REQUEST_ID = "req_late"
"""The id of every request that is answered with a stream."""
_PENDING = ("queued", "in_progress")


class Job:
    """One response being made: its object, and the events so far."""

    def __init__(self, number: int, body: dict[str, Any], said: list[dict[str, Any]]) -> None:
        self.said = said
        self.background = bool(body.get("background"))
        self.events: list[Any] = []
        self.changed = asyncio.Condition()
        self.task: asyncio.Task[None] | None = None
        self.response = Response.model_validate(
            {
                "id": f"resp_{number}",
                "object": "response",
                "created_at": 1,
                "model": body.get("model", "none"),
                "output": [],
                "parallel_tool_calls": True,
                "tool_choice": "auto",
                "tools": [],
                "status": "queued" if self.background else "in_progress",
                "background": self.background,
                "previous_response_id": body.get("previous_response_id"),
            }
        )

    async def emit(self, event: Any, **fields: Any) -> None:
        (name,) = get_args(event.model_fields["type"].annotation)
        made = event(sequence_number=len(self.events), type=name, **fields)
        async with self.changed:
            self.events.append(made)
            self.changed.notify_all()

    async def follow(self, after: int = -1) -> AsyncIterator[str]:
        position = after + 1
        while True:
            async with self.changed:
                while position >= len(self.events) and self.response.status in _PENDING:
                    await self.changed.wait()
                fresh = self.events[position:]
            for event in fresh:
                yield f"event: {event.type}\ndata: {event.model_dump_json()}\n\n"
            position += len(fresh)
            if not fresh:
                return


class Server:
    """The application and its memory."""

    def __init__(self, *, token: str | None = None) -> None:
        self.jobs: dict[str, Job] = {}
        self.conversations: dict[str, list[dict[str, Any]]] = {}
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled: list[str] = []
        self._token = token
        self._numbers = itertools.count(1)
        self.app = Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/conversations", self.converse, methods=["POST"]),
                Route("/v1/responses", self.create, methods=["POST"]),
                Route("/v1/responses/{id}", self.retrieve),
                Route("/v1/responses/{id}/cancel", self.cancel, methods=["POST"]),
                Route("/v1/containers/{container}/files/{file}/content", self.content),
            ]
        )

    async def models(self, request: Request) -> JSONResponse:
        model = {"id": "words", "object": "model", "created": 1, "owned_by": "test"}
        return self._refused(request) or JSONResponse({"object": "list", "data": [model]})

    async def converse(self, request: Request) -> JSONResponse:
        made = f"conv_{next(self._numbers)}"
        self.conversations[made] = []
        return JSONResponse({"id": made, "object": "conversation", "created_at": 1, "metadata": {}})

    async def content(self, request: Request) -> Any:
        body = f"content of {request.path_params['file']}".encode()
        return StreamingResponse(iter([body]), media_type="text/csv")

    def _refused(self, request: Request) -> JSONResponse | None:
        self.headers.append(dict(request.headers))
        if self._token and request.headers.get("authorization") != f"Bearer {self._token}":
            error = {"message": "Incorrect API key provided", "type": "invalid_request_error"}
            return JSONResponse({"error": error}, status_code=401)
        return None

    async def create(self, request: Request) -> Any:
        body = json.loads(await request.body())
        self.requests.append(body)
        if refusal := self._refused(request):
            return refusal
        earlier = self._earlier(body)
        if earlier is None:
            error = {"message": "Previous response not found", "type": "invalid_request_error"}
            return JSONResponse({"error": error}, status_code=404)
        given = body["input"]
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        job = Job(next(self._numbers), body, [*earlier, *items])
        self.jobs[job.response.id] = job
        if conversation := body.get("conversation"):
            self.conversations[conversation] = job.said
        job.task = asyncio.ensure_future(self._work(job))
        if body.get("stream"):
            named = {"x-request-id": REQUEST_ID}
            return StreamingResponse(
                self._streamed(job), media_type="text/event-stream", headers=named
            )
        if not job.background:
            await job.task
        return JSONResponse(job.response.model_dump(mode="json"))

    def _earlier(self, body: dict[str, Any]) -> list[dict[str, Any]] | None:
        if previous := body.get("previous_response_id"):
            return list(self.jobs[previous].said) if previous in self.jobs else None
        return list(self.conversations.get(body.get("conversation", ""), []))

    async def _streamed(self, job: Job) -> AsyncIterator[str]:
        try:
            async for frame in job.follow():
                yield frame
        finally:
            if not job.background and job.task is not None and not job.task.done():
                self.cancelled.append(job.response.id)
                job.task.cancel()

    async def retrieve(self, request: Request) -> Any:
        job = self.jobs.get(request.path_params["id"])
        if job is None:
            return JSONResponse({"error": {"message": "no such response"}}, status_code=404)
        if request.query_params.get("stream") == "true":
            after = int(request.query_params.get("starting_after", -1))
            return StreamingResponse(job.follow(after), media_type="text/event-stream")
        return JSONResponse(job.response.model_dump(mode="json"))

    async def cancel(self, request: Request) -> JSONResponse:
        job = self.jobs[request.path_params["id"]]
        if job.response.status in _PENDING and job.task is not None:
            self.cancelled.append(job.response.id)
            job.task.cancel()
            async with job.changed:
                job.response.status = "cancelled"
                job.changed.notify_all()
        return JSONResponse(job.response.model_dump(mode="json"))

    # What it does

    async def _work(self, job: Job) -> None:
        await job.emit(ResponseCreatedEvent, response=job.response.model_copy(deep=True))
        job.response.status = "in_progress"
        await job.emit(ResponseInProgressEvent, response=job.response.model_copy(deep=True))
        last = job.said[-1]
        if "content" not in last:
            await self._answered(job, last)
            return
        skill, _, rest = _text(last).partition(" ")
        do = getattr(self, f"_do_{skill}", None)
        await (do(job, rest) if do else self._say(job, f"{skill} {rest}".strip()))
        if job.response.status == "in_progress":
            await self._complete(job)

    async def _answered(self, job: Job, item: dict[str, Any]) -> None:
        if item["type"] == "mcp_approval_response":
            await self._say(job, "allowed" if item["approve"] else "denied")
        else:
            await self._say(job, f"you said: {item['output']}")
        await self._complete(job)

    async def _complete(self, job: Job) -> None:
        job.response.usage = ResponseUsage.model_validate(
            {
                "input_tokens": 7,
                "output_tokens": 11,
                "total_tokens": 18,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 3},
            }
        )
        job.response.status = "completed"
        await job.emit(ResponseCompletedEvent, response=job.response)

    async def _item(self, job: Job, item: Any, *, added: bool = True) -> None:
        index = len(job.response.output)
        if added:
            await job.emit(ResponseOutputItemAddedEvent, item=item, output_index=index)
        job.response.output.append(item)
        await job.emit(ResponseOutputItemDoneEvent, item=item, output_index=index)

    async def _say(
        self,
        job: Job,
        text: str,
        *,
        chunks: list[str] | None = None,
        annotations: list[dict[str, Any]] | None = None,
        pause: float = 0,
    ) -> None:
        index = len(job.response.output)
        item_id = f"msg_{index}"
        message = ResponseOutputMessage(
            id=item_id, content=[], role="assistant", status="in_progress", type="message"
        )
        part = ResponseOutputText(annotations=[], text="", type="output_text")
        await job.emit(ResponseOutputItemAddedEvent, item=message, output_index=index)
        where = {"item_id": item_id, "output_index": index, "content_index": 0}
        await job.emit(ResponseContentPartAddedEvent, part=part, **where)
        for chunk in chunks or [text]:
            await job.emit(ResponseTextDeltaEvent, delta=chunk, logprobs=[], **where)
            if pause:
                await asyncio.sleep(pause)
        whole = {"annotations": annotations or [], "text": text, "type": "output_text"}
        done = ResponseOutputMessage.model_validate(
            {**message.model_dump(), "content": [whole], "status": "completed"}
        )
        await self._item(job, done, added=False)
        job.said.append({"role": "assistant", "content": text})

    async def _do_slow(self, job: Job, rest: str) -> None:
        count = int(rest or "5")
        chunks = [f"chunk {n + 1} of {count}\n" for n in range(count)]
        await self._say(job, "first ", chunks=["first "])
        await self._say(job, "".join(chunks), chunks=chunks, pause=PAUSE)

    async def _do_recall(self, job: Job, rest: str) -> None:
        kept = [_text(said) for said in job.said if said.get("role") == "user"]
        notes = [text.partition(" ")[2] for text in kept if text.startswith("remember ")]
        await self._say(job, "; ".join(notes) or "nothing yet")

    async def _do_ask(self, job: Job, rest: str) -> None:
        request = McpApprovalRequest(
            id=f"mcpr_{job.response.id}",
            arguments=json.dumps({"path": rest}),
            name="delete_file",
            server_label="files",
            type="mcp_approval_request",
        )
        await self._item(job, request)

    async def _do_call(self, job: Job, rest: str) -> None:
        for number, name in enumerate(rest.split() or ["lookup"]):
            call = ResponseFunctionToolCall(
                id=f"fc_{number}",
                call_id=f"call_{number}",
                name=name,
                arguments='{"key": 1}',
                type="function_call",
                status="completed",
            )
            await self._item(job, call)

    async def _do_think(self, job: Job, rest: str) -> None:
        summary = [{"type": "summary_text", "text": f"thinking about {rest}"}]
        thought = {"id": "rs_0", "summary": summary, "type": "reasoning"}
        await self._item(job, ResponseReasoningItem.model_validate(thought))
        await self._say(job, "done thinking")

    async def _do_tool(self, job: Job, rest: str) -> None:
        call = McpCall(
            id="mcp_0",
            arguments='{"q": "x"}',
            name="search",
            server_label="web",
            type="mcp_call",
            output="found it",
            status="completed",
        )
        await self._item(job, call)
        await self._say(job, "used a tool")

    async def _do_file(self, job: Job, rest: str) -> None:
        note = {
            "type": "container_file_citation",
            "container_id": "cntr_1",
            "file_id": "cfile_1",
            "filename": rest or "out.csv",
            "start_index": 0,
            "end_index": 1,
        }
        await self._say(job, "made a file", annotations=[note])

    async def _do_big(self, job: Job, rest: str) -> None:
        await self._say(job, "x" * int(rest))

    async def _do_fail(self, job: Job, rest: str) -> None:
        await self._say(job, "It began well. ")
        failed = {"status": "failed", "error": {"code": "server_error", "message": rest}}
        job.response = Response.model_validate({**job.response.model_dump(), **failed})
        await job.emit(ResponseFailedEvent, response=job.response)

    async def _do_break(self, job: Job, rest: str) -> None:
        """In the middle of a message, by an event that is no response's."""
        index = len(job.response.output)
        where = {"item_id": f"msg_{index}", "output_index": index, "content_index": 0}
        await job.emit(ResponseTextDeltaEvent, delta="It began ", logprobs=[], **where)
        await job.emit(ResponseTextDeltaEvent, delta="well. ", logprobs=[], **where)
        error = {"code": "rate_limit_exceeded", "message": rest}
        await job.emit(ResponseErrorEvent, **error, param=None)
        failed = {"status": "failed", "error": error}
        job.response = Response.model_validate({**job.response.model_dump(), **failed})


def _text(item: dict[str, Any]) -> str:
    content = item["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
