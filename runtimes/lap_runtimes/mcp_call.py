"""One `tools/call` on its way, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from lap_runtimes.asking import Request
from lap_runtimes.content import Json
from lap_runtimes.errors import RuntimeFailure


@dataclass(slots=True)
class Moved:
    """A progress notification."""

    progress: float
    total: float | None
    message: str | None


@dataclass(slots=True)
class BecameTask:
    task_id: str


@dataclass(slots=True)
class Returned:
    """A `tools/call` result."""

    result: Json


@dataclass(slots=True)
class Failed:
    error: RuntimeFailure


class Cancelled:
    """`cancel` ended it."""


Came = Moved | Request | BecameTask | Returned | Failed | Cancelled


@dataclass(slots=True, eq=False)
class Call:
    """One `tools/call`.  What comes of it comes out of `outgoing`, to its end."""

    turn_id: str
    incoming: MemoryObjectSendStream[Came]
    outgoing: MemoryObjectReceiveStream[Came]
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    sent: anyio.Event = field(default_factory=anyio.Event)
    """The server has answered with a first byte, or the program was written to."""
    failure: RuntimeFailure | None = None
    """What went wrong below the SDK."""

    async def ask(self, params: Json) -> Json:
        """The answer to an elicitation."""
        request = Request.of("elicitation/create", params)
        await self.give(request)
        answer: Json | None = await request.reply
        return answer or {"action": "cancel"}

    async def give(self, came: Came) -> None:
        try:
            await self.incoming.send(came)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            if isinstance(came, Request):
                came.drop()

    def cancel(self) -> None:
        """Ends it at the server too: the SDK says so, or closes the request's connection."""
        self.scope.cancel()
