"""A contract fake of Elastic Agent Builder, made from Kibana's sources (the route's schema of
`agent_builder/server/routes/chat.ts`, the events of `agent-builder-common/chat/events.ts`, its
examples): agents, streamed rounds, prompts, attachments, conversations.  No model: the input's
first word says what the agent does.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import jsonschema
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.runtimes.jobs import PAUSE, Job, Ledger, sse

_ATTACHMENT = {
    "type": "object",
    "required": ["type", "data"],
    "additionalProperties": False,
    "properties": {"id": {}, "type": {"const": "text"}, "data": {"type": "object"}, "hidden": {}},
}
_PROMPT = {
    "oneOf": [
        {"required": ["allow"], "properties": {"allow": {"type": "boolean"}}},
        {"required": ["authorized"], "properties": {"authorized": {"type": "boolean"}}},
        {"required": ["answers"], "properties": {"answers": {"type": "array"}}},
    ],
}
CONVERSE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "agent_id": {"type": "string"},
        "connector_id": {"type": "string"},
        "conversation_id": {"type": "string"},
        "input": {"type": "string"},
        "prompts": {"type": "object", "additionalProperties": _PROMPT},
        "attachments": {"type": "array", "items": _ATTACHMENT},
        "capabilities": {"type": "object"},
        "configuration_overrides": {"type": "object"},
        "_execution_mode": {"enum": ["local", "task_manager"]},
    },
}
USAGE = {"connector_id": "c", "llm_calls": 1, "input_tokens": 7, "output_tokens": 11}


def error(status: int, words: str, message: str) -> JSONResponse:
    body = {"statusCode": status, "error": words, "message": message}
    return JSONResponse({**body, "attributes": {"trace_id": "trace-1"}}, status)


class Round(Job):
    def __init__(self, conversation: Conversation, message: str) -> None:
        super().__init__()
        self.conversation = conversation
        self.asked: str = ""
        self.kept: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "status": "in_progress",
            "input": {"message": message},
            "steps": [],
            "response": {"message": ""},
            "model_usage": USAGE,
        }

    async def event(self, name: str, **data: Any) -> None:
        await self.emit(sse(name, {"data": data}))

    async def step(self, kind: str, **data: Any) -> None:
        self.kept["steps"].append({"type": kind, **data})
        live = {key: value for key, value in data.items() if key != "results"}
        await self.event(kind, **live)

    async def result(self, results: list[dict[str, Any]]) -> None:
        step = self.kept["steps"][-1]
        step["results"] = results
        call, tool = step["tool_call_id"], step["tool_id"]
        await self.event("tool_result", tool_call_id=call, tool_id=tool, results=results)

    async def say(self, text: str, chunks: list[str] | None = None, *, pause: float = 0) -> None:
        message = f"msg-{self.kept['id']}"
        for chunk in chunks or [text]:
            await self.event("message_chunk", message_id=message, text_chunk=chunk)
            if pause:
                await asyncio.sleep(pause)
        await self.event("message_complete", message_id=message, message_content=text)
        self.kept["response"] = {"message": text}


class Conversation:
    def __init__(self, conversation_id: str) -> None:
        self.id = conversation_id
        self.rounds: list[dict[str, Any]] = []
        self.attachments: list[dict[str, Any]] = []

    def shown(self) -> dict[str, Any]:
        about = {"id": self.id, "agent_id": "elastic-ai-agent", "title": "t"}
        return {**about, "rounds": self.rounds, "attachments": self.attachments}


class Server(Ledger):
    def __init__(self, *, key: str, cloud: bool = False) -> None:
        super().__init__()
        self.conversations: dict[str, Conversation] = {}
        self.aborted: list[str] = []
        self._key = key
        self._type = "application/octet-stream" if cloud else "text/event-stream"
        api = "/s/team/api/agent_builder"
        self.app = Starlette(
            routes=[
                Route(f"{api}/agents", self.agents),
                Route(f"{api}/converse/async", self.converse, methods=["POST"]),
                Route(f"{api}/conversations/{{id}}", self.conversation),
            ]
        )

    async def _asked(self, request: Request) -> tuple[Any, Response | None]:
        body, instead = await self.note(request)
        if instead is not None:
            return body, instead
        if request.headers.get("authorization") != f"ApiKey {self._key}":
            words = "[security_exception]: unable to authenticate with provided credentials"
            return body, error(401, "Unauthorized", words)
        if request.method != "GET" and "kbn-xsrf" not in request.headers:
            return body, error(400, "Bad Request", "Request must contain a kbn-xsrf header.")
        return body, None

    async def agents(self, request: Request) -> Response:
        _, refusal = await self._asked(request)
        agent = {"id": "elastic-ai-agent", "type": "chat", "name": "Elastic AI Agent"}
        agent |= {"description": "Searches your data.", "configuration": {"tools": []}}
        return refusal or JSONResponse({"results": [agent]})

    async def conversation(self, request: Request) -> Response:
        _, refusal = await self._asked(request)
        found = self.conversations.get(request.path_params["id"])
        if found is None:
            return refusal or error(404, "Not Found", "Conversation not found")
        return refusal or JSONResponse(found.shown())

    async def converse(self, request: Request) -> Response:
        body, refusal = await self._asked(request)
        if refusal is not None:
            return refusal
        try:
            jsonschema.validate(body, CONVERSE)
        except jsonschema.ValidationError as exc:
            return error(400, "Bad Request", f"[request body]: {exc.message}")
        if body.get("agent_id", "elastic-ai-agent") != "elastic-ai-agent":
            return error(404, "Not Found", f"Agent {body['agent_id']} not found")
        named = body.get("conversation_id")
        if named and named not in self.conversations:
            return error(404, "Not Found", f"Conversation {named} not found")
        conversation = self.conversations.get(named) or Conversation(str(uuid.uuid4()))
        for each in body.get("attachments", []):
            versions = [{"version": 1, "data": each["data"]}]
            kept = {"id": each["id"], "type": "text", "current_version": 1, "versions": versions}
            conversation.attachments.append(kept)
        round_ = Round(conversation, body.get("input", ""))
        round_.begin(self._work(round_, body))
        aborts = body.get("_execution_mode") != "task_manager"
        return StreamingResponse(self._streamed(round_, aborts), media_type=self._type)

    async def _streamed(self, round_: Round, aborts: bool) -> AsyncIterator[str]:
        try:
            async for frame in round_.follow():
                yield frame
        finally:
            if aborts and not round_.outcome and round_.task is not None:
                round_.task.cancel()
                round_.outcome = "aborted"
                self.aborted.append(round_.kept["id"])

    # What it does

    async def _work(self, round_: Round, body: dict[str, Any]) -> None:
        conversation = round_.conversation
        await round_.event("conversation_id_set", conversation_id=conversation.id)
        resumed = "prompts" in body
        if resumed:
            round_.kept = conversation.rounds.pop()
            round_.kept.pop("pending_prompts")
            await round_.say(f"{_answered(body['prompts'])}")
        else:
            skill, _, rest = body["input"].partition(" ")
            do = getattr(self, f"_do_{skill}", None)
            await (do(round_, rest) if do else round_.say(body["input"]))
        if round_.outcome:
            return
        if "pending_prompts" not in round_.kept:
            round_.kept["status"] = "completed"
        attachments = conversation.attachments
        await round_.event(
            "round_complete", round=round_.kept, resumed=resumed, attachments=attachments
        )
        await asyncio.sleep(PAUSE)
        known = conversation.id in self.conversations
        conversation.rounds.append(json.loads(json.dumps(round_.kept)))
        self.conversations[conversation.id] = conversation
        name = "conversation_updated" if known else "conversation_created"
        await round_.event(name, conversation_id=conversation.id, title="t")
        await round_.end("completed")

    async def _do_slow(self, round_: Round, rest: str) -> None:
        count = int(rest)
        chunks = ["first ", *(f"chunk {n + 1} of {count}\n" for n in range(count))]
        await round_.say("".join(chunks), chunks, pause=PAUSE)

    async def _do_recall(self, round_: Round, rest: str) -> None:
        said = [each["input"]["message"] for each in round_.conversation.rounds]
        notes = [text.partition(" ")[2] for text in said if text.startswith("remember ")]
        await round_.say("; ".join(notes) or "nothing yet")

    async def _do_big(self, round_: Round, rest: str) -> None:
        await round_.say("x" * int(rest))

    async def _do_ask(self, round_: Round, rest: str) -> None:
        call = {"tool_call_id": "tooluse_1", "tool_id": "delete_index"}
        await round_.step("tool_call", **call, params={"index": rest})
        await self._pause(
            round_, type="confirmation", id="delete_index", title="Delete?", message=f"Index {rest}"
        )

    async def _do_login(self, round_: Round, rest: str) -> None:
        about = {"connector_id": "c1", "connector_name": rest, "auth_method": "ears"}
        await self._pause(round_, type="authorization", id="auth1", **about)

    async def _do_choose(self, round_: Round, rest: str) -> None:
        options = [{"label": each} for each in rest.split()]
        which = {"question": "Which one?", "options": options, "multi_select": False}
        why = {"question": "Why?", "options": [], "multi_select": False}
        await self._pause(round_, type="ask_user_question", id="q1", questions=[which, why])

    async def _pause(self, round_: Round, **prompt: Any) -> None:
        source = {"type": "tool_call", "tool_call_id": "tooluse_1"}
        await round_.event("prompt_request", prompt=prompt, source=source)
        round_.kept["status"] = "awaiting_prompt"
        round_.kept["pending_prompts"] = [prompt]

    async def _do_tool(self, round_: Round, rest: str) -> None:
        await round_.event("reasoning", reasoning="Consulting my thoughts", transient=True)
        await round_.step("reasoning", reasoning="I start with a search.")
        call = {"tool_call_id": "tooluse_9", "tool_id": "platform.core.search"}
        await round_.step("tool_call", **call, params={"query": "x"})
        await round_.event("tool_progress", tool_call_id="tooluse_9", message="searching")
        await round_.event("shiny_new_thing", sparkles=2)
        await round_.result([{"type": "error", "data": {"message": "no such index"}}])
        await round_.say("I found nothing.")

    async def _do_file(self, round_: Round, rest: str) -> None:
        versions = [{"version": 1, "data": {"content": "content of it"}}]
        made = {"id": "att-1", "type": "text", "current_version": 1, "versions": versions}
        round_.conversation.attachments.append({**made, "description": rest, "active": True})
        await round_.say("made a file")

    async def _do_fail(self, round_: Round, rest: str) -> None:
        begun = {"message_id": "m", "text_chunk": "It began well. "}
        await round_.event("message_chunk", **begun)
        meta = {"traceId": "trace-2"}
        said = {"code": "agentExecutionError", "message": rest, "meta": meta}
        await round_.emit(sse("error", {"error": said}))
        await round_.end("failed")


def _answered(prompts: dict[str, Any]) -> str:
    (response,) = prompts.values()
    if "allow" in response:
        return "allowed" if response["allow"] else "denied"
    return json.dumps(response)
