"""A LiteLLM Agent Platform, written from its source (`src/http`, 2026-06): agents, sessions on a
runtime, prompts that are answered when the agent is done, the list of events, the approvals of the
inbox, interrupts.  The prompt's first word says what the agent does.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

PAUSE = 0.02
AGENT = {
    "id": "agt_1",
    "name": "words",
    "model": "claude-sonnet-4-6",
    "system": "",
    "description": "Says the words again.",
    "status": "active",
    "harness": "claude-code",
    "config": {"runtime": "claude_managed_agents"},
}


class Session:
    def __init__(self, number: int, body: dict[str, Any]) -> None:
        self.id = f"ses_{number}"
        self.body = body
        self.status = "idle"
        self.events: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.task: asyncio.Task[None] | None = None

    def emit(self, kind: str, **data: Any) -> None:
        self.events.append({"type": kind, **data})

    def say(self, text: str) -> None:
        self.emit("agent.message", content=[{"type": "text", "text": text}])

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "title": self.body.get("title") or AGENT["name"],
            "agent": self.body["agent_id"],
            "agent_id": self.body["agent_id"],
            "harness": "claude-code",
            "runtime": self.body["runtime"],
            "provider_session_id": f"sesn_{self.id}",
            "status": self.status,
            "environment": self.body.get("environment") or {},
            "time": {"created": 1, "updated": 2},
        }


class Server:
    """The application and its memory."""

    def __init__(self, *, key: str | None = None) -> None:
        self.sessions: dict[str, Session] = {}
        self.inbox: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled: list[str] = []
        self._key = key
        self._numbers = itertools.count(1)
        one = "/session/{id}"
        post = {"methods": ["POST"]}
        self.app = Starlette(
            routes=[
                Route("/api/agents", self._guarded(self.agents)),
                Route("/api/agents/{agent}", self._guarded(self.agent)),
                Route("/api/approvals", self._guarded(self.approvals)),
                Route("/api/approvals/{item}/{verb}", self._guarded(self.decide), **post),
                Route("/session", self._guarded(self.create), **post),
                Route(one, self._guarded(self.retrieve)),
                Route(f"{one}/prompt_async", self._guarded(self.prompt), **post),
                Route(f"{one}/interrupt", self._guarded(self.interrupt), **post),
                Route("/v1/sessions/{id}/events", self._guarded(self.events)),
            ]
        )

    def _guarded(self, handler: Any) -> Any:
        async def guarded(request: Request) -> Response:
            self.headers.append(dict(request.headers))
            if self._key and request.headers.get("authorization") != f"Bearer {self._key}":
                return _error(401, "unauthorized")
            if request.path_params.get("id", "") not in ("", *self.sessions):
                return _error(404, "session not found")
            body = await request.body()
            if body:
                self.requests.append((request.url.path, json.loads(body)))
            answer: Response = await handler(request, json.loads(body) if body else {})
            return answer

        return guarded

    async def agents(self, request: Request, body: Any) -> Response:
        return JSONResponse({"agents": [AGENT]})

    async def agent(self, request: Request, body: Any) -> Response:
        known = request.path_params["agent"] == AGENT["id"]
        return JSONResponse(AGENT) if known else _error(404, "not found")

    async def create(self, request: Request, body: Any) -> Response:
        if body.get("agent_id") != AGENT["id"]:
            return _error(404, f"unknown agent: {body.get('agent_id')}")
        session = Session(next(self._numbers), body)
        self.sessions[session.id] = session
        return JSONResponse(session.as_json())

    async def retrieve(self, request: Request, body: Any) -> Response:
        return JSONResponse(self.sessions[request.path_params["id"]].as_json())

    async def events(self, request: Request, body: Any) -> Response:
        return JSONResponse({"data": self.sessions[request.path_params["id"]].events})

    async def prompt(self, request: Request, body: Any) -> Response:
        if not (body.get("model") or {}).get("modelID", "").strip():
            return _error(400, "missing model")
        text = "\n".join(part["text"] for part in body["parts"] if part["type"] == "text")
        return await self._run(self.sessions[request.path_params["id"]], text)

    async def _run(self, session: Session, text: str) -> Response:
        """The prompt goes to the runtime, which works on when the caller is gone."""
        if text.startswith("refused"):
            words = "managed agent provider request failed with status 429: slow down"
            return _error(502, words)
        session.said.append(text)
        session.emit("user.message", content=[{"type": "text", "text": text}])
        session.task = asyncio.ensure_future(self._work(session, text))
        await asyncio.wait([session.task])
        return Response(status_code=204)

    async def interrupt(self, request: Request, body: Any) -> Response:
        session = self.sessions[request.path_params["id"]]
        if session.task is not None and not session.task.done():
            session.task.cancel()
            self.cancelled.append(session.id)
            session.emit("user.interrupt")
            session.emit("session.status_idle", stop_reason={"type": "end_turn"})
        return Response(status_code=204)

    async def approvals(self, request: Request, body: Any) -> Response:
        pending = [item for item in self.inbox.values() if item["status"] == "pending"]
        return JSONResponse({"approvals": pending})

    async def decide(self, request: Request, body: Any) -> Response:
        item = self.inbox[request.path_params["item"]]
        live = item["status"] == "pending"
        accepted = request.path_params["verb"] == "accept"
        if live:
            item["status"] = "accepted" if accepted else "rejected"
            item["feedback"] = body.get("feedback") or item["feedback"]
            if accepted and body.get("arguments") is not None:
                item["args_json"] = json.dumps(body["arguments"])
        await asyncio.sleep(3 * PAUSE)  # The session rests between two decisions.
        said = item["args_json"] if accepted else item["feedback"] or "No feedback provided."
        await self._run(self.sessions[item["session_id"]], f"Human {item['status']} {said}")
        return JSONResponse({"ok": True, "live": live})

    # What the agent does

    async def _work(self, session: Session, text: str) -> None:
        session.emit("session.status_running")
        await asyncio.sleep(0)
        skill, _, rest = text.partition(" ")
        do = getattr(self, f"_do_{skill}", None)
        if do is None:
            session.say(text)
        elif await do(session, rest) is not None:
            return
        session.emit("session.status_idle", stop_reason={"type": "end_turn"})

    async def _do_slow(self, session: Session, rest: str) -> None:
        for n in range(int(rest)):
            session.say(f"chunk {n + 1} of {rest}\n")
            await asyncio.sleep(PAUSE)

    async def _do_recall(self, session: Session, rest: str) -> None:
        kept = [text.partition(" ")[2] for text in session.said if text.startswith("remember ")]
        session.say("; ".join(kept) or "nothing yet")

    async def _do_ask(self, session: Session, rest: str) -> None:
        for path in rest.split():
            number = next(self._numbers)
            self.inbox[f"inb_{number}"] = {
                "id": f"inb_{number}",
                "kind": "approval",
                "title": f"Delete {path}?",
                "session_id": session.id,
                "agent": "words",
                "body": "It is not needed.",
                "args_json": json.dumps({"path": path}),
                "status": "pending",
                "feedback": None,
                "created_at": number,
                "resolved_at": None,
            }
        session.say("asked")

    async def _do_Human(self, session: Session, rest: str) -> None:  # noqa: N802
        verdict, _, said = rest.partition(" ")
        session.say(f"{'allowed' if verdict == 'accepted' else 'denied'}: {said}")

    async def _do_tool(self, session: Session, rest: str) -> None:
        session.emit("agent.thinking")
        session.emit("agent.tool_use", id="tu_1", name="search", input={"q": "x"})
        found = [{"type": "text", "text": "found it"}]
        session.emit("agent.tool_result", tool_use_id="tu_1", content=found)
        session.emit("agent.dreamt", of="sheep")
        session.say("used a tool")

    async def _do_wait(self, session: Session, rest: str) -> bool:
        session.emit("session.status_idle", stop_reason={"type": "requires_action"})
        return True

    async def _do_quiet(self, session: Session, rest: str) -> bool:
        """A runtime that tells its platform nothing of its end."""
        session.say("said and done")
        return True

    async def _do_big(self, session: Session, rest: str) -> None:
        session.say("x" * int(rest))

    async def _do_fail(self, session: Session, rest: str) -> bool:
        session.say("It began well.")
        session.emit("session.error", error={"message": rest})
        return True


def _error(status: int, message: str) -> Response:
    error = {"type": "gateway_error", "message": message}
    return JSONResponse({"error": error}, status_code=status)
