"""A Claude Managed Agents service made of the official `anthropic` SDK's types: requests are held
to its parameters, answers and events are its models.  What the agent does is in `claude_agent.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from anthropic.types.beta import (
    BetaEnvironment,
    BetaFileMetadata,
    BetaManagedAgentsAgent,
    BetaManagedAgentsSession,
    file_list_params,
    session_create_params,
)
from anthropic.types.beta.sessions import (
    BetaManagedAgentsSendSessionEvents,
    event_send_params,
    resource_add_params,
)
from anthropic.types.beta.sessions.beta_managed_agents_stream_session_events import (
    BetaManagedAgentsStreamSessionEvents,
)
from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.runtimes.claude_agent import work
from tests.runtimes.typed import checked

PAUSE = 0.02
VERSION = "2026-10-21"
BETA = "managed-agents-2026-04-01"
_EVENT: TypeAdapter[Any] = TypeAdapter(BetaManagedAgentsStreamSessionEvents)
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
AGENT = {
    "id": "agent_words",
    "type": "agent",
    "name": "Words",
    "description": "Says the words again.",
    "version": 3,
    "model": {"id": "claude-opus-4-7"},
    "mcp_servers": [],
    "metadata": {},
    "skills": [],
    "tools": [],
    "system": None,
    "execution_identity": {"type": "service_account"},
    "created_at": _BEGAN,
    "updated_at": _BEGAN,
}


class Session:
    """Its events, what is shown only live, and who listens."""

    def __init__(self, number: int, server: Server, body: dict[str, Any]) -> None:
        self.server = server
        self.number = number
        self.body = body
        self.id = f"sesn_{number}"
        self.status = "idle"
        self.events: list[dict[str, Any]] = []
        self.listeners: list[asyncio.Queue[dict[str, Any] | None]] = []
        self.task: asyncio.Task[None] | None = None
        self.waiting: dict[str, str] = {}
        self.resources: list[dict[str, Any]] = list(body.get("resources", []))
        self.used = [0, 0]
        self._ids = itertools.count(1)

    def new_id(self) -> str:
        return f"sevt_{self.number}_{next(self._ids)}"

    def emit(
        self, kind: str, *, processed: bool = True, event_id: str = "", **fields: Any
    ) -> dict[str, Any]:
        """An event of this type, in the history and on every open stream."""
        at = self.server.tick().isoformat() if processed else None
        made = {"type": kind, "id": event_id or self.new_id(), "processed_at": at, **fields}
        shown: dict[str, Any] = _EVENT.validate_python(made).model_dump(mode="json")
        self.events.append(shown)
        self.show(shown)
        return shown

    def show(self, event: dict[str, Any] | None) -> None:
        for queue in self.listeners:
            queue.put_nowait(event)

    def preview(self, message_id: str, kind: str = "agent.message", text: str = "") -> None:
        made: dict[str, Any] = {"type": "event_start", "event": {"type": kind, "id": message_id}}
        if text:
            content = {"type": "text", "text": text}
            delta = {"type": "content_delta", "index": 0, "content": content}
            made = {"type": "event_delta", "event_id": message_id, "delta": delta}
        _EVENT.validate_python(made)
        self.show(made)

    def idle(self, reason: str = "end_turn", **fields: Any) -> None:
        self.status = "idle"
        self.used = [self.used[0] + 7, self.used[1] + 11]
        stop = {"type": reason, **({"event_ids": list(self.waiting)} if self.waiting else {})}
        self.emit("session.status_idle", stop_reason=stop, **fields)

    def say(self, text: str) -> None:
        self.emit("agent.message", content=[{"type": "text", "text": text}])

    def as_json(self) -> Any:
        used = {
            "input_tokens": self.used[0],
            "output_tokens": self.used[1],
            "cache_read_input_tokens": 2,
            "list_cost": {"amount": str(self.used[0]), "currency": "USD"},
        }
        fields = {
            "id": self.id,
            "type": "session",
            "status": self.status,
            "agent": AGENT,
            "environment_id": self.body["environment_id"],
            "metadata": self.body.get("metadata", {}),
            "outcome_evaluations": [],
            "resources": [],
            "stats": {},
            "usage": used,
            "vault_ids": self.body.get("vault_ids", []),
            "created_at": _BEGAN,
            "updated_at": _BEGAN,
        }
        return BetaManagedAgentsSession.model_validate(fields).model_dump(mode="json")


class Server:
    """The application and its memory."""

    def __init__(self, *, key: str | None = None) -> None:
        self.sessions: dict[str, Session] = {}
        self.files: dict[str, tuple[dict[str, Any], bytes]] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.uploads: list[bytes] = []
        self.cancelled: list[str] = []
        self.broken = ""
        """Posts to paths that end so are answered with 500."""
        self._key = key
        self._numbers = itertools.count(1)
        self._now = _BEGAN
        session = "/v1/sessions/{id}"
        self.app = Starlette(
            routes=[
                Route("/v1/agents", self._guarded(self.agents)),
                Route("/v1/environments/{id}", self._guarded(self.environment)),
                Route("/v1/sessions", self._guarded(self.create), methods=["POST"]),
                Route(session, self._guarded(self.retrieve)),
                Route(f"{session}/events", self._guarded(self.send), methods=["POST"]),
                Route(f"{session}/events", self._guarded(self.history)),
                Route(f"{session}/events/stream", self._guarded(self.stream)),
                Route(f"{session}/resources", self._guarded(self.mount), methods=["POST"]),
                Route("/v1/files", self._guarded(self.upload), methods=["POST"]),
                Route("/v1/files", self._guarded(self.listed)),
                Route("/v1/files/{id}/content", self._guarded(self.content)),
            ]
        )

    def tick(self) -> datetime:
        self._now += timedelta(milliseconds=1)
        return self._now

    def _guarded(self, handler: Any) -> Any:
        async def guarded(request: Request) -> Response:
            self.headers.append(dict(request.headers))
            bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
            if self._key and request.headers.get("x-api-key", bearer) != self._key:
                return _error(401, "authentication_error", "invalid API key")
            if self.broken and request.method == "POST" and request.url.path.endswith(self.broken):
                return _error(500, "api_error", "out of ink")
            beta = request.headers.get("anthropic-beta", "")
            if request.headers.get("anthropic-version") != VERSION:
                return _error(400, "invalid_request_error", "anthropic-version: header is required")
            if BETA not in beta and "/files" not in request.url.path:
                return _error(400, "invalid_request_error", f"anthropic-beta: {BETA} is required")
            if "id" in request.path_params and not self._known(request.path_params["id"]):
                return _error(404, "not_found_error", f"{request.path_params['id']} not found")
            try:
                answer: Response = await handler(request)
            except ValidationError as exc:
                return _error(400, "invalid_request_error", str(exc.errors()[0]["msg"]))
            return answer

        return guarded

    def _known(self, given: str) -> bool:
        return given in self.sessions or given in self.files or given == "env_1"

    async def _body(self, request: Request, params: Any) -> dict[str, Any]:
        body = json.loads(await request.body())
        checked(params, body)
        self.requests.append((request.url.path, body))
        return body  # type: ignore[no-any-return]

    async def agents(self, request: Request) -> Response:
        """A page of nothing first: cursors have to be followed."""
        agent = BetaManagedAgentsAgent.model_validate(AGENT).model_dump(mode="json")
        if request.query_params.get("page") == "page_2":
            return JSONResponse({"data": [agent], "next_page": None})
        old = {**agent, "id": "agent_old", "archived_at": _BEGAN.isoformat()}
        return JSONResponse({"data": [old], "next_page": "page_2"})

    async def environment(self, request: Request) -> Response:
        at = _BEGAN.isoformat()
        networking, packages = {"type": "unrestricted"}, {"type": "packages"}
        lists = dict.fromkeys(("apt", "cargo", "gem", "go", "npm", "pip"), [])
        config = {"type": "cloud", "networking": networking, "packages": {**packages, **lists}}
        fields = {"id": "env_1", "type": "environment", "name": "default", "config": config}
        dates = {"created_at": at, "updated_at": at, "metadata": {}, "description": None}
        made = BetaEnvironment.model_validate({**fields, **dates})
        return JSONResponse(made.model_dump(mode="json"))

    async def create(self, request: Request) -> Response:
        body = await self._body(request, session_create_params.SessionCreateParams)
        if body["environment_id"] != "env_1" or body["agent"] != "agent_words":
            return _error(404, "not_found_error", "no such agent or environment")
        session = Session(next(self._numbers), self, body)
        self.sessions[session.id] = session
        return JSONResponse(session.as_json())

    async def retrieve(self, request: Request) -> Response:
        return JSONResponse(self.sessions[request.path_params["id"]].as_json())

    async def mount(self, request: Request) -> Response:
        body = await self._body(request, resource_add_params.ResourceAddParams)
        self.sessions[request.path_params["id"]].resources.append(body)
        return JSONResponse({"id": "sesrsc_1", **body})

    async def history(self, request: Request) -> Response:
        """Two events a page, so that pages have to be followed."""
        events = list(self.sessions[request.path_params["id"]].events)
        if request.query_params.get("order") == "desc":
            events.reverse()
        size = min(int(request.query_params.get("limit", 1000)), 2)
        at = int(request.query_params.get("page", "page_0").removeprefix("page_"))
        following = f"page_{at + size}" if at + size < len(events) else None
        return JSONResponse({"data": events[at : at + size], "next_page": following})

    async def stream(self, request: Request) -> Response:
        session = self.sessions[request.path_params["id"]]
        wanted = request.query_params.getlist("event_deltas[]")
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        session.listeners.append(queue)

        async def sent() -> AsyncIterator[str]:
            try:
                yield "event: ping\ndata: {}\n\n"
                while (event := await queue.get()) is not None:
                    if wanted or not event["type"].startswith("event_"):
                        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
            finally:
                session.listeners.remove(queue)

        return StreamingResponse(sent(), media_type="text/event-stream")

    async def send(self, request: Request) -> Response:
        body = await self._body(request, event_send_params.EventSendParams)
        session = self.sessions[request.path_params["id"]]
        if session.status == "terminated":
            return _error(400, "invalid_request_error", "session is terminated")
        taken = []
        for event in body["events"]:
            shown = session.emit(event["type"], processed=False, **_fields(event))
            taken.append(shown)
            self._take(session, shown)
        sent = BetaManagedAgentsSendSessionEvents.model_validate({"data": taken})
        return JSONResponse(sent.model_dump(mode="json"), headers={"request-id": "req_1"})

    def _take(self, session: Session, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "user.interrupt":
            if session.task is not None and not session.task.done():
                session.task.cancel()
                self.cancelled.append(session.id)
                session.idle()
            return
        if kind in ("user.tool_confirmation", "user.custom_tool_result"):
            asked = event.get("tool_use_id") or event.get("custom_tool_use_id")
            name = session.waiting.pop(str(asked), None)
            if name is None or session.waiting:
                session.idle("requires_action" if session.waiting else "end_turn")
                return
        session.status = "running"
        session.task = asyncio.ensure_future(work(session, event))

    async def upload(self, request: Request) -> Response:
        async with request.form() as form:
            part: Any = form["file"]
            data = await part.read()
        made = self.file(part.filename, data, part.content_type, downloadable=False)
        self.uploads.append(data)
        return JSONResponse(made)

    def file(self, name: str, data: bytes, kind: str, **fields: Any) -> dict[str, Any]:
        file_id = f"file_{len(self.files) + 1}"
        made = {
            "id": file_id,
            "type": "file",
            "filename": name,
            "mime_type": kind,
            "size_bytes": len(data),
            "created_at": self.tick(),
            **fields,
        }
        shown = BetaFileMetadata.model_validate(made).model_dump(mode="json")
        self.files[file_id] = (shown, data)
        return shown

    async def listed(self, request: Request) -> Response:
        checked(file_list_params.FileListParams, {**request.query_params, "limit": 1})
        scope = request.query_params["scope_id"]
        found = [f for f, _ in self.files.values() if (f.get("scope") or {}).get("id") == scope]
        return JSONResponse({"data": found, "next_page": None})

    async def content(self, request: Request) -> Response:
        file, data = self.files[request.path_params["id"]]
        if file["downloadable"] is False:
            return _error(400, "invalid_request_error", "file is not downloadable")
        return Response(data, media_type=file["mime_type"])


def _error(status: int, kind: str, message: str) -> Response:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_9"}
    return JSONResponse(body, status_code=status, headers={"request-id": "req_9"})


def _fields(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "type"}
