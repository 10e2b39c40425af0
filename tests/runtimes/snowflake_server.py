"""A contract fake of Snowflake Cortex Agents, with the shapes of the official SDK
(snowflake-cortex-agent-sdk 0.0.3, its `_generated` models): agents, threads, runs with flat events
that can be read again, permission decisions, client tools, cancel.  No model: the prompt's first
word says what the agent does.  `tests/vendors/snowflake/` runs the SDK against it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import jsonschema
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.runtimes.jobs import PAUSE, Job, Ledger, sse

_DECISION = {
    "required": ["tool_use_id", "decision"],
    "properties": {"reason": {"type": "string", "minLength": 1}},
    "additionalProperties": {"type": "string"},
}
_RESULT = {"required": ["tool_use_id", "name", "status", "content"]}
_ITEM = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"enum": ["text", "image", "permission_decision", "tool_result"]},
        "text": {"type": "string"},
        "permission_decision": {"type": "object", **_DECISION},
        "tool_result": {"type": "object", **_RESULT},
        "image": {"type": "object", "required": ["type", "data", "media_type"]},
    },
}
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"const": "user"}, "content": {"type": "array", "items": _ITEM}},
}
RUN = {
    "type": "object",
    "required": ["thread_id", "parent_message_id", "messages"],
    "properties": {
        "thread_id": {"type": "integer"},
        "parent_message_id": {"type": "integer"},
        "messages": {"type": "array", "minItems": 1, "maxItems": 1, "items": _MESSAGE},
        "stream": {"type": "boolean"},
        "background": {"type": "boolean"},
        "tool_choice": {"type": "object"},
        "origin_application": {"type": "string"},
    },
    "additionalProperties": False,
}
REQUEST_ID = "61987ff6-6d56-4695-83c0-1e7cfed818c7"


def error(status: int, message: str, code: str = "399504", **headers: str) -> JSONResponse:
    body = {"message": message, "code": code, "error_code": code, "request_id": REQUEST_ID}
    return JSONResponse(body, status, headers={"x-snowflake-request-id": REQUEST_ID, **headers})


class Run(Job):
    def __init__(self, thread: int, message: int) -> None:
        super().__init__()
        self.thread = thread
        self.user_message = message
        self.assistant_message = message + 1
        self.id = f"{thread}-{message}"
        self.content: list[dict[str, Any]] = []

    async def event(self, name: str, data: dict[str, Any]) -> None:
        await self.emit(sse(name, {**data, "sequence_number": len(self.frames) + 1}))

    def metadata(self) -> dict[str, Any]:
        tokens = {
            "model_name": "words-1",
            "input_tokens": {"total": 7, "cache_read": 0, "cache_write": 0, "uncached": 7},
            "output_tokens": {"total": 11},
            "context_window": 128000,
        }
        return {
            "usage": {"tokens_consumed": [tokens]},
            "run_id": self.id,
            "thread_id": self.thread,
            "user_message_id": self.user_message,
            "assistant_message_id": self.assistant_message,
        }

    def response(self, status: str) -> dict[str, Any]:
        whole = {"role": "assistant", "content": self.content, "metadata": self.metadata()}
        return {**whole, "schema_version": "v2", "status": status}

    async def text(self, text: str, *, chunks: list[str] | None = None, pause: float = 0) -> None:
        index = len(self.content)
        for chunk in chunks or [text]:
            await self.event("response.text.delta", {"content_index": index, "text": chunk})
            if pause:
                await asyncio.sleep(pause)
        await self.item("text", {"text": text})

    async def item(self, kind: str, body: dict[str, Any], *, flat: bool = False) -> None:
        index = len(self.content)
        self.content.append(
            {"type": kind, **body} if kind == "text" else {"type": kind, kind: body}
        )
        await self.event(f"response.{kind}", {"content_index": index, **body})


class Server(Ledger):
    def __init__(self, *, token: str, token_type: str = "PROGRAMMATIC_ACCESS_TOKEN") -> None:
        super().__init__()
        self.threads: dict[int, list[dict[str, Any]]] = {}
        self.runs: dict[str, Run] = {}
        self.cancelled: list[str] = []
        self.forgotten = False
        """Runs are no longer kept; threads are."""
        self.busy = False
        """No run can be cancelled, whatever it does."""
        self._token, self._type = token, token_type
        self._numbers = itertools.count(4264, 1000)
        self._messages = itertools.count(83472, 2)
        agents = "/api/v2/databases/{db}/schemas/{schema}/agents"
        threads, runs = "/api/v2/cortex/threads", "/api/v2/cortex/agent/runs"
        self.app = Starlette(
            routes=[
                Route(agents, self.list_agents),
                Route(f"{agents}/{{name}}:run", self.run, methods=["POST"]),
                Route(threads, self.new_thread, methods=["POST"]),
                Route(f"{threads}/{{thread:int}}", self.get_thread),
                Route(f"{runs}/{{run}}", self.get_run),
                Route(f"{runs}/{{run}}/cancel", self.cancel, methods=["POST"]),
            ]
        )

    async def _asked(self, request: Request) -> tuple[Any, Response | None]:
        body, instead = await self.note(request)
        if instead is not None:
            return body, instead
        headers = request.headers
        if headers.get("authorization") != f"Bearer {self._token}":
            return body, error(401, "Programmatic access token is invalid.", "394400")
        if headers.get("x-snowflake-authorization-token-type") != self._type:
            return body, error(401, "The token is not of that type.", "390303")
        return body, None

    async def list_agents(self, request: Request) -> Response:
        _, refusal = await self._asked(request)
        place = request.path_params
        agent = {
            "name": "SALES",
            "comment": "Answers questions about revenue.",
            "profile": json.dumps({"display_name": "Sales"}),
            "database_name": place["db"],
            "schema_name": place["schema"],
        }
        return refusal or JSONResponse([agent])

    async def new_thread(self, request: Request) -> Response:
        body, refusal = await self._asked(request)
        if refusal is not None:
            return refusal
        if len(str((body or {}).get("origin_application", "")).encode()) > 16:
            return error(400, "origin_application is longer than 16 bytes")
        thread = next(self._numbers)
        self.threads[thread] = []
        return JSONResponse({"thread_id": thread, "thread_name": "", "created_on": 1})

    async def get_thread(self, request: Request) -> Response:
        _, refusal = await self._asked(request)
        thread = request.path_params["thread"]
        if thread not in self.threads:
            return refusal or error(404, "Thread not found")
        newest_first = list(reversed(self.threads[thread]))
        about = {"thread_id": thread, "thread_name": ""}
        return refusal or JSONResponse({"metadata": about, "messages": newest_first})

    async def run(self, request: Request) -> Response:
        body, refusal = await self._asked(request)
        if refusal is not None:
            return refusal
        if request.path_params["name"] != "SALES":
            return error(404, "Agent does not exist or not authorized", "399500")
        try:
            jsonschema.validate(body, RUN)
        except jsonschema.ValidationError as exc:
            return error(400, exc.message)
        kept = self.threads.get(body["thread_id"])
        if kept is None:
            return error(404, "Thread not found")
        parents = {0} | {m["message_id"] for m in kept if m["role"] == "assistant"}
        if body["parent_message_id"] not in parents:
            return error(400, "parent_message_id is no assistant message of the thread")
        run = Run(body["thread_id"], next(self._messages))
        self.runs[run.id] = run
        content = body["messages"][0]["content"]
        self._keep(run, "user", run.user_message, body["parent_message_id"], content)
        run.begin(self._work(run, content))
        if not body.get("stream", True):
            started = {"run_id": run.id, "thread_id": run.thread}
            return JSONResponse({"status": "in_progress", "metadata": started})
        return StreamingResponse(run.follow(), media_type="text/event-stream")

    def _keep(self, run: Run, role: str, message: int, parent: int, content: Any) -> None:
        payload = json.dumps({"role": role, "content": content, "status": "completed"})
        stored = {"message_id": message, "parent_id": parent, "role": role}
        self.threads[run.thread].append({**stored, "created_on": 1, "message_payload": payload})

    async def get_run(self, request: Request) -> Response:
        _, refusal = await self._asked(request)
        run = self.runs.get(request.path_params["run"])
        if refusal is not None or run is None or self.forgotten:
            return refusal or error(404, "Run not found")
        after = int(request.query_params.get("starting_after", 0))
        return StreamingResponse(run.follow(after), media_type="text/event-stream")

    async def cancel(self, request: Request) -> Response:
        _, refusal = await self._asked(request)
        run = self.runs.get(request.path_params["run"])
        if refusal is not None or run is None:
            return refusal or error(404, "Run not found")
        if self.busy or not await run.cancel():
            return error(409, "The run cannot be cancelled now")
        self.cancelled.append(run.id)
        await self._end(run, "cancelled")
        return JSONResponse({"metadata": run.metadata()})

    # What it does

    async def _work(self, run: Run, content: list[dict[str, Any]]) -> None:
        await run.event("response.status", {"message": "Planning", "status": "planning"})
        said = {"role": "user", "message_id": run.user_message, "run_id": run.id}
        await run.event("metadata", {"metadata": said})
        first = content[0]
        if first["type"] == "permission_decision":
            decision = first["permission_decision"]
            allowed = decision["decision"] == "Allow Once"
            reason = decision.get("reason", "")
            await run.text("allowed" if allowed else f"denied {reason}".strip())
        elif first["type"] == "tool_result":
            await run.text(f"you said: {first['tool_result']['content']}")
        else:
            skill, _, rest = first["text"].partition(" ")
            do = getattr(self, f"_do_{skill}", None)
            await (do(run, rest) if do else run.text(first["text"]))
        if not run.outcome:
            await self._end(run, "completed")

    async def _end(self, run: Run, status: str) -> None:
        said = {"role": "assistant", "message_id": run.assistant_message, "run_id": run.id}
        await run.event("metadata", {"metadata": said})
        self._keep(run, "assistant", run.assistant_message, run.user_message, run.content)
        await run.event("response", run.response(status))
        await run.end(status)

    async def _do_slow(self, run: Run, rest: str) -> None:
        count = int(rest)
        await run.text("first ")
        chunks = [f"chunk {n + 1} of {count}\n" for n in range(count)]
        await run.text("".join(chunks), chunks=chunks, pause=PAUSE)

    async def _do_recall(self, run: Run, rest: str) -> None:
        payloads = [json.loads(m["message_payload"]) for m in self.threads[run.thread]]
        said = [p["content"][0].get("text", "") for p in payloads if p["role"] == "user"]
        notes = [text.partition(" ")[2] for text in said if text.startswith("remember ")]
        await run.text("; ".join(notes) or "nothing yet")

    async def _do_big(self, run: Run, rest: str) -> None:
        await run.item("text", {"text": "x" * int(rest)})
        run.content[-1]["text"] = "x"  # the aggregate would be too large for its reader

    async def _do_ask(self, run: Run, rest: str) -> None:
        await run.text("I need to clean up.")
        use = {"tool_use_id": f"toolu_{run.id}", "type": "bash", "name": "bash"}
        use |= {"input": {"command": rest}, "client_side_execute": False}
        options = ["Allow Once", "Allow for this session", "Deny"]
        await run.item("tool_use", {**use, "permission": {"options": options}})

    async def _do_call(self, run: Run, rest: str) -> None:
        use = {"tool_use_id": f"toolu_{run.id}", "type": "generic", "name": rest}
        await run.item("tool_use", {**use, "input": {"key": 1}, "client_side_execute": "true"})

    async def _do_elicit(self, run: Run, rest: str) -> None:
        await run.item("text", {"text": rest, "is_elicitation": True})

    async def _do_tool(self, run: Run, rest: str) -> None:
        index = len(run.content)
        thought = {"content_index": index, "text": "I look it up."}
        await run.event("response.thinking.delta", thought)
        await run.item("thinking", {"text": "I look it up."})
        use = {"tool_use_id": "toolu_1", "type": "cortex_search", "name": "docs"}
        await run.item("tool_use", {**use, "input": {"q": "x"}, "client_side_execute": False})
        await run.event("response.shiny_new_thing", {"sparkles": [1, 2]})
        status = {"message": "Executing", "status": "executing_tool", "tool_use_id": "toolu_1"}
        await run.event("response.tool_result.status", {**status, "tool_type": "cortex_search"})
        found = [{"type": "json", "json": {"answer": 42}}, {"type": "text", "text": "found"}]
        await run.item("tool_result", {**use, "content": found, "status": "success"})
        await run.text("It is 42.")

    async def _do_file(self, run: Run, rest: str) -> None:
        shape = {"length": 0, "precision": 0, "scale": 0, "nullable": True}
        columns = [{"name": "content of it", "type": "text"}, {"name": "n", "type": "fixed"}]
        columns = [{**column, **shape} for column in columns]
        about = {"partition": 0, "numRows": 1, "format": "jsonv2", "rowType": columns}
        results = {"statementHandle": "h", "resultSetMetaData": about, "data": [["a, b", "1"]]}
        table = {"tool_use_id": "toolu_1", "query_id": "q", "title": rest, "result_set": results}
        await run.item("table", table)

    async def _do_chart(self, run: Run, rest: str) -> None:
        await run.item("chart", {"tool_use_id": "toolu_1", "chart_spec": '{"mark":"bar"}'})
        asset = {"path": "@~/si/reports/summary.md", "description": "A summary."}
        await run.item("asset", asset)

    async def _do_fail(self, run: Run, rest: str) -> None:
        begun = {"content_index": len(run.content), "text": "It began well. "}
        await run.event("response.text.delta", begun)
        said = {"code": "399504", "error_code": "399504", "message": rest}
        await run.event("error", {**said, "request_id": REQUEST_ID})
        await run.end("error")
