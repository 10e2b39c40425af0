"""A2A agents (1.0, and 0.3 through the SDK): discovery from the agent card, streaming or polling,
questions, cancel, and attaching again by task.

The wire is in `a2a_client.py`; what the events mean is in `a2a_fold.py`.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, ClassVar

import anyio
from pydantic import Field

from lap_runtimes.a2a_card import Card
from lap_runtimes.a2a_client import Json, Peer, peer_of
from lap_runtimes.a2a_fold import INTERRUPTED, TaskFold
from lap_runtimes.base import (
    AgentInfo,
    Answer,
    Answers,
    Capabilities,
    Event,
    EventStream,
    Heartbeat,
    Prompt,
    Ref,
    Turn,
)
from lap_runtimes.config import HTTPRuntimeConfig
from lap_runtimes.errors import Rejected, RuntimeFailure, Unsupported
from lap_runtimes.files import at_once, fetched
from lap_runtimes.http import HTTP
from lap_runtimes.http_errors import clean

_CAPABILITIES = Capabilities(
    discover=True,
    stream=True,
    answer="resume",
    attach="history",
    cancel="remote",
    on_disconnect="continues",
    files_in=True,
    files_out=True,
)
WELL_KNOWN = ".well-known/agent-card.json"
_CARD_AGE = 300.0
_END_SECONDS = 0.1
"""How long an agent may keep a stream open after the last event, before we close it."""
_AFTER_SECONDS = 0.002
"""Those who wait for the answer come first."""


class A2AConfig(HTTPRuntimeConfig):
    card: str = WELL_KNOWN
    """Where the agent card is, below `url`; it may have a query (`…?assistant_id=`)."""
    endpoint: str | None = None
    """Address to call in place of the one that the card names; of the same origin as `url`."""
    poll_interval: float = Field(1.0, gt=0)
    """Seconds between two looks at a task of an agent that does not stream."""


class A2ARuntime:
    """One agent card, or several of one origin: `Turn.agent` is the card's path, or empty."""

    kind: ClassVar[str] = "a2a"
    Config: ClassVar[type[A2AConfig]] = A2AConfig

    def __init__(self, config: A2AConfig) -> None:
        self._config = config
        self._http = HTTP(config)
        self._cards: dict[str, tuple[float, Card]] = {}

    @property
    def capabilities(self) -> Capabilities:
        return _CAPABILITIES

    async def check(self) -> str:
        card = await self._card("", fresh=True)
        how = "streams" if card.streams else "does not stream"
        return f"{clean(card.name)}: {card.protocol}, {how}"

    async def agents(self) -> Sequence[AgentInfo]:
        card = await self._card("", fresh=True)
        return [AgentInfo(ref=self._config.card, name=card.name, description=card.description)]

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn))

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return aclosing(self._attached(ref, cursor))

    async def answer(self, ref: Ref, answer: Answer) -> None:
        raise Unsupported("an A2A agent is answered by a new start")

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("A2A has no call that puts a message into a running task")

    async def cancel(self, ref: Ref) -> None:
        if not ref.get("task"):
            raise Rejected("the agent has given no task to cancel", kind="conflict", sent=False)
        async with self._peer(str(ref.get("agent", ""))) as peer:
            try:
                await peer.cancel(str(ref["task"]))
            except Rejected as exc:
                if exc.kind not in ("conflict", "not_found"):
                    raise

    async def aclose(self) -> None:
        await self._http.aclose()

    # Following a task

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        resumed = isinstance(turn.input, Answers)
        if resumed and not (turn.ref.get("task") and turn.ref.get("question")):
            raise Rejected("the agent has no open question to answer", kind="conflict", sent=False)
        kept = ("agent", "context", "before") if resumed else ("agent", "context")
        ref = {key: turn.ref[key] for key in kept if key in turn.ref}
        if turn.agent and turn.agent != self._config.card:
            ref["agent"] = turn.agent
        if resumed:
            ref["answered"] = turn.ref["question"]
        message = await _message(turn)
        async with self._peer(str(ref.get("agent", ""))) as peer:
            fold = TaskFold(turn.id, ref, whole=not peer.streams)
            if resumed:
                fold.task_id = str(turn.ref["task"])
                events = self._resumed(peer, fold, message)
            else:
                events = self._follow(peer, fold, peer.send(message))
            async with aclosing(events):
                async for event in events:
                    yield event

    async def _attached(self, ref: Ref, cursor: str | None) -> AsyncGenerator[Event, None]:
        if cursor is not None:
            raise Unsupported("A2A has no cursors; attach without one")
        if not ref.get("task"):
            raise Rejected("the agent answered without a task, which is gone", kind="gone")
        async with self._peer(str(ref.get("agent", ""))) as peer:
            fold = TaskFold(str(ref.get("turn", "")), ref, whole=True)
            fold.task_id = str(ref["task"])
            async with aclosing(self._again(peer, fold)) as events:
                async for event in events:
                    yield event

    async def _follow(
        self, peer: Peer, fold: TaskFold, responses: AsyncGenerator[Json | None, None]
    ) -> AsyncGenerator[Event, None]:
        """The events of a stream; then, where the end is to be looked up or the agent does not
        stream, of looking at the task.  A stream that breaks off just ends."""
        async with _reading(responses, fold):
            async for response in responses:
                found = fold.feed(response) if response is not None else [Heartbeat()]
                for event in at_once(found):
                    yield await fetched(self._http, event)
                if fold.finished or fold.wants_task:
                    break
        if fold.finished or (peer.streams and not fold.wants_task):
            return
        async with aclosing(self._polled(peer, fold)) as events:
            async for event in events:
                yield event

    async def _resumed(
        self, peer: Peer, fold: TaskFold, message: Json
    ) -> AsyncGenerator[Event, None]:
        """An answer's stream.  An agent that needed no answer in the end (a person signed in
        elsewhere) refuses it: then the task is followed as it is."""
        refusal: Rejected | None = None
        follow = self._follow(peer, fold, peer.send(message))
        try:
            async with aclosing(follow) as events:
                async for event in events:
                    yield event
        except Rejected as exc:
            if exc.kind not in ("unsupported", "invalid", "conflict"):
                raise
            refusal = exc
        if refusal is None:
            return
        found = await peer.look(fold.task_id)
        if found.get("status", {}).get("state") in INTERRUPTED:
            raise refusal
        async with aclosing(self._again(peer, fold)) as events:
            async for event in events:
                yield event

    async def _again(self, peer: Peer, fold: TaskFold) -> AsyncGenerator[Event, None]:
        for event in fold.feed({"task": await peer.look(fold.task_id)}):
            yield await fetched(self._http, event)
        if fold.finished:
            return
        if not peer.streams:
            follow = self._polled(peer, fold)
        else:
            follow = self._follow(peer, fold, peer.subscribe(fold.task_id))
        try:
            async with aclosing(follow) as events:
                async for event in events:
                    yield event
        except Rejected as exc:
            if exc.kind not in ("unsupported", "not_found"):
                raise
            # It ended between the look and the subscription, or cannot be subscribed to.
            async with aclosing(self._polled(peer, fold)) as events:
                async for event in events:
                    yield event

    async def _polled(self, peer: Peer, fold: TaskFold) -> AsyncGenerator[Event, None]:
        while True:
            for event in fold.feed({"task": await peer.look(fold.task_id)}):
                yield await fetched(self._http, event)
            if fold.finished:
                return
            await anyio.sleep(self._config.poll_interval)

    # The card

    @asynccontextmanager
    async def _peer(self, agent: str) -> AsyncIterator[Peer]:
        peer = peer_of(await self._card(agent), self._http)
        try:
            yield peer
        finally:
            await peer.aclose()

    async def _card(self, agent: str, *, fresh: bool = False) -> Card:
        path = agent or self._config.card
        now = anyio.current_time()
        age, card = self._cards.get(path, (0.0, None))
        if card is None or fresh or now - age > _CARD_AGE:
            found = await self._http.json("GET", self._http.url(path))
            card = Card(
                found, self._http.rules, base=self._http.base, endpoint=self._config.endpoint
            )
            self._cards[path] = (now, card)
        return card


@asynccontextmanager
async def _reading(
    responses: AsyncGenerator[Json | None, None], fold: TaskFold
) -> AsyncIterator[None]:
    """Close the stream at the end, once it is read out where the fold has all it wants.  An error
    in the middle of it says, whatever its code is, that the agent had begun."""
    async with aclosing(responses):
        try:
            yield
        except Rejected as exc:
            exc.sent = exc.sent or fold.begun
            raise
        finally:
            if fold.finished or fold.wants_task:
                await _read_out(responses)


async def _read_out(responses: AsyncGenerator[Json | None, None]) -> None:
    """Read what follows the last event, which is nothing: the connection of an answer that was read
    to its end is used again, and a new one costs more than waiting for that end.  Nobody waits for
    it who waits for the answer: that one was given."""
    with anyio.move_on_after(_END_SECONDS), suppress(RuntimeFailure):
        await anyio.sleep(_AFTER_SECONDS)
        async for _ in responses:
            pass


async def _message(turn: Turn) -> dict[str, Any]:
    """The prompt or the answers, as an A2A message whose id is the turn's."""
    message: dict[str, Any] = {"messageId": turn.id, "role": "ROLE_USER"}
    if turn.ref.get("context"):
        message["contextId"] = turn.ref["context"]
    parts: list[Mapping[str, Any]] = []
    if isinstance(turn.input, Answers):
        message["taskId"] = turn.ref["task"]
        for answer in turn.input.answers:
            if answer.decision == "deny":
                # The protocol has no word for it, and a reason alone would pass for an answer.
                parts += _parts(f"The question was declined. {answer.text}".strip(), None)
                continue
            text = answer.option or answer.text or answer.decision or ""
            parts += _parts(text, answer.data)
    else:
        parts += _parts(turn.input.text, turn.input.input)
        for file in turn.input.files:
            raw = base64.b64encode(await file.read()).decode()
            parts.append({"raw": raw, "filename": file.name, "mediaType": file.media_type})
    return {**message, "parts": parts}


def _parts(text: str, data: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    parts: list[Mapping[str, Any]] = []
    if text or data is None:
        parts.append({"text": text})
    if data is not None:
        parts.append({"data": dict(data), "mediaType": "application/json"})
    return parts
