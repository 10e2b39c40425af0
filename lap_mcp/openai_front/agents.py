"""`agent/NAME` as a model: a turn of a registered agent's session, as a response.

`previous_response_id` continues the session; without it a new one begins.  What the agent asks
back (an approval, an input) ends the response as incomplete, and says where it is answered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from lap_mcp.control.front import FrontDoor
from lap_mcp.control.services import Accepted, Followed, NewPrompt, Services
from lap_mcp.errors import NotFound
from lap_mcp.front_parts.http import EventStream
from lap_mcp.model import Delta, Origin, Principal, StoredEvent
from lap_mcp.plain_text import clean
from lap_mcp.store.front import StoredResponse

from .plans import Plan
from .response_objects import finished, started
from .wire import ApiError, Json, bad, mapping, sequence

CLIENT: Final = "openai"
WAITING: Final = "[Waiting for a person: {}. Answer it with `lap-mcp questions`, then ask again.]"

Told = tuple[str, str]
"""Id of a message, and more of its text."""


def prompt_of(given: Any) -> str:
    """The words of the user, the only message.  Raises: ApiError."""
    if isinstance(given, str):
        return given
    said = [mapping(item) for item in sequence(given)]
    if len(said) != 1 or said[0].get("role") != "user":
        raise bad(
            "An agent keeps its own conversation: send one message of the user, and go on with "
            "previous_response_id.",
            "input",
        )
    return _text(said[0].get("content"))


def _text(content: Any) -> str:
    """Raises: ApiError, for anything but text."""
    if isinstance(content, str):
        return content
    parts = [mapping(part) for part in sequence(content)]
    for part in parts:
        if part.get("type") not in ("input_text", "text"):
            raise bad(f"An agent cannot be sent content of type {part.get('type')!r} here.")
    return "\n".join(str(part.get("text", "")) for part in parts)


class AgentTurn:
    """A turn, followed until it ends or has to wait for somebody."""

    def __init__(self, services: Services, principal: Principal, accepted: Accepted) -> None:
        self._services = services
        self._principal = principal
        self._accepted = accepted
        self.session_id = accepted.session.id
        self.usage: Json = {}
        self.failed = ""
        self.waits = ""
        self._shown: dict[str, str] = {}

    def _followed(self) -> AbstractAsyncContextManager[AsyncIterator[Followed]]:
        first = self._accepted.turn.first_seq
        after = max(0, first - 1) if first else self._accepted.session.last_seq
        return self._services.sessions.follow(self._principal, self.session_id, after=after)

    async def texts(self) -> AsyncIterator[Told]:
        """More and more of the agent's messages."""
        async with self._followed() as followed:
            async for event in followed:
                if event.turn_id != self._accepted.turn.id:
                    continue
                if isinstance(event, Delta):
                    for told in self._delta(event):
                        yield told
                    continue
                for told in self._stored(event):
                    yield told
                if event.type in ("session.status_idle", "session.status_terminated"):
                    await self._over(event)
                    return

    def _delta(self, delta: Delta) -> Sequence[Told]:
        if delta.kind != "message":
            return ()
        before = self._shown.get(delta.message_id, "")
        whole = delta.text if delta.replace else before + delta.text
        return self._more(delta.message_id, whole)

    def _stored(self, event: StoredEvent) -> Sequence[Told]:
        match event.type:
            case "agent.message":
                id_ = str(event.payload.get("id") or event.seq)
                return self._more(id_, str(event.payload.get("text", "")))
            case "session.usage":
                self.usage = dict(event.payload)
            case "session.error":
                self.failed = clean(str(event.payload.get("message", "")))
        return ()

    def _more(self, message_id: str, whole: str) -> Sequence[Told]:
        before = self._shown.get(message_id, "")
        if not whole.startswith(before):
            return ()
        self._shown[message_id] = whole
        return [(message_id, whole[len(before) :])] if len(whole) > len(before) else ()

    async def _over(self, event: StoredEvent) -> None:
        turn = await self._services.sessions.turn(
            self._principal, self.session_id, self._accepted.turn.id
        )
        if turn.outcome == "requires_action":
            asked = await self._services.sessions.questions(
                self._principal, session_id=self.session_id
            )
            self.waits = "; ".join(clean(question.text) for question in asked) or "a question"
        elif turn.outcome != "completed" and not self.failed:
            self.failed = clean(turn.error or f"The agent's turn was {turn.outcome}.")


async def begin(
    services: Services, principal: Principal, name: str, prompt: str, session_id: str | None
) -> AgentTurn:
    """Raises: ApiError, LapError."""
    try:
        accepted = await services.sessions.prompt(
            Origin(principal=principal, client=CLIENT),
            name,
            NewPrompt(text=prompt),
            session_id=session_id,
        )
    except NotFound as error:
        raise ApiError(404, error.message, param="model", code="model_not_found") from error
    return AgentTurn(services, principal, accepted)


class AgentResponse:
    """A Responses request to an agent."""

    def __init__(
        self, services: Services, front: FrontDoor, principal: Principal, name: str, body: Json
    ) -> None:
        self._services = services
        self._front = front
        self._principal = principal
        self._name = name
        self._plan = Plan(body=body)
        self.id = front.new_id("resp")
        self._now = front.clock.now()
        self._turn: AgentTurn | None = None

    async def begin(self) -> None:
        """Raises: ApiError, LapError."""
        body = self._plan.body
        for key in ("tools", "background", "conversation", "instructions"):
            if body.get(key):
                raise bad(f"{key} cannot be given to an agent: it has its own.", key)
        if mapping(mapping(body.get("text")).get("format")).get("type", "text") != "text":
            raise bad("An agent answers in text; text.format cannot be chosen.", "text")
        session_id = None
        if (previous := body.get("previous_response_id")) is not None:
            found = await self._front.remembered.response(self._principal, str(previous))
            if found is None or found.session_id is None:
                raise ApiError(
                    400,
                    f"Previous response with id '{str(previous)[:100]}' not found.",
                    param="previous_response_id",
                    code="previous_response_not_found",
                )
            session_id = found.session_id
        prompt = prompt_of(body.get("input"))
        self._turn = await begin(self._services, self._principal, self._name, prompt, session_id)

    async def whole(self) -> Mapping[str, Any]:
        return await self._respond(None)

    async def stream(self, stream: EventStream) -> None:
        await self._respond(stream.event)

    async def _respond(self, send: Callable[[Json], Any] | None) -> Mapping[str, Any]:
        assert self._turn is not None
        writer = _Writer(send, self._front.new_id("msg"))
        opened = started(self._plan, {}, response_id=self.id, now=self._now)
        await writer.send({"type": "response.created", "response": opened})
        await writer.send({"type": "response.in_progress", "response": opened})
        message = ""
        async for message_id, text in self._turn.texts():
            if message and message != message_id:
                await writer.write("\n\n")
            message = message_id
            await writer.write(text)
        if self._turn.waits:
            await writer.write(("\n\n" if message else "") + WAITING.format(self._turn.waits))
        output = await writer.end()
        response = self._response(output)
        if self._plan.stored:
            await self._front.remembered.keep(self._record(response))
        await writer.send({"type": f"response.{response['status']}", "response": response})
        return response

    def _response(self, output: list[Json]) -> Json:
        assert self._turn is not None
        status = "failed" if self._turn.failed else "completed"
        usage = {
            key: self._turn.usage[key]
            for key in ("input_tokens", "output_tokens")
            if isinstance(self._turn.usage.get(key), int)
        }
        response = finished(
            self._plan,
            {},
            response_id=self.id,
            now=self._now,
            status=status,
            output=output,
            usage=usage,
        )
        if self._turn.failed:
            response["error"] = {"code": "server_error", "message": self._turn.failed}
        return response

    def _record(self, response: Mapping[str, Any]) -> StoredResponse:
        assert self._turn is not None
        given = self._plan.body.get("input")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        return StoredResponse(
            id=self.id,
            principal=self._principal.id,
            container_id=None,
            session_id=self._turn.session_id,
            response=response,
            given=sequence(items),
            history=[*sequence(items), *response["output"]],
            created_at=self._now,
        )


class _Writer:
    """One message of a Responses stream, while it is written."""

    def __init__(self, send: Callable[[Json], Any] | None, item_id: str) -> None:
        self._send = send
        self._sequence = 0
        self._id = item_id
        self._texts: list[str] = []

    async def send(self, event: Json) -> None:
        if self._send is not None:
            await self._send({**event, "sequence_number": self._sequence})
        self._sequence += 1

    async def write(self, text: str) -> None:
        if not text:
            return
        where = {"item_id": self._id, "output_index": 0, "content_index": 0}
        if not self._texts:
            item = self._item("in_progress", [])
            await self.send({"type": "response.output_item.added", "output_index": 0, "item": item})
            part = self._part("")
            await self.send({"type": "response.content_part.added", **where, "part": part})
        self._texts.append(text)
        delta = {"type": "response.output_text.delta", **where, "delta": text, "logprobs": []}
        await self.send(delta)

    async def end(self) -> list[Json]:
        if not self._texts:
            return []
        text, part = "".join(self._texts), self._part("".join(self._texts))
        where = {"item_id": self._id, "output_index": 0, "content_index": 0}
        done = {"type": "response.output_text.done", **where, "text": text, "logprobs": []}
        await self.send(done)
        await self.send({"type": "response.content_part.done", **where, "part": part})
        item = self._item("completed", [part])
        await self.send({"type": "response.output_item.done", "output_index": 0, "item": item})
        return [item]

    def _item(self, status: str, content: list[Json]) -> Json:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _part(self, text: str) -> Json:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
