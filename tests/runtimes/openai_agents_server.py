"""An OpenAI Agents service made of the official `openai` SDK's types: requests are held to its
parameters, answers and events are its models.  What the agent does is in `openai_agents_agent.py`.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

from openai.types.beta import Agent, AgentSession, AgentSessionEvent, AgentSessionItem
from openai.types.beta.agents import session_create_params
from openai.types.beta.agents.environments import EnvironmentFile, file_create_params
from openai.types.beta.agents.sessions import SessionArtifact, Turn, event_create_params
from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.runtimes.openai_agents_agent import work
from tests.runtimes.typed import checked

BETA = "agents=v1"
_EVENT: TypeAdapter[Any] = TypeAdapter(AgentSessionEvent)
_ITEM: TypeAdapter[Any] = TypeAdapter(AgentSessionItem)
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}}
AGENT = {
    "id": "agent_words",
    "name": "Words",
    "instructions": None,
    "model": "words",
    "multi_agent": {"enabled": False},
    "reasoning": {},
    "service_tier": "auto",
    "text": {"format": {"type": "json_schema", "schema": SCHEMA}, "verbosity": "medium"},
    "tools": [],
}
_EMPTY_HOSTED: dict[str, Any] = {
    "id": "env_1",
    "type": "openai_hosted",
    "capability_directories": [],
    "files": [],
    "network": {"access": "disabled", "allowed_domains": []},
    "packages": {"npm": [], "python": [], "system": []},
    "plugins": [],
    "skills": [],
}


class Session:
    """Its items, its turns, and who listens."""

    def __init__(self, number: int, server: Server, body: dict[str, Any]) -> None:
        self.server = server
        self.body = body
        self.id = f"agsess_{number}"
        self.status = "idle"
        self.items: list[dict[str, Any]] = []
        self.turns: list[dict[str, Any]] = []
        self.artifacts: list[dict[str, Any]] = []
        self.actions: list[dict[str, Any]] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.answered = asyncio.Event()
        self.listeners: list[asyncio.Queue[dict[str, Any] | None]] = []
        self.task: asyncio.Task[None] | None = None
        self.cents = 0

    def emit(self, kind: str, **fields: Any) -> None:
        made = {"type": kind, "event_id": f"event_{next(self.server.numbers)}", **fields}
        shown = _EVENT.validate_python(made).model_dump(mode="json", by_alias=True)
        for queue in self.listeners:
            queue.put_nowait(shown)

    def emit_turn(self, kind: str, **fields: Any) -> None:
        about = {"session_id": self.id, "turn_id": self.turn["id"]}
        self.emit(f"agent.session.turn.{kind}", **about, **fields)

    def rest(self, status: str) -> None:
        self.status = status
        self.emit(f"agent.session.{status}", session=self.as_json())

    @property
    def turn(self) -> dict[str, Any]:
        return self.turns[-1]

    def begin(self) -> None:
        number = next(self.server.numbers)
        turn = {
            "id": f"turn_{number}",
            "agent_id": "agent_words",
            "created_at": number,
            "object": "agent.session.turn",
            "session_id": self.id,
            "status": "in_progress",
        }
        self.turns.append(turn)
        self.status = "in_progress"
        self.emit_turn("created", turn=turn)
        self.emit("agent.session.in_progress", session=self.as_json())

    def close(self, status: str, error: dict[str, Any] | None = None) -> None:
        """The end of a turn, however it came to it."""
        counts = {"input_tokens": 7, "output_tokens": 11, "total_tokens": 18}
        details = {
            "input_tokens_details": {"cached_tokens": 1},
            "output_tokens_details": {"reasoning_tokens": 3},
        }
        self.turn.update(status=status, usage={**counts, **details}, error=error)
        self.cents += 7
        self.actions = []
        shown = Turn.model_validate(self.turn).model_dump(mode="json")
        self.emit_turn(status, turn=shown, usage=shown["usage"])

    def item(self, **fields: Any) -> dict[str, Any]:
        """An item in the list, and shown as done."""
        given = {"id": f"item_{next(self.server.numbers)}", "turn_id": self.turn["id"], **fields}
        shown: dict[str, Any] = _ITEM.validate_python(given).model_dump(mode="json")
        self.items.append(shown)
        if shown.get("role") != "user" and shown["type"] != "function_call_output":
            self.emit_turn("item.done", item=shown, output_index=len(self.items))
        return shown

    def as_json(self) -> Any:
        wanted = self.body["environment"]
        environment = _EMPTY_HOSTED if wanted["type"] == "openai_hosted" else {"type": "none"}
        fields = {
            "id": self.id,
            "object": "agent.session",
            "agent": {**AGENT, **self.body.get("agent", {})},
            "created_at": 1,
            "last_active_at": 1,
            "environment": environment,
            "metadata": self.body.get("metadata") or {},
            "required_actions": self.actions,
            "status": self.status,
            "vault_ids": self.body.get("vault_ids") or [],
            "spend_control": {"limit": None, "consumed": self.cents},
        }
        return AgentSession.model_validate(fields).model_dump(mode="json", by_alias=True)


class Server:
    """The application and its memory."""

    def __init__(self, *, key: str | None = None) -> None:
        self.sessions: dict[str, Session] = {}
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled: list[str] = []
        self.numbers = itertools.count(1)
        self._key = key
        one = "/v1/agents/sessions/{id}"
        post = {"methods": ["POST"]}
        self.app = Starlette(
            routes=[
                Route("/v1/agents", self._guarded(self.agents)),
                Route("/v1/agents/sessions", self._guarded(self.create), **post),
                Route(one, self._guarded(self.retrieve)),
                Route(f"{one}/events", self._guarded(self.send), **post),
                Route(f"{one}/events", self._guarded(self.stream)),
                Route(f"{one}/items", self._guarded(self.items)),
                Route(f"{one}/turns", self._guarded(self.turns)),
                Route(f"{one}/artifacts", self._guarded(self.artifacts)),
                Route(f"{one}/artifacts/{{file}}/content", self._guarded(self.content)),
                Route("/v1/agents/environments/{env}/files", self._guarded(self.put), **post),
            ]
        )

    def _guarded(self, handler: Any) -> Any:
        async def guarded(request: Request) -> Response:
            self.headers.append(dict(request.headers))
            if self._key and request.headers.get("authorization") != f"Bearer {self._key}":
                return _error(401, "invalid_api_key", "Incorrect API key provided")
            if request.headers.get("openai-beta") != BETA:
                return _error(400, "invalid_beta", "OpenAI-Beta: agents=v1 is required")
            if request.path_params.get("id", "") not in ("", *self.sessions):
                return _error(404, "not_found", f"No session {request.path_params['id']!r}")
            try:
                answer: Response = await handler(request)
            except ValidationError as exc:
                return _error(400, "invalid_request", str(exc.errors()[0]["msg"]))
            return answer

        return guarded

    async def _body(self, request: Request, params: Any) -> dict[str, Any]:
        body = json.loads(await request.body())
        checked(params, body)
        self.requests.append((request.url.path, body))
        return body  # type: ignore[no-any-return]

    async def agents(self, request: Request) -> Response:
        about = {"object": "agent", "created_at": 1, "updated_at": 1}
        metadata = {"description": "Says the words again."}
        agent = Agent.model_validate({**AGENT, **about, "metadata": metadata})
        return _page(request, [agent.model_dump(mode="json", by_alias=True)])

    async def create(self, request: Request) -> Response:
        body = await self._body(request, session_create_params.SessionCreateParams)
        if body.get("agent_id") not in (None, "agent_words"):
            return _error(404, "not_found", f"No agent {body['agent_id']!r}")
        if body["environment"]["type"] == "none" and not body.get("input"):
            return _error(400, "invalid_request", "input is required")
        session = Session(next(self.numbers), self, body)
        self.sessions[session.id] = session
        for file in body["environment"].get("files") or []:
            self.files[file["path"]] = base64.b64decode(file["data"])
        if not body.get("stream"):
            if body.get("input"):
                self._say(session, body["input"])
            return JSONResponse(session.as_json())
        answer = self._listen(session, ends=True)
        session.emit("agent.session.created", session=session.as_json())
        self._say(session, body["input"])
        return answer

    def _say(self, session: Session, given: Any) -> None:
        messages = given if isinstance(given, list) else [{"content": [_text(given)]}]
        session.begin()
        for message in messages:
            session.item(
                type="message", role="user", status="completed", content=message["content"]
            )
        session.task = asyncio.ensure_future(work(session, messages[-1]["content"][0]["text"]))

    async def retrieve(self, request: Request) -> Response:
        return JSONResponse(self.sessions[request.path_params["id"]].as_json())

    async def send(self, request: Request) -> Response:
        body = await self._body(request, event_create_params.EventCreateParams)
        session = self.sessions[request.path_params["id"]]
        for event in body["events"]:
            refused = self._take(session, event)
            if refused is not None:
                return refused
        return Response(status_code=202)

    def _take(self, session: Session, event: dict[str, Any]) -> Response | None:
        kind = event["type"].removeprefix("agent.session.input.")
        if kind == "message":
            if session.status != "idle":
                return _error(409, "active_turn_not_steerable", f"session is {session.status}")
            self._say(session, event["input"])
        elif kind == "cancel":
            if session.status not in ("in_progress", "requires_action"):
                return _error(409, "no_active_turn", "session has no active turn")
            self._cancel(session)
        else:
            asked = event.get("request_id") or event["call_id"]
            known = [a for a in session.actions if asked in (a.get("call_id"), a.get("request_id"))]
            if not known:
                return _error(400, "invalid_request", f"nothing is asked as {asked!r}")
            session.actions.remove(known[0])
            session.answers[asked] = event
            if session.actions:
                session.rest("requires_action")
            else:
                session.status = "in_progress"
                session.answered.set()
        return None

    def _cancel(self, session: Session) -> None:
        assert session.task is not None
        session.task.cancel()
        self.cancelled.append(session.id)
        session.close("cancelled")
        session.rest("idle")

    async def stream(self, request: Request) -> Response:
        return self._listen(self.sessions[request.path_params["id"]], ends=False)

    def _listen(self, session: Session, *, ends: bool) -> Response:
        """The live stream; that of a creation ends with the first rest."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        session.listeners.append(queue)

        async def sent() -> AsyncIterator[str]:
            try:
                yield ": connected\n\n"
                while (event := await queue.get()) is not None:
                    yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
                    if ends and event["type"] in ("agent.session.idle", "agent.session.failed"):
                        return
            finally:
                session.listeners.remove(queue)

        return StreamingResponse(sent(), media_type="text/event-stream")

    async def items(self, request: Request) -> Response:
        return _page(request, self.sessions[request.path_params["id"]].items)

    async def turns(self, request: Request) -> Response:
        turns = self.sessions[request.path_params["id"]].turns
        return _page(request, [Turn.model_validate(t).model_dump(mode="json") for t in turns])

    async def artifacts(self, request: Request) -> Response:
        return _page(request, self.sessions[request.path_params["id"]].artifacts)

    def artifact(self, session: Session, path: str, data: bytes) -> None:
        made = {
            "id": f"artifact_{next(self.numbers)}",
            "object": "agent.session.artifact",
            "created_at": 1,
            "environment_id": "env_1",
            "path": path,
            "session_id": session.id,
            "size_bytes": len(data),
            "turn_id": session.turn["id"],
        }
        session.artifacts.append(SessionArtifact.model_validate(made).model_dump(mode="json"))
        self.files[str(made["id"])] = data

    async def content(self, request: Request) -> Response:
        data = self.files[request.path_params["file"]]
        return Response(data, media_type="application/octet-stream")

    async def put(self, request: Request) -> Response:
        body = await self._body(request, file_create_params.FileCreateParams)
        data = base64.b64decode(body["data"])
        self.files[body["path"]] = data
        about = {"environment_id": "env_1", "object": "agent.environment.file"}
        made = {**about, "path": body["path"], "size_bytes": len(data)}
        return JSONResponse(EnvironmentFile.model_validate(made).model_dump(mode="json"))


def _page(request: Request, listed: list[dict[str, Any]]) -> Response:
    """Two a page, so that pages have to be followed."""
    found = list(listed)
    if request.query_params.get("order", "desc") == "desc":
        found.reverse()
    if after := request.query_params.get("after"):
        ids = [each["id"] for each in found]
        found = found[ids.index(after) + 1 :]
    size = min(2, int(request.query_params.get("limit", 20)))
    return JSONResponse({"data": found[:size], "has_more": len(found) > size, "object": "list"})


def _text(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": text}


def _error(status: int, code: str, message: str) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    headers = {"x-request-id": "req_9"}
    return JSONResponse({"error": error}, status_code=status, headers=headers)
