"""Databricks for a test, made of its own packages' sources (databricks-agentbricks 0.7, mlflow
3.17) and of what their servers sent: DurableAgentServer, MLflow's AgentServer, serving endpoints
and the workspace's token endpoint.

The same cases run against the real DurableAgentServer and AgentServer (tier 2).
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PAUSE = 0.02
ENDPOINT = "words"


class Invocation:
    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.status = "queued"
        self.output: Any = None
        self.events: list[tuple[int, dict[str, Any]]] = []
        self.changed = asyncio.Condition()
        self.task: asyncio.Task[None] | None = None


class Server:
    """`token` is what has to be sent; with `secret`, one is issued at the token endpoint, and
    only the newest is taken."""

    def __init__(self, *, token: str = "", secret: str = "") -> None:
        self.notes: dict[str, list[str]] = defaultdict(list)
        self.invocations: dict[str, Invocation] = {}
        self.asked: dict[str, str] = {}
        self.cancelled: list[str] = []
        self.requests: list[Any] = []
        self.issued: list[str] = []
        self.expires_in = 3600
        self.refuses = False
        self._token, self._secret = token, secret
        self._numbers = itertools.count(1)
        self.app = Starlette(
            routes=[
                Route("/api/invocations", self.invoke, methods=["POST"]),
                Route("/api/invocations/{id}", self.look),
                Route("/api/invocations/{id}/events", self.events),
                Route("/responses", self.respond, methods=["POST"]),
                Route("/agent/info", self.info),
                Route("/serving-endpoints/responses", self.respond, methods=["POST"]),
                Route("/api/2.0/serving-endpoints", self.endpoints),
                Route("/.well-known/databricks-config", self.config),
                Route("/oidc/.well-known/oauth-authorization-server", self.metadata),
                Route("/oidc/v1/token", self.token, methods=["POST"]),
            ]
        )

    def _refused(self, request: Request) -> Response | None:
        wanted = self.issued[-1] if self.issued else self._token
        given = request.headers.get("authorization", "")
        if wanted and given != f"Bearer {wanted}":
            words = {"error_code": "401", "message": f"Credential was not sent: {given}"}
            return JSONResponse(words, status_code=401)
        return None

    # The workspace

    async def config(self, request: Request) -> Response:
        return JSONResponse({"oidc_endpoint": f"{request.base_url}oidc", "workspace_id": "1"})

    async def metadata(self, request: Request) -> Response:
        base = str(request.base_url)
        found = {"token_endpoint": f"{base}oidc/v1/token", "authorization_endpoint": f"{base}auth"}
        return JSONResponse(found)

    async def token(self, request: Request) -> Response:
        given = parse_qs((await request.body()).decode())
        basic = request.headers.get("authorization", "")
        wanted = base64.b64encode(f"id:{self._secret}".encode()).decode()
        known = given.get("client_secret") == [self._secret] or basic == f"Basic {wanted}"
        if self.refuses or not known:
            return JSONResponse({"error": "invalid_client"}, status_code=401)
        self.issued.append(f"{self._token}-{len(self.issued)}")
        made = {"access_token": self.issued[-1], "token_type": "Bearer"}
        return JSONResponse({**made, "expires_in": self.expires_in})

    async def endpoints(self, request: Request) -> Response:
        ready = {"state": {"ready": "READY"}}
        listed = [
            {"name": ENDPOINT, "task": "agent/v1/responses", "description": "says words", **ready},
            {"name": "chatty", "task": "agent/v1/chat", **ready},
            {"name": "model", "task": "llm/v1/chat", **ready},
            {"name": "new", "task": "agent/v1/responses", "state": {"ready": "NOT_READY"}},
        ]
        return self._refused(request) or JSONResponse({"endpoints": listed})

    # An agent that speaks the Responses API

    async def info(self, request: Request) -> Response:
        found = {"name": "words", "use_case": "agent", "mlflow_version": "3.17.2"}
        return self._refused(request) or JSONResponse({**found, "agent_api": "responses"})

    async def respond(self, request: Request) -> Response:
        if refusal := self._refused(request):
            return refusal
        body = json.loads(await request.body())
        self.requests.append(body)
        served = request.url.path.startswith("/serving-endpoints")
        if served and body.get("model") != ENDPOINT:
            words = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such endpoint"}
            return JSONResponse(words, status_code=404)
        return StreamingResponse(self._said(body), media_type="text/event-stream")

    async def _said(self, body: dict[str, Any]) -> AsyncIterator[str]:
        session, done = body["context"]["conversation_id"], False
        try:
            async for event in self._items(body["input"], session):
                yield f"data: {json.dumps(event)}\n\n"
            yield "data: [DONE]\n\n"
            done = True
        finally:
            if not done:
                self.cancelled.append(session)

    async def _items(self, given: list[dict[str, Any]], session: str) -> AsyncIterator[Any]:
        last = given[-1]
        if last.get("type") == "mcp_approval_response":
            assert self.asked.pop(session) == last["approval_request_id"]
            prompt = "allowed" if last["approve"] else "denied"
        else:
            content = last["content"]
            prompt = content if isinstance(content, str) else content[0]["text"]
        skill, _, rest = prompt.partition(" ")
        if skill == "ask":
            self.asked[session] = f"mcpr_{next(self._numbers)}"
            item = {"id": self.asked[session], "name": "delete_file", "server_label": "files"}
            item |= {"type": "mcp_approval_request", "arguments": json.dumps({"path": rest})}
            yield {"type": "response.output_item.done", "item": item}
            return
        if skill in ("fail", "break"):
            if skill == "break":
                begun = {"item_id": "msg_1", "delta": "It began well. "}
                yield {"type": "response.output_text.delta", **begun}
            yield {"error": rest}
            return
        said = []
        async for word in self._words(prompt, session, [i.get("content") for i in given[:-1]]):
            said.append(word)
            yield {"type": "response.output_text.delta", "item_id": "msg_1", "delta": word}
        part = {"text": "".join(said), "type": "output_text", "annotations": []}
        item = {"id": "msg_1", "content": [part], "role": "assistant", "type": "message"}
        yield {"type": "response.output_item.done", "item": item}

    async def _words(self, prompt: str, session: str, sent: list[Any]) -> AsyncIterator[str]:
        """What the agent says: it keeps notes by session, and believes what is sent again."""
        skill, _, rest = prompt.partition(" ")
        if skill == "remember":
            self.notes[session].append(rest)
            yield "kept"
        elif skill == "recall":
            resent = [str(each).partition(" ")[2] for each in sent if "remember" in str(each)]
            yield "; ".join(resent or self.notes[session]) or "nothing yet"
        elif skill == "slow":
            for number in range(int(rest)):
                yield f"chunk {number + 1} of {rest}\n"
                await asyncio.sleep(PAUSE)
        elif skill == "big":
            yield "x" * int(rest)
        else:
            yield f"you said: {prompt}"

    # DurableAgentServer

    async def invoke(self, request: Request) -> Response:
        if refusal := self._refused(request):
            return refusal
        body = json.loads(await request.body())
        self.requests.append(body)
        if extra := set(body) - {"id", "session_id", "input", "background", "stream"}:
            return JSONResponse({"detail": f"extra fields {sorted(extra)}"}, status_code=422)
        name = str(uuid.UUID(body["id"]))
        made = self.invocations.get(name)
        if made is None:
            made = self.invocations[name] = Invocation(body)
            made.task = asyncio.ensure_future(self._work(made))
        elif (made.body["input"], made.body["session_id"]) != (body["input"], body["session_id"]):
            words = {"detail": "id was already used for another request"}
            return JSONResponse(words, status_code=409)
        where = f"/api/invocations/{name}"
        state = {"id": name, "status": made.status, "status_url": where}
        return JSONResponse({**state, "events_url": f"{where}/events"}, status_code=202)

    async def look(self, request: Request) -> Response:
        if refusal := self._refused(request):
            return refusal
        found = self.invocations.get(request.path_params["id"])
        if found is None:
            return JSONResponse({"detail": "invocation not found"}, status_code=404)
        return JSONResponse({"status": found.status, "output": found.output})

    async def events(self, request: Request) -> Response:
        if refusal := self._refused(request):
            return refusal
        found = self.invocations.get(request.path_params["id"])
        if found is None:
            return JSONResponse({"detail": "invocation not found"}, status_code=404)
        after = int(request.query_params.get("after", "0"))
        return StreamingResponse(self._follow(found, after), media_type="text/event-stream")

    async def _follow(self, found: Invocation, after: int) -> AsyncIterator[str]:
        while True:
            async with found.changed:
                fresh = [each for each in found.events if each[0] > after]
                ended = found.status in ("completed", "failed")
                if not fresh and not ended:
                    await found.changed.wait()
                    continue
            for after, event in fresh:
                yield f"id: {after}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n"
            if ended:
                return

    async def _emit(self, made: Invocation, **event: Any) -> None:
        async with made.changed:
            made.events.append((next(self._numbers), event))
            made.changed.notify_all()

    async def _work(self, made: Invocation) -> None:
        await self._emit(made, type="run.started")
        status = "completed"
        try:
            made.output = await self._run(made, made.body["input"], made.body["session_id"])
        except ValueError as failure:
            status = "failed"
            await self._emit(made, type="error", message=str(failure))
        made.status = status
        await self._emit(made, type=f"run.{status}")

    async def _run(self, made: Invocation, given: dict[str, Any], session: str) -> Any:
        if "resume" in given:
            assert self.asked.pop(session)
            value = given["resume"]
            allowed = value == {"decisions": [{"type": "approve"}]}
            prompt = "allowed" if allowed else f"refused: {value}"
        else:
            prompt = given["messages"][-1]["content"]
        skill, _, rest = prompt.partition(" ")
        if skill == "fail":
            await self._emit(made, type="delta", content="It began well.")
            raise ValueError(rest)
        if skill == "quiet":
            return {"answer": rest}
        if skill == "ask":
            self.asked[session] = rest
            action = {"name": "delete_file", "args": {"path": rest}, "call_id": "call_1"}
            value = {"action_requests": [action]}
            await self._emit(made, type="interrupt", id=f"call_{len(self.asked)}", value=value)
            return {"status": "interrupted"}
        said = []
        async for word in self._words(prompt, session, []):
            said.append(word)
            await self._emit(made, type="delta", content=word, id="msg_1")
        message = {"role": "assistant", "content": "".join(said)}
        await self._emit(made, type="message", message=message)
        return {"output": [message], "status": "completed"}
