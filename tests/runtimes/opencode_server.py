"""A contract fake of `opencode serve`, made from what a real opencode 1.18.33 sent (its `/doc`, and
its events recorded with a scripted model).  Its words are those of the contract suite."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PAUSE = 0.02


class Server:
    def __init__(self, authorization: str = "") -> None:
        self.authorization = authorization
        self.listeners: set[asyncio.Queue[str]] = set()
        self.sessions: dict[str, list[dict[str, Any]]] = {}
        self.busy: dict[str, asyncio.Task[None]] = {}
        self.questions: dict[str, tuple[str, dict[str, Any], asyncio.Future[Any]]] = {}
        self.cancelled: list[str] = []
        self.bodies: list[Any] = []
        self.number = itertools.count(1)
        self.app = Starlette(
            routes=[
                Route("/agent", self.agents),
                Route("/event", self.event),
                Route("/permission", self.open_permissions),
                Route("/question", self.open_questions),
                Route("/permission/{id}/reply", self.reply, methods=["POST"]),
                Route("/question/{id}/{verb}", self.reply, methods=["POST"]),
                Route("/session", self.create, methods=["POST"]),
                Route("/session/status", self.status),
                Route("/session/{id}/message", self.messages),
                Route("/session/{id}/prompt_async", self.prompt, methods=["POST"]),
                Route("/session/{id}/abort", self.abort, methods=["POST"]),
            ]
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        given = dict(scope.get("headers", ())).get(b"authorization", b"").decode()
        if scope["type"] == "http" and self.authorization not in ("", given):
            await Response(status_code=401)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def id(self, prefix: str) -> str:
        return f"{prefix}_{next(self.number):012x}"

    def publish(self, kind: str, session_id: str, **properties: Any) -> None:
        body = {"sessionID": session_id, **properties}
        event = json.dumps({"id": self.id("evt"), "type": kind, "properties": body})
        for queue in self.listeners:
            queue.put_nowait(event)

    async def agents(self, request: Request) -> Response:
        return JSONResponse(
            [
                {"name": "build", "description": "Works.", "mode": "primary"},
                {"name": "title", "mode": "primary", "hidden": True},
                {"name": "explore", "mode": "subagent"},
            ]
        )

    async def event(self, request: Request) -> Response:
        queue: asyncio.Queue[str] = asyncio.Queue()

        async def stream() -> AsyncIterator[str]:
            self.listeners.add(queue)
            try:
                yield 'data: {"id":"evt_0","type":"server.connected","properties":{}}\n\n'
                while True:
                    try:
                        yield f"data: {await asyncio.wait_for(queue.get(), 1)}\n\n"
                    except TimeoutError:
                        yield 'data: {"id":"evt_1","type":"server.heartbeat","properties":{}}\n\n'
            finally:
                self.listeners.discard(queue)

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def create(self, request: Request) -> Response:
        session_id = self.id("ses")
        self.sessions[session_id] = []
        return JSONResponse({"id": session_id, "title": "t", "cost": 0})

    async def status(self, request: Request) -> Response:
        return JSONResponse({session_id: {"type": "busy"} for session_id in self.busy})

    async def messages(self, request: Request) -> Response:
        session_id = request.path_params["id"]
        if session_id not in self.sessions:
            words = {"message": f"Session not found: {session_id}"}
            return JSONResponse({"name": "NotFoundError", "data": words}, status_code=404)
        return JSONResponse(self.sessions[session_id])

    async def prompt(self, request: Request) -> Response:
        session_id = request.path_params["id"]
        body = json.loads(await request.body())
        self.bodies.append(body)
        work = self._work(session_id, body["parts"][0]["text"])
        self.busy[session_id] = asyncio.get_running_loop().create_task(work)
        return Response(status_code=204)

    async def abort(self, request: Request) -> Response:
        session_id = request.path_params["id"]
        if task := self.busy.get(session_id):
            task.cancel()
            await asyncio.wait([task])
        return JSONResponse(True)

    def _open(self, prefix: str) -> Response:
        asked = [about for _, about, reply in self.questions.values() if not reply.done()]
        return JSONResponse([each for each in asked if each["id"].startswith(prefix)])

    async def open_permissions(self, request: Request) -> Response:
        return self._open("per")

    async def open_questions(self, request: Request) -> Response:
        return self._open("que")

    async def reply(self, request: Request) -> Response:
        request_id = request.path_params["id"]
        found = self.questions.get(request_id)
        if found is None or found[2].done():
            return JSONResponse({"message": f"Request not found: {request_id}"}, status_code=404)
        body = await request.body()
        found[2].set_result(json.loads(body) if body else None)
        kind = "permission.replied" if request_id.startswith("per") else "question.replied"
        self.publish(kind, found[0], requestID=request_id)
        return JSONResponse(True)

    # The agent

    async def _work(self, session_id: str, text: str) -> None:
        said = self.sessions[session_id]
        user = {"id": self.id("msg"), "role": "user", "sessionID": session_id}
        part = {"id": self.id("prt"), "messageID": user["id"], "type": "text", "text": text}
        said.append({"info": user, "parts": [part]})
        self.publish("message.updated", session_id, info=user)
        self.publish("message.part.updated", session_id, part=part)
        self.publish("session.status", session_id, status={"type": "busy"})
        info: dict[str, Any] = {
            "id": self.id("msg"),
            "role": "assistant",
            "parentID": user["id"],
            "tokens": {"input": 0, "output": 0},
        }
        message = {"info": info, "parts": []}
        said.append(message)
        self.publish("message.updated", session_id, info=info)
        try:
            await self._do(session_id, message, text)
        except asyncio.CancelledError:
            self.cancelled.append(session_id)
            self._fail(session_id, info, "MessageAbortedError", "Aborted")
        info["tokens"] = {"input": 3, "output": 4, "reasoning": 0, "cache": {"read": 1}}
        info["cost"] = 0.25
        self.publish("message.updated", session_id, info=info)
        del self.busy[session_id]
        self.publish("session.status", session_id, status={"type": "idle"})
        self.publish("session.idle", session_id)

    def _fail(
        self, session_id: str, info: dict[str, Any], name: str, words: str, **more: Any
    ) -> None:
        info["error"] = {"name": name, "data": {"message": words, **more}}
        self.publish("session.error", session_id, error=info["error"])

    async def _do(self, session_id: str, message: dict[str, Any], text: str) -> None:
        word, _, rest = text.partition(" ")
        if word == "slow":
            chunks = [f"chunk {n + 1} of {rest}\n" for n in range(int(rest))]
            await self._say(session_id, message, chunks)
        elif word == "big":
            await self._say(session_id, message, ["x" * int(rest)])
        elif word == "recall":
            texts = [m["parts"][0]["text"] for m in self.sessions[session_id] if m["parts"]]
            kept = [t.partition(" ")[2] for t in texts if t.startswith("remember ")]
            await self._say(session_id, message, ["; ".join(kept)])
        elif word == "fail":
            await self._say(session_id, message, ["well, "])
            self._fail(session_id, message["info"], "APIError", rest)
        elif word == "break":
            part: dict[str, Any] = {"id": self.id("prt"), "messageID": message["info"]["id"]}
            part |= {"type": "text", "text": "It began well. ", "time": {"start": 1}}
            message["parts"].append(part)
            self.publish("message.part.updated", session_id, part={**part, "text": ""})
            names = {"messageID": part["messageID"], "partID": part["id"], "field": "text"}
            self.publish("message.part.delta", session_id, **names, delta=part["text"])
            told = {"statusCode": 429, "isRetryable": True}
            self._fail(session_id, message["info"], "APIError", rest, **told)
        elif word == "ask":
            await self._ask(session_id, message, rest)
        elif word == "choose":
            asked = {"question": rest, "options": [{"label": "red"}], "custom": True}
            found = await self._wait("que", "question.asked", session_id, questions=[asked])
            answer = "nothing" if found is None else found["answers"][0][0]
            await self._say(session_id, message, [f"you chose {answer}"])
        else:
            await self._say(session_id, message, [text])

    async def _say(self, session_id: str, message: dict[str, Any], chunks: list[str]) -> None:
        part: dict[str, Any] = {"id": self.id("prt"), "messageID": message["info"]["id"]}
        part |= {"type": "text", "text": "", "time": {"start": 1}}
        message["parts"].append(part)
        self.publish("message.part.updated", session_id, part=part)
        names = {"messageID": part["messageID"], "partID": part["id"], "field": "text"}
        try:
            for chunk in chunks:
                part["text"] += chunk
                self.publish("message.part.delta", session_id, **names, delta=chunk)
                if len(chunks) > 1:
                    await asyncio.sleep(PAUSE)
        finally:
            part["time"] = {"start": 1, "end": 2}
            self.publish("message.part.updated", session_id, part=part)

    async def _ask(self, session_id: str, message: dict[str, Any], rest: str) -> None:
        part: dict[str, Any] = {"id": self.id("prt"), "messageID": message["info"]["id"]}
        part |= {"type": "tool", "tool": "bash", "state": {"status": "pending", "input": {}}}
        message["parts"].append(part)
        self.publish("message.part.updated", session_id, part=part)
        part["state"] = {"status": "running", "input": {"command": rest}}
        self.publish("message.part.updated", session_id, part=part)
        found = await self._wait(
            "per", "permission.asked", session_id,
            permission="bash", patterns=[rest], metadata={"command": rest},
        )  # fmt: skip
        allowed = found["reply"] != "reject"
        outcome = {"status": "completed", "output": "ok"} if allowed else {
            "status": "error", "error": "rejected"
        }  # fmt: skip
        part["state"] = {**part["state"], **outcome}
        self.publish("message.part.updated", session_id, part=part)
        await self._say(session_id, message, [f"allowed {found['reply']}" if allowed else "denied"])

    async def _wait(self, prefix: str, kind: str, session_id: str, **about: Any) -> Any:
        request_id = self.id(prefix)
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        asked = {"id": request_id, "sessionID": session_id, **about}
        self.questions[request_id] = (session_id, asked, reply)
        self.publish(kind, session_id, id=request_id, **about)
        return await reply
