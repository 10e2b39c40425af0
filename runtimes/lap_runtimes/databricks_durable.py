"""The agent of a Databricks App made with DurableAgentServer: invocations that go on without us,
whose events can be read again, and which are the same one when they are started twice.

What the events mean is in `databricks_durable_fold.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar

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
from lap_runtimes.databricks_config import DatabricksConfig
from lap_runtimes.databricks_durable_fold import Cursor, InvocationFold
from lap_runtimes.errors import ProtocolError, Rejected, Unsupported
from lap_runtimes.http import HTTP, MAX_JSON
from lap_runtimes.langgraph_interrupts import resumed
from lap_runtimes.stream import StreamReader, frames

_INVOCATIONS = "api/invocations"
_NOBODY = uuid.UUID(int=0)


class DurableAgents:
    """One agent, without a name."""

    kind: ClassVar[str] = "databricks"

    def __init__(self, config: DatabricksConfig, http: HTTP) -> None:
        self._config = config
        self._http = http

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            answer="resume",
            attach="cursor",
            on_disconnect="continues",
            idempotent_start=True,
        )

    async def check(self) -> str:
        """Looks for an invocation that cannot be there."""
        try:
            await self._http.json("GET", self._http.url(f"{_INVOCATIONS}/{_NOBODY}"))
        except Rejected as exc:
            if exc.status != 404 or "invocation not found" not in exc.message:
                raise
        return "DurableAgentServer"

    async def agents(self) -> Sequence[AgentInfo]:
        raise Unsupported(
            "a DurableAgentServer does not say what its agent is; name it in [agents]"
        )

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn))

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return aclosing(self._attached(ref, cursor))

    async def answer(self, ref: Ref, answer: Answer) -> None:
        raise Unsupported("an interrupted invocation is answered by a new start")

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("DurableAgentServer takes no message while an invocation runs")

    async def cancel(self, ref: Ref) -> None:
        raise Unsupported("DurableAgentServer has no call that cancels")

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        invocation = _invocation(turn)
        body = {
            "id": invocation,
            "session_id": turn.session_id,
            "input": self._input(turn),
            "background": True,
            "stream": True,
        }
        # Taken within moments: the work itself goes on in the background.
        await self._http.json("POST", self._http.url(_INVOCATIONS), json=body)
        fold = InvocationFold(turn.id, {"invocation": invocation, "turn": turn.id})
        async with aclosing(self._followed(fold, 0)) as events:
            async for event in events:
                yield event

    async def _attached(self, ref: Ref, cursor: str | None) -> AsyncGenerator[Event, None]:
        try:
            invocation = str(uuid.UUID(str(ref.get("invocation", ""))))
            after = Cursor.decode(cursor) if cursor is not None else None
        except ValueError as exc:
            raise Rejected("no such invocation or cursor", kind="gone", sent=False) from exc
        kept = {"invocation": invocation, "turn": str(ref.get("turn", ""))}
        fold = InvocationFold(kept["turn"], kept, after=after)
        async with aclosing(self._followed(fold, after.sequence if after else 0)) as events:
            async for event in events:
                yield event

    async def _followed(self, fold: InvocationFold, after: int) -> AsyncGenerator[Event, None]:
        for event in fold.start():
            yield event
        where = self._http.url(f"{_INVOCATIONS}/{fold.invocation}")
        params = {"after": str(after)}
        headers = {"Accept": "text/event-stream"}
        url = f"{where}/events"
        async with self._http.stream("GET", url, params=params, headers=headers) as reply:
            reader = StreamReader("sse", limit=MAX_JSON)
            async with aclosing(reply.chunks()) as chunks, aclosing(frames(chunks, reader)) as read:
                async for frame in read:
                    for event in fold.feed(frame) if frame else [Heartbeat()]:
                        yield event
                    if fold.ended:
                        break
        if not fold.ended:
            return
        output = None
        if fold.wants_output:
            found = await self._http.json("GET", where)
            if not isinstance(found, Mapping):
                raise ProtocolError("the invocation is not an object")
            output = found.get("output")
        for event in fold.end(output):
            yield event

    def _input(self, turn: Turn) -> dict[str, Any]:
        if isinstance(turn.input, Answers):
            return {**self._config.body, "resume": resumed(turn.input, turn.ref)}
        if turn.input.files:
            raise Unsupported("DurableAgentServer takes no files; put what it needs into the input")
        said = [{"role": "user", "content": turn.input.text}] if turn.input.text else []
        return {**self._config.body, **(turn.input.input or {}), "messages": said}


def _invocation(turn: Turn) -> str:
    """The turn's id in the form of a UUID, which the server wants."""
    try:
        return str(uuid.UUID(turn.id.partition("_")[2]))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, turn.id))
