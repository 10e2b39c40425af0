"""A contract fake of Cursor's Cloud Agents API v1, made from its official OpenAPI document 1.0.0:
requests are validated against its schemas, and answers and events have its shapes.  No model: the
prompt's first word says what the agent does.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import jsonschema
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.runtimes.jobs import PAUSE, Job, Ledger, sse

_TEXT = {"type": "string", "minLength": 1}
_IMAGE = {
    "type": "object",
    "required": ["data", "mimeType"],
    "additionalProperties": False,
    "properties": {"data": _TEXT, "mimeType": _TEXT},
}
_PROMPT = {
    "type": "object",
    "required": ["text"],
    "properties": {
        "text": _TEXT,
        "images": {"type": "array", "maxItems": 5, "items": _IMAGE},
    },
}
_REPO = {
    "type": "object",
    "required": ["url"],
    "properties": {"url": _TEXT, "startingRef": _TEXT, "prUrl": _TEXT},
}
_ID = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
CREATE = {
    "type": "object",
    "required": ["prompt"],
    "additionalProperties": False,
    "properties": {
        "prompt": _PROMPT,
        "model": {"type": "object", "required": ["id"], "properties": {"id": _TEXT}},
        "name": _TEXT,
        "agentId": {"type": "string", "pattern": f"^bc-{_ID}"},
        "env": {"type": "object", "required": ["type"]},
        "repos": {"type": "array", "maxItems": 20, "items": _REPO},
        "autoCreatePR": {"type": "boolean"},
        "envVars": {"type": "object", "additionalProperties": _TEXT},
        "mcpServers": {"type": "array", "maxItems": 50},
        "customSubagents": {"type": "array", "maxItems": 20},
        "mode": {"enum": ["agent", "plan"]},
    },
    "not": {"required": ["agentId", "envVars"]},
}
RUN = {
    "type": "object",
    "required": ["prompt"],
    "additionalProperties": False,
    "properties": {"prompt": _PROMPT, "mcpServers": {}, "mode": {"enum": ["agent", "plan"]}},
}


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def error(status: int, code: str, message: str, **headers: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers=headers)


class Run(Job):
    def __init__(self, agent: Agent, number: int) -> None:
        super().__init__()
        self.agent = agent
        self.id = f"run-{number:012d}"
        self.created = now()
        self.result = ""
        self.said: list[str] = []

    @property
    def status(self) -> str:
        return self.outcome or "RUNNING"

    def shown(self) -> dict[str, Any]:
        run = {"id": self.id, "agentId": self.agent.id, "status": self.status}
        run |= {"createdAt": self.created, "updatedAt": now()}
        if self.outcome:
            run["durationMs"] = 1234
        if self.outcome and self.result:
            run["result"] = self.result
        return run

    async def event(self, name: str, data: Any) -> None:
        event_id = f"1713033005000-{len(self.frames)}"
        frame = sse(name, data, event_id=event_id)
        shape = {"type": name, "payload": data}
        await self.emit(frame + sse("interaction_update", shape, event_id=event_id))


class Agent:
    def __init__(self, agent_id: str, body: dict[str, Any]) -> None:
        self.id = agent_id
        self.body = body
        self.archived = False
        self.runs: list[Run] = []
        self.notes: list[str] = []
        self.artifacts: dict[str, tuple[str, bytes]] = {}
        self.branches: list[dict[str, str]] = []

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "status": "ARCHIVED" if self.archived else "ACTIVE",
            "env": {"type": "cloud"},
            "url": f"https://cursor.com/agents/{self.id}",
            "createdAt": self.runs[0].created,
            "updatedAt": now(),
            "latestRunId": self.runs[-1].id,
        }


class Server(Ledger):
    """The application and its memory.  `bucket` is where download links lead."""

    def __init__(self, *, token: str, bucket: str = "") -> None:
        super().__init__()
        self.agents: dict[str, Agent] = {}
        self.cancelled: list[str] = []
        self.expired = False
        """Streams are past their retention."""
        self.usage_enabled = True
        self.busy = False
        """No run can be cancelled, whatever it does."""
        self.bucket = bucket
        self.fetched: list[dict[str, str]] = []
        """Headers of each download from the bucket."""
        self._numbers = itertools.count(1)
        basic = base64.b64encode(f"{token}:".encode()).decode()
        self._allowed = (f"Bearer {token}", f"Basic {basic}")
        agent = "/v1/agents/{id}"
        self.app = Starlette(
            routes=[
                Route("/v1/me", self.me),
                Route("/v1/repositories", self.repositories),
                Route("/v1/agents", self.create, methods=["POST"]),
                Route(agent, self.get_agent),
                Route(f"{agent}/runs", self.follow_up, methods=["POST"]),
                Route(f"{agent}/runs/{{run}}", self.get_run),
                Route(f"{agent}/runs/{{run}}/stream", self.stream),
                Route(f"{agent}/runs/{{run}}/cancel", self.cancel, methods=["POST"]),
                Route(f"{agent}/usage", self.usage),
                Route(f"{agent}/artifacts", self.list_artifacts),
                Route(f"{agent}/artifacts/download", self.download),
                Route("/bucket/{path:path}", self.bytes_of),
            ]
        )

    async def _asked(self, request: Request) -> tuple[Any, Response | None]:
        body, instead = await self.note(request)
        if instead is not None:
            return body, instead
        if request.headers.get("authorization") not in self._allowed:
            return body, error(401, "unauthorized", "Invalid API key")
        return body, None

    async def me(self, request: Request) -> Response:
        _, refusal = await self._asked(request)
        info = {"apiKeyName": "test", "createdAt": now(), "userEmail": "a@example.com"}
        return refusal or JSONResponse(info)

    async def repositories(self, request: Request) -> Response:
        _, refusal = await self._asked(request)
        return refusal or JSONResponse({"items": [{"url": "https://github.com/acme/app"}]})

    async def create(self, request: Request) -> Response:
        body, refusal = await self._asked(request)
        if refusal := refusal or _invalid(body, CREATE):
            return refusal
        agent_id = body.get("agentId") or f"bc-00000000-0000-0000-0000-{next(self._numbers):012d}"
        if agent_id in self.agents:
            return error(409, "agent_id_conflict", "An agent with this id exists")
        agent = self.agents[agent_id] = Agent(agent_id, body)
        run = self._run(agent, body["prompt"])
        return JSONResponse({"agent": agent.shown(), "run": run.shown()}, 201)

    async def get_agent(self, request: Request) -> Response:
        _, refusal = await self._asked(request)
        agent = self.agents.get(request.path_params["id"])
        if agent is None:
            return refusal or error(404, "agent_not_found", "Agent not found")
        return refusal or JSONResponse(agent.shown())

    async def follow_up(self, request: Request) -> Response:
        body, refusal = await self._asked(request)
        agent = self.agents.get(request.path_params["id"])
        if refusal := refusal or _invalid(body, RUN):
            return refusal
        if agent is None:
            return error(404, "agent_not_found", "Agent not found")
        if agent.archived:
            return error(409, "agent_archived", "The agent is archived")
        if not agent.runs[-1].outcome:
            return error(409, "agent_busy", "The agent has an active run")
        return JSONResponse({"run": self._run(agent, body["prompt"]).shown()}, 201)

    def _run(self, agent: Agent, prompt: dict[str, Any]) -> Run:
        run = Run(agent, next(self._numbers))
        agent.runs.append(run)
        run.begin(self._work(run, prompt["text"]))
        return run

    def _found(self, request: Request) -> Run | None:
        agent = self.agents.get(request.path_params["id"])
        runs = agent.runs if agent else []
        return next((run for run in runs if run.id == request.path_params["run"]), None)

    async def get_run(self, request: Request) -> Response:
        _, refusal = await self._asked(request)
        run = self._found(request)
        if run is None:
            return refusal or error(404, "run_not_found", "Run not found")
        return refusal or JSONResponse(run.shown())

    async def stream(self, request: Request) -> Response:
        _, refusal = await self._asked(request)
        run = self._found(request)
        if refusal is not None or run is None:
            return refusal or error(404, "run_not_found", "Run not found")
        if self.expired:
            return error(410, "stream_expired", "The stream is no longer kept")
        last, position = request.headers.get("last-event-id", ""), 0
        if last:
            place = [n for n, frame in enumerate(run.frames) if f"id: {last}\n" in frame]
            if not place:
                return error(400, "invalid_last_event_id", "No such event in this run")
            position = place[-1] + 1
        headers = {"X-Cursor-Stream-Retention-Seconds": "3600"}
        return StreamingResponse(
            self._streamed(run, position), media_type="text/event-stream", headers=headers
        )

    async def _streamed(self, run: Run, position: int) -> AsyncIterator[str]:
        yield sse("status", {"runId": run.id, "status": run.status})
        yield sse("heartbeat", {})
        async for frame in run.follow(position):
            yield frame
        yield sse("done", {})

    async def cancel(self, request: Request) -> Response:
        _, refusal = await self._asked(request)
        run = self._found(request)
        if refusal is not None or run is None:
            return refusal or error(404, "run_not_found", "Run not found")
        if self.busy or not await run.cancel():
            return error(409, "run_not_cancellable", "The run cannot be cancelled now")
        self.cancelled.append(run.id)
        await self._ended(run, "CANCELLED")
        return JSONResponse({"id": run.id})

    async def usage(self, request: Request) -> Response:
        _, refusal = await self._asked(request)
        if not self.usage_enabled:
            return error(403, "feature_unavailable", "Usage is not enabled")
        counts = {"inputTokens": 7, "outputTokens": 11, "cacheWriteTokens": 1}
        counts |= {"cacheReadTokens": 2, "totalTokens": 21}
        run = {"id": request.query_params.get("runId"), "usage": counts}
        return refusal or JSONResponse({"totalUsage": counts, "runs": [run]})

    async def list_artifacts(self, request: Request) -> Response:
        _, refusal = await self._asked(request)
        made = self.agents[request.path_params["id"]].artifacts
        items = [
            {"path": path, "sizeBytes": len(data), "updatedAt": when}
            for path, (when, data) in made.items()
        ]
        return refusal or JSONResponse({"items": items})

    async def download(self, request: Request) -> Response:
        _, refusal = await self._asked(request)
        path = request.query_params["path"]
        agent = self.agents[request.path_params["id"]]
        if path not in agent.artifacts:
            return refusal or error(404, "artifact_not_found", "No such artifact")
        base = self.bucket or str(request.base_url).rstrip("/")
        url = f"{base}/bucket/{agent.id}/{path}?X-Amz-Signature=signed"
        return refusal or JSONResponse({"url": url, "expiresAt": now()})

    async def bytes_of(self, request: Request) -> Response:
        self.fetched.append(dict(request.headers))
        agent_id, _, path = request.path_params["path"].partition("/")
        return Response(self.agents[agent_id].artifacts[path][1], media_type="text/plain")

    # What it does

    async def _work(self, run: Run, text: str) -> None:
        skill, _, rest = text.partition(" ")
        do = getattr(self, f"_do_{skill}", None)
        await (do(run, rest) if do else self._say(run, text))
        if not run.outcome:
            await self._ended(run, "FINISHED")

    async def _ended(self, run: Run, status: str) -> None:
        run.result = "".join(run.said)
        result = {"runId": run.id, "status": status, "text": run.result, "durationMs": 1234}
        if run.agent.branches:
            result["git"] = {"branches": run.agent.branches}
        await run.event("result", result)
        await run.end(status)

    async def _say(self, run: Run, text: str, *, pause: float = 0) -> None:
        run.said.append(text)
        await run.event("assistant", {"text": text})
        if pause:
            await asyncio.sleep(pause)

    async def _do_slow(self, run: Run, rest: str) -> None:
        count = int(rest)
        await self._say(run, "first ")
        for number in range(count):
            await self._say(run, f"chunk {number + 1} of {count}\n", pause=PAUSE)

    async def _do_remember(self, run: Run, rest: str) -> None:
        run.agent.notes.append(rest)
        await self._say(run, "yes")

    async def _do_recall(self, run: Run, rest: str) -> None:
        await self._say(run, "; ".join(run.agent.notes) or "nothing yet")

    async def _do_big(self, run: Run, rest: str) -> None:
        await self._say(run, "x" * int(rest))

    async def _do_file(self, run: Run, rest: str) -> None:
        run.agent.artifacts[f"artifacts/{rest}"] = (now(), b"content of it")
        await self._say(run, "made a file")

    async def _do_push(self, run: Run, rest: str) -> None:
        branch = {"repoUrl": "github.com/acme/app", "branch": rest}
        run.agent.branches.append(branch)
        await self._say(run, "pushed")

    async def _do_tool(self, run: Run, rest: str) -> None:
        await run.event("thinking", {"text": "I should "})
        await run.event("thinking", {"text": "read it."})
        await self._say(run, "Reading.")
        call = {"callId": "call-1", "name": "read_file", "args": {"path": "README.md"}}
        await run.event("tool_call", {**call, "status": "running"})
        await run.event("future_event", {"shiny": True})
        result = {"success": {"content": "# Project"}}
        await run.event("tool_call", {**call, "status": "completed", "result": result})
        await self._say(run, "Done reading.")

    async def _do_fail(self, run: Run, rest: str) -> None:
        await run.event("assistant", {"text": "It began well. "})
        await run.event("error", {"code": "upstream_error", "message": rest})
        await self._ended(run, "ERROR")

    async def _do_vanish(self, run: Run, rest: str) -> None:
        """The stream is not to be had; the run goes on and says its result only in itself."""
        await run.event("error", {"code": "stream_unavailable", "message": "no longer available"})
        run.said.append(rest)
        run.result = rest
        await run.end("FINISHED")


def _invalid(body: Any, schema: dict[str, Any]) -> JSONResponse | None:
    try:
        jsonschema.validate(body, schema)
    except jsonschema.ValidationError as exc:
        return error(400, "validation_error", exc.message)
    return None
