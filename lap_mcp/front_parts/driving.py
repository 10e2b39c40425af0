"""Drives an interception: asks the upstream, runs code, tells the client.  All the waiting that
the interception itself never does.

While code runs, the upstream is read on into a bounded buffer, so that a model that writes on is
not held up and cannot fill the memory.  Leaving (the client is gone) closes the upstream and
interrupts the code.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from .steps import Ask, Failure, Finish, Interception, Run, Send, Step
from .upstream import PATIENCE, RETRIES, Refused
from .wire import ApiError, Json, mapping

AHEAD: Final = 256
"""Events of the upstream that are read while code runs."""
MAX_LIVE: Final = 256 * 1024
"""Characters of live output that wait for a slow client; what is over is not shown live."""

Live = Callable[[Literal["stdout", "stderr"], str], None]
AskUpstream = Callable[[Mapping[str, Any]], AbstractAsyncContextManager[AsyncIterator[Json]]]
Result = TypeVar("Result")
RunCode = Callable[[str, Live], Awaitable[Result]]
Keep = Callable[[Mapping[str, Any]], Awaitable[None]]


class Sink(Protocol):
    """Where events for the client go."""

    async def event(self, event: Mapping[str, Any], /) -> None: ...


class Silent:
    """For a client that waits for the whole result."""

    async def event(self, event: Mapping[str, Any], /) -> None:
        return None


async def _nothing(result: Mapping[str, Any]) -> None:
    return None


async def drive(
    interception: Interception[Result],
    ask: AskUpstream,
    run: RunCode[Result],
    sink: Sink,
    keep: Keep = _nothing,
) -> Mapping[str, Any]:
    """The whole result.  `keep` stores it before the client is told that it is over: whoever has
    heard that may go, or ask for it, at once.

    Raises:
        ApiError, Refused: the first question was not answered, so there is nothing to tell.
    """
    failure: ApiError | Refused | None = None
    result: Mapping[str, Any] = {}
    async with anyio.create_task_group() as tasks:
        driving = _Drive(interception, ask, run, sink, tasks)
        try:
            result = await driving.result(keep)
        except (ApiError, Refused) as error:
            # Not from inside the task group, which would wrap it.
            failure = error
        finally:
            driving.close()
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


_Item = Json | ApiError | Refused | None
"""An event; why there are no more; `None`: the stream ended."""


class _Drive(Generic[Result]):
    def __init__(
        self,
        interception: Interception[Result],
        ask: AskUpstream,
        run: RunCode[Result],
        sink: Sink,
        tasks: TaskGroup,
    ) -> None:
        self._interception = interception
        self._ask = ask
        self._run = run
        self._sink = sink
        self._tasks = tasks
        self._inbox: MemoryObjectReceiveStream[_Item] | None = None
        self._first = True
        """Nothing was heard from any upstream yet."""

    def close(self) -> None:
        if self._inbox is not None:
            self._inbox.close()

    async def result(self, keep: Keep) -> Mapping[str, Any]:
        steps = deque(self._interception.begin())
        kept = False
        while True:
            if not steps:
                steps.extend(await self._next())
                continue
            if not kept and isinstance(last := steps[-1], Finish):
                kept = True
                await keep(last.result)
            match steps.popleft():
                case Send(event):
                    await self._sink.event(event)
                case Ask(body, number):
                    self._asked(body, number)
                case Run() as run:
                    steps.extendleft(reversed(await self._ran(run)))
                case Finish(result):
                    return result

    def _asked(self, body: Mapping[str, Any], number: int) -> None:
        self.close()
        send, self._inbox = anyio.create_memory_object_stream[_Item](AHEAD)
        self._tasks.start_soon(self._read, body, number, send)

    async def _next(self) -> list[Step]:
        assert self._inbox is not None
        try:
            found = self._inbox.receive_nowait()
        except anyio.WouldBlock:
            found = await self._inbox.receive()
        if found is None:
            return self._interception.over()
        if isinstance(found, (ApiError, Refused)):
            if self._first:
                raise found
            return self._interception.broke(_failure(found))
        self._first = False
        return self._interception.upstream(found)

    async def _read(
        self, body: Mapping[str, Any], number: int, inbox: MemoryObjectSendStream[_Item]
    ) -> None:
        """One round's stream into the inbox; its last entry says how it ended."""
        retries = RETRIES if number > 1 else 0
        try:
            while True:
                try:
                    async with self._ask(body) as events:
                        async for event in events:
                            await _put(inbox, event)
                    await inbox.send(None)
                    return
                except Refused as error:
                    wait = _pause(error)
                    if not retries or wait is None:
                        await inbox.send(error)
                        return
                    retries -= 1
                except ApiError as error:
                    await inbox.send(error)
                    return
                await anyio.sleep(wait)
        except anyio.BrokenResourceError:
            return  # the round is over and nobody listens: a stream that goes on after its end
        finally:
            inbox.close()

    async def _ran(self, run: Run) -> list[Step]:
        """Run code, telling its output while it comes."""
        telling = _Telling(self._interception, run, self._sink, self._tasks)
        result = await self._run(run.source, telling.printed)
        await telling.over()
        return self._interception.ran(run, result)


async def _put(inbox: MemoryObjectSendStream[_Item], event: Json) -> None:
    """Without a turn of the loop while there is room: events mostly come several at once."""
    try:
        inbox.send_nowait(event)
    except anyio.WouldBlock:
        await inbox.send(event)


class _Telling(Generic[Result]):
    """The output of one run on its way to the client.  Most code prints nothing while it runs, and
    then this does nothing."""

    def __init__(
        self, interception: Interception[Result], run: Run, sink: Sink, tasks: TaskGroup
    ) -> None:
        self._interception = interception
        self._run = run
        self._sink = sink
        self._tasks = tasks
        self._waiting: deque[tuple[Literal["stdout", "stderr"], str]] = deque()
        self._size = 0
        self._idle: anyio.Event | None = None
        """Of the task that tells; `None`: there is none."""

    def printed(self, stream: Literal["stdout", "stderr"], text: str) -> None:
        if self._size >= MAX_LIVE:
            return
        self._size += len(text)
        self._waiting.append((stream, text))
        if self._idle is None:
            self._idle = anyio.Event()
            self._tasks.start_soon(self._tell, self._idle)

    async def over(self) -> None:
        """Returns when all of it is told."""
        if self._idle is not None:
            await self._idle.wait()

    async def _tell(self, idle: anyio.Event) -> None:
        while self._waiting:
            stream, text = self._waiting.popleft()
            self._size -= len(text)
            for step in self._interception.live(self._run, stream, text):
                assert isinstance(step, Send)
                await self._sink.event(step.event)
        self._idle = None
        idle.set()


def _pause(error: Refused) -> float | None:
    """Seconds until a refused question may be asked again; `None`: it is not."""
    if error.status not in (429, 503):
        return None
    wait = error.retry_after if error.retry_after is not None else 1.0
    return wait if wait <= PATIENCE else None


def _failure(error: ApiError | Refused) -> Failure:
    """Why a later round has no answer, for the response that says so."""
    if isinstance(error, ApiError):
        return Failure(message=error.message)
    words = f"The model's server answered {error.status} in the middle of the response."
    said = mapping(_json(error.body).get("error")).get("message")
    code = "rate_limit_exceeded" if error.status == 429 else "server_error"
    return Failure(message=f"{words} {said}" if isinstance(said, str) else words, code=code)


def _json(body: bytes) -> Json:
    import json

    try:
        return mapping(json.loads(body))
    except (ValueError, RecursionError):
        return {}
