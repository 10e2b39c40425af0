"""`POST /v1/chat/completions`: relayed, or with `code_interpreter` among its tools driven through
a `ChatExchange`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lap_mcp.control.front import FrontDoor
from lap_mcp.front_parts.driving import Silent, Sink, drive
from lap_mcp.front_parts.http import EventStream, Relayed, Whole, body_of, handled, principal_of
from lap_mcp.front_parts.models import AGENT, Target
from lap_mcp.front_parts.upstream import sent_on
from lap_mcp.model import Principal

from .agent_chat import agent_chat
from .chat_exchange import SHOWN, ChatExchange
from .exchange import Setting
from .interpreter import Interpreter, interpreter_for
from .plans import Plan, plan_of
from .shared import Shared
from .wire import ApiError, Json, bad, chunk_event, encode, mapping, sequence


class ChatRoutes:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    @property
    def routes(self) -> Sequence[Route]:
        return [Route("/v1/chat/completions", handled(self._create), methods=["POST"])]

    async def _create(self, request: Request) -> Response:
        raw, body = await body_of(request)
        model = body.get("model")
        if isinstance(model, str) and model.startswith(AGENT):
            services, front = await self._shared.services(), await self._shared.front()
            name = model.removeprefix(AGENT)
            return agent_chat(services, front, principal_of(request), name, body)
        plan, target = plan_of(body), self._shared.models.find(model)
        headers = sent_on(request.headers)
        if plan.tool is None:
            if body.get("model") != target.model:
                raw = encode({**body, "model": target.model})
            return Relayed(lambda: target.upstream.send("POST", "chat/completions", raw, headers))
        if body.get("n") not in (None, 1):
            raise bad("n has to be 1 where code is run.", "n")
        if not isinstance(body.get("messages"), list):
            raise bad("messages is required.", "messages")
        front = await self._shared.front()
        chatting = Chatting(self._shared, front, principal_of(request), plan, target, headers)
        return _answer(chatting, plan)


class Chatting:
    """One chat response of ours."""

    def __init__(
        self,
        shared: Shared,
        front: FrontDoor,
        principal: Principal,
        plan: Plan,
        target: Target,
        headers: Mapping[str, str],
    ) -> None:
        self._shared = shared
        self._front = front
        self._principal = principal
        self._plan = plan
        self._target = target
        self._headers = headers

    async def respond(self, sink: Sink) -> Mapping[str, Any]:
        """Raises: ApiError, Refused."""
        messages = sequence(self._plan.body.get("messages"))
        known = await self._front.remembered.calls(self._principal, _shown_ids(messages))
        interpreter = await interpreter_for(
            self._front,
            self._principal,
            self._plan.container,
            self._shared.settings,
            _containers(messages, known),
        )
        exchange = ChatExchange(await self._setting(interpreter, _rewritten(messages, known)))
        target, headers = self._target, self._headers

        async def keep(result: Mapping[str, Any]) -> None:
            kept = {"messages": exchange.history, "container_id": interpreter.container_id}
            await self._front.remembered.keep_calls(
                self._principal,
                dict.fromkeys(exchange.keys, kept),
                stored=self._plan.stored,
            )

        return await drive(
            exchange,
            lambda body: target.upstream.events("chat/completions", body, headers),
            interpreter.run,
            sink,
            keep,
        )

    async def _setting(self, interpreter: Interpreter, messages: Sequence[Any]) -> Setting:
        settings = self._shared.settings
        return Setting(
            plan=self._plan,
            given=messages,
            response_id=self._front.new_id("chatcmpl"),
            container_id=interpreter.container_id,
            now=self._front.clock.now(),
            new_id=self._front.new_id,
            max_rounds=settings.rounds,
            images=self._target.images,
            live=settings.live_output,
            model=self._target.model,
        )


def _answer(chatting: Chatting, plan: Plan) -> Response:
    if plan.stream:

        async def produce(stream: EventStream) -> None:
            await chatting.respond(stream)

        return EventStream(produce, chunk_event, done=True)

    async def make() -> Mapping[str, Any]:
        result = await chatting.respond(Silent())
        if (error := mapping(result.get("error"))) and "choices" not in result:
            raise ApiError(502, str(error.get("message")), code=error.get("code"))
        return result

    return Whole(make)


def _shown_ids(messages: Sequence[Any]) -> list[str]:
    """Ids under which what stood there upstream may be kept."""
    return [
        str(mapping(call).get("id"))
        for message in messages
        for key in (SHOWN, "tool_calls")
        for call in sequence(mapping(message).get(key))
    ]


def _rewritten(messages: Sequence[Any], known: Mapping[str, Any]) -> list[Any]:
    """Each answer of the model in which code ran, as the rounds that it was upstream."""
    found: list[Any] = []
    for message in messages:
        kept = next((known[id_] for id_ in _shown_ids([message]) if id_ in known), None)
        if kept is not None:
            found += mapping(kept).get("messages", [])
            continue
        each = mapping(message)
        if SHOWN in each:
            message = {key: value for key, value in each.items() if key != SHOWN}
            found += _replayed(sequence(each[SHOWN]))
        found.append(message)
    return found


def _replayed(calls: Sequence[Any]) -> list[Json]:
    """Code calls that nobody here remembers, from what the client shows of them."""
    found: list[Json] = []
    for number, call in enumerate(map(mapping, calls)):
        id_ = f"call_{call.get('id', number)}"
        arguments = encode({"code": call.get("code") or ""}).decode()
        function = {"name": "python", "arguments": arguments}
        logs = [str(mapping(each).get("logs", "")) for each in sequence(call.get("outputs"))]
        told = "\n".join(filter(None, logs)) or "(no output)"
        asked = [{"id": id_, "type": "function", "function": function}]
        found.append({"role": "assistant", "content": None, "tool_calls": asked})
        found.append({"role": "tool", "tool_call_id": id_, "content": told})
    return found


def _containers(messages: Sequence[Any], known: Mapping[str, Any]) -> list[str]:
    """Containers of earlier code, newest first."""
    found = [
        str(mapping(call).get("container_id"))
        for message in reversed(messages)
        for call in reversed(sequence(mapping(message).get(SHOWN)))
        if mapping(call).get("container_id")
    ]
    found += [str(kept["container_id"]) for kept in known.values() if "container_id" in kept]
    return list(dict.fromkeys(found))
