"""A real MCP server, made with the official SDK, whose tool `agent` understands the contract suite:
an ASGI application, or a program (`mcp_server.py FOLDER`).  The SDK has no tasks; they are here."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import sys
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import mcp.types as t
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS
from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

PAUSE = 0.02
TASKS = "io.modelcontextprotocol/tasks"
Ctx = ServerRequestContext[Any, Any]
PROMPT = {"type": "object", "properties": {"prompt": {"type": "string"}}, "required": ["prompt"]}
FORM = {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]}
PIXEL = base64.b64encode(b"body of a picture").decode()


class TaskParams(t.RequestParams):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")
    task_id: str
    input_responses: dict[str, Any] = Field(default_factory=dict)


class Task:
    """One task.  Its words are kept, so that it can be looked at any time."""

    def __init__(self) -> None:
        self.id = secrets.token_urlsafe(16)
        self.status = "working"
        self.words = ""
        self.result: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.questions: dict[str, Any] = {}
        self.answers: dict[str, Any] = {}
        self.answered = asyncio.Event()
        self.work: asyncio.Task[None] | None = None

    def view(self) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "taskId": self.id,
            "status": "input_required" if self.questions else self.status,
            "statusMessage": self.words,
            "pollIntervalMs": 20,
            "resultType": "complete",
        }
        if self.result is not None:
            shown["result"] = self.result
        if self.error is not None:
            shown["error"] = self.error
        if self.questions:
            shown["inputRequests"] = self.questions
        return shown


class Words:
    """How a call speaks to its client: on the call itself, or as a task."""

    def __init__(self, ctx: Ctx, params: t.CallToolRequestParams, task: Task | None) -> None:
        self.ctx, self.params, self.task = ctx, params, task

    async def moved(self, number: int, count: int, words: str) -> None:
        if self.task is not None:
            self.task.words = words
        else:
            await self.ctx.session.report_progress(number, count, words)


class WordsServer:
    """The server; `cancelled()` is told of each call that was ended before its time."""

    def __init__(self, cancelled: Callable[[], None], *, tasks: bool = False) -> None:
        self.cancelled = cancelled
        self.tasks: dict[str, Task] = {}
        self.metas: list[Any] = []
        self.server: Server[Any] = Server(
            "words",
            version="1.0",
            on_list_tools=self.list_tools,
            on_call_tool=self.call_tool,
            on_read_resource=self.read_resource,
        )
        self.makes_tasks = tasks
        if tasks:
            self.server.extensions[TASKS] = {}
            for verb in ("get", "update", "cancel"):
                self.server.add_request_handler(f"tasks/{verb}", TaskParams, getattr(self, verb))

    async def list_tools(self, ctx: Ctx, params: Any) -> t.ListToolsResult:
        tool = t.Tool(name="agent", description="Repeats words.", input_schema=PROMPT)
        return t.ListToolsResult(tools=[tool])

    async def read_resource(self, ctx: Ctx, params: t.ReadResourceRequestParams) -> Any:
        if not str(params.uri).startswith("made://"):
            raise MCPError(INVALID_PARAMS, "no such resource")
        text = str(params.uri).rpartition("?")[2].replace("+", " ")
        contents = t.TextResourceContents(uri=params.uri, text=text, mime_type="text/plain")
        return t.ReadResourceResult(contents=[contents])

    async def call_tool(self, ctx: Ctx, params: t.CallToolRequestParams) -> Any:
        self.metas.append(dict(params.meta or {}))
        if not self.makes_tasks:
            return await self._guarded(Words(ctx, params, None))
        task = Task()
        self.tasks[task.id] = task
        task.work = asyncio.get_running_loop().create_task(self._as_task(ctx, params, task))
        return {"resultType": "task", "taskId": task.id, "status": "working", "pollIntervalMs": 20}

    async def _as_task(self, ctx: Ctx, params: t.CallToolRequestParams, task: Task) -> None:
        try:
            result = await self._guarded(Words(ctx, params, task))
        except MCPError as exc:
            task.error = {"code": exc.code, "message": exc.message}
            task.status = "failed"
            return
        task.result = result.model_dump(by_alias=True, mode="json", exclude_none=True)
        task.status = "completed"

    async def _guarded(self, words: Words) -> Any:
        try:
            word, _, rest = words.params.arguments["prompt"].partition(" ")  # type: ignore[index]
            do: Callable[[Words, str], Coroutine[Any, Any, Any]] | None
            do = getattr(self, f"do_{word}", None)
            if do is None:
                return said(words.params.arguments["prompt"])  # type: ignore[index]
            return await do(words, rest)
        except asyncio.CancelledError:
            self.cancelled()
            raise

    async def do_slow(self, words: Words, rest: str) -> Any:
        count = int(rest)
        chunks = [f"chunk {n + 1} of {count}" for n in range(count)]
        for number, chunk in enumerate(chunks):
            await words.moved(number + 1, count, chunk)
            await asyncio.sleep(PAUSE if words.task is None else 3 * PAUSE)
        return said("\n".join(chunks))

    async def do_key(self, words: Words, rest: str) -> Any:
        return said(os.environ.get("LAP_KEY", "no key"))

    async def do_fail(self, words: Words, rest: str) -> Any:
        return t.CallToolResult(content=[t.TextContent(text=rest)], is_error=True)

    async def do_refuse(self, words: Words, rest: str) -> Any:
        raise MCPError(INVALID_PARAMS, rest)

    async def do_break(self, words: Words, rest: str) -> Any:
        await words.moved(1, 2, "It began well.")
        await asyncio.sleep(3 * PAUSE)
        raise MCPError(INVALID_PARAMS, rest)

    async def do_big(self, words: Words, rest: str) -> Any:
        return said("x" * int(rest))

    async def do_file(self, words: Words, rest: str) -> Any:
        name, _, text = rest.partition(" ")
        uri = f"made://here/{name}?{text.replace(' ', '+')}"
        return t.CallToolResult(content=[t.ResourceLink(name=name, uri=uri)])

    async def do_picture(self, words: Words, rest: str) -> Any:
        image = t.ImageContent(data=PIXEL, mime_type="image/png")
        gone = t.ResourceLink(name="gone", uri="file:///etc/passwd")
        shown = [t.TextContent(text="look:"), image, gone]
        return t.CallToolResult(content=shown, structured_content={"n": 1})

    async def do_sample(self, words: Words, rest: str) -> Any:
        """Asks for what we do not offer."""
        request = t.ListRootsRequest()
        return t.InputRequiredResult(input_requests={"r": request})

    async def do_ask(self, words: Words, rest: str) -> Any:
        answer = await self._ask(words, rest)
        if isinstance(answer, t.InputRequiredResult):
            return answer
        if answer.action != "accept":
            return said(f"you {answer.action} it")
        return said(f"the color is {(answer.content or {}).get('color')}")

    async def _ask(self, words: Words, text: str) -> Any:
        params = t.ElicitRequestFormParams(message=text, requested_schema=FORM)
        request = t.ElicitRequest(params=params)
        if (task := words.task) is not None:
            task.questions = {"color": request.model_dump(by_alias=True, mode="json")}
            await task.answered.wait()
            return t.ElicitResult.model_validate(task.answers["color"])
        if words.ctx.protocol_version < "2026":
            return await words.ctx.session.elicit_form(text, FORM, words.ctx.request_id)
        responses = words.params.input_responses or {}
        if "color" not in responses:
            return t.InputRequiredResult(input_requests={"color": request}, request_state="s1")
        assert words.params.request_state == "s1"
        return responses["color"]

    # Tasks

    def _task(self, params: TaskParams) -> Task:
        if params.task_id not in self.tasks:
            raise MCPError(INVALID_PARAMS, "there is no such task")
        return self.tasks[params.task_id]

    async def get(self, ctx: Ctx, params: TaskParams) -> dict[str, Any]:
        return self._task(params).view()

    async def update(self, ctx: Ctx, params: TaskParams) -> dict[str, Any]:
        task = self._task(params)
        task.answers |= params.input_responses
        task.questions = {}
        task.answered.set()
        return {}

    async def cancel(self, ctx: Ctx, params: TaskParams) -> dict[str, Any]:
        task = self._task(params)
        if task.status == "working" and task.work is not None:
            task.work.cancel()
            await asyncio.wait([task.work])
            task.status = "cancelled"
        return {}


def said(text: str) -> t.CallToolResult:
    return t.CallToolResult(content=[t.TextContent(text=text)])


def application(server: WordsServer, token: str) -> Any:
    """The ASGI application at `/mcp`; another token is a 401."""
    app = server.server.streamable_http_app()

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            found = dict(scope["headers"]).get(b"authorization", b"").decode()
            if found != f"Bearer {token}":
                start = {"type": "http.response.start", "status": 401, "headers": []}
                await send(start)
                await send({"type": "http.response.body", "body": b'{"error": "who are you?"}'})
                return
        await app(scope, receive, send)

    return guarded


async def main(folder: Path) -> None:
    (folder / f"pid-{os.getpid()}").touch()
    server = WordsServer(lambda: (folder / f"cancelled-{uuid.uuid4().hex}").touch())
    async with stdio_server() as (reading, writing):
        await server.server.run(reading, writing, server.server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
