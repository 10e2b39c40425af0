"""A contract fake of n8n, made from captured traffic of n8n 2.40.7: a chat trigger that streams or
answers whole, a webhook, the management API.  No model and no nodes: the prompt's first word says
what the workflow does.

Captured and kept: streams are NDJSON that is called `application/json`; an answer holds no id of
its execution; an agent that is stopped says an error, and its stream stays open for ever;
executions that run are listed only where one asks for them; a webhook's workflow that fails answers
500 and no reason.
"""

from __future__ import annotations

import asyncio
import email
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.runtimes.jobs import PAUSE, Job, Ledger

CHAT = "@n8n/n8n-nodes-langchain.chatTrigger"
WEBHOOK = "n8n-nodes-base.webhook"


class Failed(Exception):
    """The workflow failed."""


class Execution(Job):
    def __init__(self, number: int, given: dict[str, Any]) -> None:
        super().__init__()
        self.id = str(number)
        self.given = given
        self.error = ""
        self.made: dict[str, Any] = {}
        self.file = b""
        self.wait: dict[str, Any] = {}
        """The parameters of the Wait node that it stands at."""
        self.resumed = 0

    @property
    def status(self) -> str:
        return self.outcome or ("waiting" if self.wait else "running")

    def shown(self, *, data: bool) -> dict[str, Any]:
        about = {"id": self.id, "workflowId": "wf1", "status": self.status, "mode": "webhook"}
        if not data:
            return about
        trigger = [{"data": {"main": [[{"json": self.given}]]}}]
        runs = {"Trigger": trigger}
        results: dict[str, Any] = {"runData": runs, "lastNodeExecuted": "Agent"}
        if self.resumed:
            runs["Wait"] = [{}] * self.resumed
        if self.wait and not self.outcome:
            results["lastNodeExecuted"] = "Wait"
        if self.error:
            results["error"] = {"message": self.error, "name": "NodeOperationError"}
        elif self.outcome == "success":
            runs["Agent"] = [{"data": {"main": [[{"json": self.made}]]}}]
        wait = {"name": "Wait", "type": "n8n-nodes-base.wait", "parameters": self.wait}
        kept = {"resultData": results, "resumeToken": f"token-{self.id}"}
        return {**about, "data": kept, "workflowData": {"nodes": [wait]}}

    async def line(self, kind: str, **body: Any) -> None:
        metadata = {"nodeId": "d67f", "nodeName": "Agent", "itemIndex": 0, "runIndex": 0}
        await self.emit(json.dumps({"type": kind, **body, "metadata": metadata}) + "\n")

    async def say(self, text: str, *, chunks: list[str] | None = None, pause: float = 0) -> None:
        await self.line("begin")
        for chunk in chunks or [text]:
            await self.line("item", content=chunk)
            if pause:
                await asyncio.sleep(pause)
        await self.line("end")
        self.made = {"output": text}


class Server(Ledger):
    def __init__(self, *, key: str, streaming: bool, trigger_key: str = "") -> None:
        super().__init__()
        self.executions: list[Execution] = []
        self.stopped: list[str] = []
        self.notes: dict[str, list[str]] = {}
        self.files: list[tuple[str, str, bytes]] = []
        self.hides_data = False
        """Executions that run show no data."""
        self._key, self._trigger_key, self._streaming = key, trigger_key, streaming
        self._numbers = itertools.count(1)
        api = "/api/v1"
        self.app = Starlette(
            routes=[
                Route("/healthz", self.healthz),
                Route(f"{api}/workflows", self.workflows),
                Route(f"{api}/executions", self.list_executions),
                Route(f"{api}/executions/{{id}}", self.get_execution),
                Route(f"{api}/executions/{{id}}/stop", self.stop, methods=["POST"]),
                Route("/webhook/hook-1/chat", self.called, methods=["POST"]),
                Route("/webhook/words", self.called, methods=["POST"]),
                Route("/webhook/{path:path}", self.missing, methods=["POST"]),
                Route("/webhook-waiting/{id}/{suffix}", self.resume, methods=["GET", "POST"]),
                Route("/form-waiting/{id}", self.resume, methods=["POST"]),
            ]
        )

    async def healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def missing(self, request: Request) -> Response:
        await self.note(request)
        path = request.path_params["path"]
        words = f'The requested webhook "POST {path}" is not registered.'
        return JSONResponse({"code": 404, "message": words, "hint": "Activate it."}, 404)

    async def _managed(self, request: Request) -> Response | None:
        _, instead = await self.note(request)
        if request.headers.get("x-n8n-api-key") != self._key:
            return instead or JSONResponse({"message": "Unauthorized"}, 401)
        return instead

    async def workflows(self, request: Request) -> Response:
        if refusal := await self._managed(request):
            return refusal
        mode = {"options": {"responseMode": "streaming" if self._streaming else "lastNode"}}
        chat = {"type": CHAT, "webhookId": "hook-1", "parameters": {"public": True, **mode}}
        hook = {"httpMethod": "POST", "path": "words", "responseMode": "lastNode"}
        nodes = [chat if self._streaming else {"type": WEBHOOK, "parameters": hook}]
        nodes += [{"type": CHAT, "webhookId": "x", "parameters": {}}]
        nodes += [{"type": WEBHOOK, "disabled": True, "parameters": hook}]
        workflow = {"id": "wf1", "name": "Words", "active": True, "nodes": nodes}
        if request.query_params.get("cursor") == "page2":
            return JSONResponse({"data": [workflow], "nextCursor": None})
        empty = {"id": "wf0", "name": "No trigger", "active": True, "nodes": []}
        return JSONResponse({"data": [empty], "nextCursor": "page2"})

    async def list_executions(self, request: Request) -> Response:
        if refusal := await self._managed(request):
            return refusal
        status = request.query_params.get("status")
        wanted = [e for e in self.executions if e.status == (status or e.status)]
        wanted = [e for e in wanted if status or e.status != "running"]
        newest = list(reversed(wanted))
        limit = int(request.query_params.get("limit", 100))
        shown = [each.shown(data=False) for each in newest[:limit]]
        return JSONResponse({"data": shown, "nextCursor": None})

    async def get_execution(self, request: Request) -> Response:
        if refusal := await self._managed(request):
            return refusal
        for each in self.executions:
            if each.id == request.path_params["id"]:
                hidden = self.hides_data and not each.outcome
                data = request.query_params.get("includeData") == "true" and not hidden
                return JSONResponse(each.shown(data=data))
        return JSONResponse({"message": "Not Found"}, 404)

    async def stop(self, request: Request) -> Response:
        if refusal := await self._managed(request):
            return refusal
        (found,) = [each for each in self.executions if each.id == request.path_params["id"]]
        if found.outcome or found.task is None:
            words = "Only running or waiting executions can be stopped and 1 is currently success"
            return JSONResponse({"message": words}, 409)
        await found.cancel()
        await found.line("error", content="Original error: AbortError")
        await found.end("canceled")
        self.stopped.append(found.id)
        return JSONResponse({"id": found.id, "status": "canceled"})

    async def called(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "")
        if kind.startswith("multipart/form-data"):
            given = self._form(kind, await request.body())
        else:
            given, instead = await self.note(request)
            if instead is not None:
                return instead
        if self._trigger_key and request.headers.get("x-trigger") != self._trigger_key:
            return JSONResponse({"code": 403, "message": "Authorization data is wrong!"}, 403)
        execution = Execution(next(self._numbers), given)
        self.executions.append(execution)
        execution.begin(self._work(execution))
        if self._streaming:
            return StreamingResponse(self._lines(execution), media_type="application/json")
        if execution.task is not None:
            await execution.task
        if execution.wait:
            # What the node before the wait made: here the webhook itself, with all its headers.
            return JSONResponse({"headers": dict(request.headers), "body": given})
        if execution.error:
            return JSONResponse({"code": 0, "message": "Error in workflow"}, 500)
        if execution.file:
            named = {"content-disposition": f'attachment; filename="{execution.made["name"]}"'}
            return Response(execution.file, media_type="application/pdf", headers=named)
        return JSONResponse(execution.made)

    def _form(self, kind: str, body: bytes) -> dict[str, Any]:
        """The fields; files are put aside."""
        message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
        given: dict[str, Any] = {}
        for part in message.get_payload():
            content = part.get_payload(decode=True)
            if part.get_filename():
                self.files.append((part.get_filename(), part.get_content_type(), content))
            else:
                given[part.get_param("name", header="content-disposition")] = content.decode()
        return given

    async def _lines(self, execution: Execution) -> AsyncIterator[str]:
        async for line in execution.follow():
            yield line
        if execution.outcome == "canceled":
            await asyncio.Event().wait()

    # What it does

    async def resume(self, request: Request) -> Response:
        body, instead = await self.note(request)
        if instead is not None:
            return instead
        (found,) = [e for e in self.executions if e.id == request.path_params["id"]]
        if request.query_params.get("signature") != f"token-{found.id}":
            return JSONResponse({"error": "Invalid token"}, 401)
        wait, found.wait = found.wait, {}
        if found.outcome or not wait:
            return JSONResponse({"code": 409, "message": "has finished already"}, 409)
        found.resumed += 1
        if wait["resume"] == "form":
            given = self._form(request.headers["content-type"], body)
            labels = [field["fieldLabel"] for field in wait["formFields"]["values"]]
            body = {labels[int(key.partition("-")[2])]: value for key, value in given.items()}
        elif request.method == "GET":
            body = {k: v for k, v in request.query_params.items() if k != "signature"}
        found.given["prompt"] = found.given["chatInput"] = wait.get("then", "") or json.dumps(body)
        found.begin(self._work(found))
        return JSONResponse({"status": 200})

    async def _work(self, execution: Execution) -> None:
        given = execution.given
        text = given.get("chatInput") or given.get("prompt") or ""
        skill, _, rest = text.partition(" ")
        do = getattr(self, f"_do_{skill}", None)
        try:
            await (do(execution, rest) if do else execution.say(text))
        except Failed as exc:
            execution.error = str(exc)
            if self._streaming:
                await execution.line("error", content=str(exc))
        if not execution.wait:
            await execution.end("error" if execution.error else "success")

    async def _do_slow(self, execution: Execution, rest: str) -> None:
        count = int(rest)
        chunks = ["first ", *(f"chunk {n + 1} of {count}\n" for n in range(count))]
        await execution.say("".join(chunks), chunks=chunks, pause=PAUSE)

    async def _do_remember(self, execution: Execution, rest: str) -> None:
        self.notes.setdefault(execution.given["sessionId"], []).append(rest)
        await execution.say("yes")

    async def _do_recall(self, execution: Execution, rest: str) -> None:
        notes = self.notes.get(execution.given["sessionId"], [])
        await execution.say("; ".join(notes) or "nothing yet")

    async def _do_big(self, execution: Execution, rest: str) -> None:
        await execution.say("x" * int(rest))

    async def _do_two(self, execution: Execution, rest: str) -> None:
        await execution.say("one")
        await execution.emit('{"type":"keepalive"}\n{"type":"shiny","sparkles":1}\n')
        await execution.say("two")

    async def _do_ask(self, execution: Execution, rest: str) -> None:
        choice = {"values": [{"option": "blue"}, {"option": "red"}]}
        values: list[dict[str, Any]] = [{"fieldLabel": "Colour", "requiredField": True}]
        if rest == "choice":
            values[0] |= {"fieldType": "dropdown", "fieldOptions": choice}
        if rest == "two":
            values += [{"fieldLabel": "Why"}]
        fields = {"formFields": {"values": values}}
        execution.wait = {"resume": "form", "formTitle": "Colour", "formDescription": "?", **fields}

    async def _do_call(self, execution: Execution, rest: str) -> None:
        options = {"webhookSuffix": "go-on"}
        execution.wait = {"resume": "webhook", "httpMethod": rest, "options": options}

    async def _do_again(self, execution: Execution, rest: str) -> None:
        await self._do_call(execution, "POST")
        execution.wait["then"] = "call POST"

    async def _do_sleep(self, execution: Execution, rest: str) -> None:
        execution.wait = {"resume": "timeInterval"}

    async def _do_file(self, execution: Execution, rest: str) -> None:
        execution.file = b"content of it"
        execution.made = {"name": rest}

    async def _do_fail(self, execution: Execution, rest: str) -> None:
        await execution.line("begin")
        await execution.line("item", content="It began well. ")
        raise Failed(rest)
