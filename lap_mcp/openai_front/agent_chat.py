"""`agent/NAME` as a model of `/v1/chat/completions`: one prompt to a new session.

A chat names no session to go on with, so a second turn is refused in words: `/v1/responses` has
`previous_response_id` for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.responses import Response

from lap_mcp.control.front import FrontDoor
from lap_mcp.control.services import Services
from lap_mcp.front_parts.http import EventStream, Whole
from lap_mcp.model import Principal

from .agents import WAITING, begin, prompt_of
from .wire import ApiError, Json, bad, chunk_event, sequence

Tell = Callable[[Json], Awaitable[None]]


def agent_chat(
    services: Services, front: FrontDoor, principal: Principal, name: str, body: Json
) -> Response:
    """Raises: ApiError."""
    if body.get("tools"):
        raise bad("tools cannot be given to an agent: it has its own.", "tools")
    asked = sequence(body.get("messages"))
    if len(asked) != 1:
        raise bad(
            "An agent keeps its own conversation, which a chat cannot name: send one message of "
            "the user. Use /v1/responses with previous_response_id to go on.",
            "messages",
        )
    base = {
        "id": front.new_id("chatcmpl"),
        "created": int(front.clock.now()),
        "model": body.get("model"),
    }
    chat = _AgentChat(services, principal, name, prompt_of(asked), base)
    if body.get("stream") is True:
        return EventStream(chat.stream, chunk_event, done=True)
    return Whole(chat.whole)


class _AgentChat:
    def __init__(
        self, services: Services, principal: Principal, name: str, prompt: str, base: Json
    ) -> None:
        self._services = services
        self._principal = principal
        self._name = name
        self._prompt = prompt
        self._base = base

    async def stream(self, stream: EventStream) -> None:
        await self._spoken(stream.event)
        await stream.event(self._chunk({}, "stop"))

    async def whole(self) -> Mapping[str, Any]:
        message = {"role": "assistant", "content": await self._spoken(None), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return {**self._base, "object": "chat.completion", "choices": [choice]}

    async def _spoken(self, tell: Tell | None) -> str:
        turn = await begin(self._services, self._principal, self._name, self._prompt, None)
        texts: list[str] = []

        async def say(text: str) -> None:
            role = {} if texts else {"role": "assistant"}
            texts.append(text)
            if tell is not None:
                await tell(self._chunk({**role, "content": text}))

        message = ""
        async for message_id, text in turn.texts():
            await say(("\n\n" if message not in ("", message_id) else "") + text)
            message = message_id
        if turn.failed:
            raise ApiError(502, turn.failed, code="agent_failed")
        if turn.waits:
            await say(("\n\n" if texts else "") + WAITING.format(turn.waits))
        return "".join(texts)

    def _chunk(self, delta: Json, reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._base, "object": "chat.completion.chunk", "choices": [choice]}
