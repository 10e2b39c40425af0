"""A Gemini API made of the official `google-genai` SDK: its models hold every request, answer and
event.  The prompt's first word says what the agent does.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

from google.genai import interactions
from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.runtimes.typed import checked

PAUSE = 0.02
_EVENT: TypeAdapter[Any] = TypeAdapter(interactions.InteractionSSEEvent)
_USAGE = {"total_input_tokens": 7, "total_output_tokens": 11, "total_thought_tokens": 3}
_PICTURE = base64.b64encode(b"content of a picture").decode()


class Interaction:
    """What it was asked, its steps, and its events so far."""

    def __init__(self, number: int, server: Server, body: dict[str, Any]) -> None:
        self.server = server
        self.body = body
        self.id = f"int_{number}"
        self.status = "in_progress"
        self.steps: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.errors: list[dict[str, str]] = []
        self.changed = asyncio.Condition()
        self.task: asyncio.Task[None] | None = None

    async def emit(self, kind: str, **fields: Any) -> None:
        event_id = f"{self.id}_{len(self.events)}"
        made = {"event_type": kind, "event_id": event_id, **fields}
        assert not getattr(_EVENT.validate_python(made), "is_unknown", False), made
        async with self.changed:
            self.events.append(made)
            self.changed.notify_all()

    def shown(self) -> dict[str, Any]:
        return {"id": self.id, "status": self.status}

    async def step(self, deltas: list[dict[str, Any]], pause: float = 0, **step: Any) -> None:
        index = len([s for s in self.steps if s["type"] != "function_result"])
        whole = dict(step)
        for delta in deltas:
            if delta["type"] == "text":
                whole.setdefault("content", [{"type": "text", "text": ""}])
                whole["content"][0]["text"] += delta["text"]
            elif delta["type"] == "image":
                whole.setdefault("content", []).append(delta)
            elif delta["type"] == "thought_summary":
                whole.setdefault("summary", []).append(delta["content"])
            elif delta["type"] == "arguments_delta":
                whole["arguments"] = json.loads(delta["arguments"])
            else:
                whole.update({k: v for k, v in delta.items() if k != "type"})
        await self.emit("step.start", index=index, step=step)
        for delta in deltas:
            await self.emit("step.delta", index=index, delta=delta)
            if pause:
                await asyncio.sleep(pause)
        self.steps.append(whole)
        await self.emit("step.stop", index=index)

    async def say(self, *words: str, pause: float = 0) -> None:
        deltas = [{"type": "text", "text": word} for word in words]
        await self.step(deltas, pause, type="model_output")

    async def rest(self, status: str) -> None:
        self.status = status
        await self.emit("interaction.completed", interaction={**self.shown(), "usage": _USAGE})

    def as_json(self) -> Any:
        fields = {**self.shown(), "agent": self.body["agent"], "steps": self.steps}
        fields |= {"usage": _USAGE, "errors": self.errors}
        if self.body.get("environment"):
            fields["environment_id"] = "env_1"
        made = interactions.Interaction.model_validate(fields)
        return made.model_dump(mode="json", exclude_none=True)


class Server:
    """The application and its memory."""

    def __init__(self, *, key: str | None = None) -> None:
        self.interactions: dict[str, Interaction] = {}
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled: list[str] = []
        self.forgetful = False
        """Streams cannot be had again."""
        self._key = key
        self._numbers = itertools.count(1)
        one, post = "/v1/interactions/{id}", {"methods": ["POST"]}
        self.app = Starlette(
            routes=[
                Route("/v1/agents", self._guarded(self.agents)),
                Route("/v1/interactions", self._guarded(self.create), **post),
                Route(one, self._guarded(self.retrieve)),
                Route(f"{one}/cancel", self._guarded(self.cancel), **post),
            ]
        )

    def _guarded(self, handler: Any) -> Any:
        async def guarded(request: Request) -> Response:
            self.headers.append(dict(request.headers))
            if self._key and request.headers.get("x-goog-api-key") != self._key:
                return _error(401, "UNAUTHENTICATED", "API key not valid")
            if request.path_params.get("id", "") not in ("", *self.interactions):
                return _error(404, "NOT_FOUND", "no such interaction")
            try:
                answer: Response = await handler(request)
            except ValidationError as exc:
                return _error(400, "INVALID_ARGUMENT", str(exc.errors()[0]["msg"]))
            return answer

        return guarded

    async def agents(self, request: Request) -> Response:
        """A page of nothing first: tokens have to be followed."""
        if not request.query_params.get("page_token"):
            return JSONResponse({"agents": [], "next_page_token": "more"})
        agent = {"id": "words", "description": "Says the words again.", "base_agent": "x"}
        return JSONResponse({"agents": [agent]})

    async def create(self, request: Request) -> Response:
        body = json.loads(await request.body())
        checked(interactions.CreateAgentInteraction, body)
        self.requests.append(body)
        if body["agent"] != "words":
            return _error(404, "NOT_FOUND", f"no agent {body['agent']}")
        if body.get("previous_interaction_id", "int_0") not in ("int_0", *self.interactions):
            return _error(404, "NOT_FOUND", "no such previous interaction")
        made = Interaction(next(self._numbers), self, body)
        self.interactions[made.id] = made
        made.task = asyncio.ensure_future(self._work(made))
        if body.get("stream"):
            return StreamingResponse(self._follow(made, 0), media_type="text/event-stream")
        await made.task
        return JSONResponse(made.as_json())

    async def retrieve(self, request: Request) -> Response:
        made = self.interactions[request.path_params["id"]]
        if request.query_params.get("stream") != "true":
            return JSONResponse(made.as_json())
        if self.forgetful:
            return _error(400, "FAILED_PRECONDITION", "the stream has expired")
        last = request.query_params.get("last_event_id", "")
        place = int(last.rpartition("_")[2]) + 1 if last else 0
        return StreamingResponse(self._follow(made, place), media_type="text/event-stream")

    async def _follow(self, made: Interaction, place: int) -> AsyncIterator[str]:
        while True:
            async with made.changed:
                while place >= len(made.events) and made.status == "in_progress":
                    await made.changed.wait()
                fresh = made.events[place:]
            for event in fresh:
                yield f"event: {event['event_type']}\ndata: {json.dumps(event)}\n\n"
            place += len(fresh)
            if not fresh:
                return

    async def cancel(self, request: Request) -> Response:
        made = self.interactions[request.path_params["id"]]
        if made.status != "in_progress":
            return _error(400, "FAILED_PRECONDITION", f"the interaction is {made.status}")
        assert made.task is not None
        made.task.cancel()
        self.cancelled.append(made.id)
        made.status = "cancelled"
        await made.emit(
            "interaction.status_update", interaction_id=made.id, status="cancelled", usage=_USAGE
        )
        return JSONResponse(made.as_json())

    # What the agent does

    async def _work(self, made: Interaction) -> None:
        await made.emit("interaction.created", interaction=made.shown())
        given = made.body["input"]
        if isinstance(given, list) and given[0]["type"] == "function_result":
            results = [f"{'failed: ' * bool(r.get('is_error'))}{r['result']}" for r in given]
            await made.say(f"you said: {'; '.join(results)}")
        else:
            skill, _, rest = _said(given).partition(" ")
            do = getattr(self, f"_do_{skill}", None)
            if do is not None:
                if await do(made, rest) is not None:
                    return
            else:
                await made.say(skill, *([f" {rest}"] if rest else []))
        await made.rest("completed")

    async def _do_slow(self, made: Interaction, rest: str) -> None:
        await made.say("first ")
        chunks = [f"chunk {n + 1} of {rest}\n" for n in range(int(rest))]
        await made.say(*chunks, pause=PAUSE)

    async def _do_recall(self, made: Interaction, rest: str) -> None:
        notes: list[str] = []
        before = made.body.get("previous_interaction_id")
        while before:
            earlier = self.interactions[before].body
            skill, _, kept = _said(earlier["input"]).partition(" ")
            notes += [kept] if skill == "remember" else []
            before = earlier.get("previous_interaction_id")
        await made.say("; ".join(notes) or "nothing yet")

    async def _do_ask(self, made: Interaction, rest: str) -> bool:
        for number, name in enumerate(rest.split() or ["lookup"]):
            about = {"id": f"call_{made.id}_{number}", "name": name, "arguments": {}}
            pieces = [{"type": "arguments_delta", "arguments": '{"key": 1}'}]
            await made.step(pieces, type="function_call", **about)
        await made.rest("requires_action")
        return True

    async def _do_tool(self, made: Interaction, rest: str) -> None:
        thought = {"type": "thought_summary", "content": {"type": "text", "text": "thinking"}}
        await made.step([thought], type="thought")
        call = {"id": "c1", "name": "search", "server_name": "web", "arguments": {"q": "x"}}
        await made.step([], type="mcp_server_tool_call", **call)
        await made.step([], type="mcp_server_tool_result", call_id="c1", result="found it")
        code = {"language": "python", "code": "1/0"}
        await made.step([], type="code_execution_call", id="c2", arguments=code)
        result = {"call_id": "c2", "result": "ZeroDivisionError", "is_error": True}
        await made.step([], type="code_execution_result", **result)
        await made.say("used tools")

    async def _do_file(self, made: Interaction, rest: str) -> None:
        picture = {"type": "image", "mime_type": "image/png", "data": _PICTURE}
        await made.step([{"type": "text", "text": "here"}, picture], type="model_output")

    async def _do_link(self, made: Interaction, rest: str) -> None:
        kind = {"type": "image", "mime_type": "image/png"}
        await made.step([{**kind, "uri": uri} for uri in rest.split()], type="model_output")

    async def _do_big(self, made: Interaction, rest: str) -> None:
        await made.say("x" * int(rest))

    async def _do_fail(self, made: Interaction, rest: str) -> bool:
        await made.say("It began well.")
        made.errors = [{"code": "internal", "message": rest}]
        await made.rest("failed")
        return True

    async def _do_break(self, made: Interaction, rest: str) -> bool:
        """In the middle of a step, which is never finished."""
        index = len(made.steps)
        await made.emit("step.start", index=index, step={"type": "model_output"})
        delta = {"type": "text", "text": "It began well. "}
        await made.emit("step.delta", index=index, delta=delta)
        made.errors = [{"code": "resource_exhausted", "message": rest}]
        await made.rest("failed")
        return True

    async def _do_end(self, made: Interaction, rest: str) -> bool:
        await made.rest(rest)
        return True

    async def _do_odd(self, made: Interaction, rest: str) -> None:
        async with made.changed:
            made.events.append({"event_type": "interaction.dreamt", "event_id": f"{made.id}_1"})
            made.changed.notify_all()
        await made.step([{"type": "text", "text": "went on"}], type="model_output")


def _said(given: Any) -> str:
    if isinstance(given, str):
        return given
    return "".join(str(part.get("text", "")) for part in given)


def _error(status: int, code: str, message: str) -> Response:
    error = {"code": status, "status": code, "message": message}
    return JSONResponse({"error": error}, status_code=status)
