"""A runtime kind of a third party: `POST {url}/ask` with `{"text": …}`, and JSON lines come back.

    {"word": "hello"}            more of the answer
    {"failed": "out of seeds"}   it ended, in the agent's words
    {"said": "hello you"}        it ended; all of the answer

`docs/adapters.md` goes through this file.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import ClassVar

from lap_runtimes.base import (
    AgentInfo,
    Answer,
    Answers,
    Capabilities,
    Done,
    Event,
    EventStream,
    Heartbeat,
    Message,
    MessageDelta,
    Prompt,
    Ref,
    Started,
    Turn,
)
from lap_runtimes.config import HTTPRuntimeConfig
from lap_runtimes.errors import Unsupported
from lap_runtimes.http import HTTP
from lap_runtimes.stream import Frame, StreamReader, frames

AGENT = "parrot"


class ParrotConfig(HTTPRuntimeConfig):
    """`[runtimes.NAME]` with `kind = "parrot"`: `url`, `auth` and the like come with the base."""

    loud: bool = False
    """Ask it to shout."""


class ParrotFold:
    """One answer, turned into events.  No I/O, so that a test needs no server."""

    def __init__(self, turn_id: str) -> None:
        self._message_id = f"{turn_id}/answer"

    def feed(self, frame: Frame | None) -> list[Event]:
        """What says nothing known is no error, the vendor may add it; it is a sign of life."""
        try:
            line = json.loads(frame.data) if frame else None
        except ValueError:
            line = None
        if not isinstance(line, dict):
            return [Heartbeat()]
        if "word" in line:
            return [MessageDelta(message_id=self._message_id, text=str(line["word"]))]
        if "failed" in line:
            return [Done(outcome="failed", error=str(line["failed"]), error_kind="failed")]
        if "said" in line:
            # Every delta's message is closed by a finished one.
            said = Message(message_id=self._message_id, text=str(line["said"]))
            return [said, Done(outcome="completed")]
        return [Heartbeat()]


class ParrotRuntime:
    """Made once per `[runtimes.NAME]`, from its validated `Config`; making it does no I/O."""

    kind: ClassVar[str] = "parrot"
    Config: ClassVar[type[ParrotConfig]] = ParrotConfig

    def __init__(self, config: ParrotConfig) -> None:
        self._loud = config.loud
        self._http = HTTP(config)

    @property
    def capabilities(self) -> Capabilities:
        """What is not claimed is refused below, before a byte is sent."""
        return Capabilities(discover=True, conversation="none", cancel="disconnect")

    async def check(self) -> str:
        await self._http.json("GET", self._http.url("ready"))
        return "one parrot"

    async def agents(self) -> Sequence[AgentInfo]:
        return [AgentInfo(ref=AGENT, name="Parrot", description="Says the words again.")]

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn))

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        if isinstance(turn.input, Answers):
            raise Unsupported("a parrot asks nothing")
        if turn.ref:
            raise Unsupported("a parrot remembers nothing; start a new session")
        if turn.input.files:
            raise Unsupported("a parrot takes no files")
        fold = ParrotFold(turn.id)
        body = {"text": turn.input.text, "loud": self._loud}
        async with self._http.stream("POST", self._http.url("ask"), json=body) as reply:
            yield Started(ref={"turn": turn.id})
            async with aclosing(frames(reply.chunks(), StreamReader("ndjson"))) as found:
                async for frame in found:
                    for event in fold.feed(frame):
                        yield event
        # A stream that just stops is lost: the engine sees that there was no `Done`.

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        raise Unsupported("what a parrot has said is gone")

    async def answer(self, ref: Ref, answer: Answer) -> None:
        raise Unsupported("a parrot asks nothing")

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("a parrot is not interrupted")

    async def cancel(self, ref: Ref) -> None:
        raise Unsupported("a parrot stops when its stream is closed")

    async def aclose(self) -> None:
        await self._http.aclose()
