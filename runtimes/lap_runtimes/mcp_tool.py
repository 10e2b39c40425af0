"""A tool of another MCP server as an agent, in both protocol eras, over HTTP or stdio: progress,
questions while the call goes on, cancel, and, where the server makes tasks, attaching again.

The SDK is behind `mcp_client.py`; arguments and results are made in `mcp_fold.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar

import anyio

from lap_runtimes.asking import BEAT, Asking, Request, answered
from lap_runtimes.base import (
    AgentInfo,
    Answer,
    Asked,
    Capabilities,
    Done,
    Event,
    EventStream,
    Heartbeat,
    Progress,
    Prompt,
    Question,
    Ref,
    Started,
    Turn,
)
from lap_runtimes.content import Json, mapping
from lap_runtimes.elicitation import question_of, result_of
from lap_runtimes.errors import Rejected, RuntimeFailure, Unsupported
from lap_runtimes.http import HTTP
from lap_runtimes.http_errors import clean
from lap_runtimes.mcp_call import BecameTask, Call, Came, Cancelled, Failed, Moved, Returned
from lap_runtimes.mcp_client import Connection
from lap_runtimes.mcp_config import MCPConfig
from lap_runtimes.mcp_fold import (
    agent_of,
    arguments_of,
    linked_event,
    links_of,
    progress_of,
    result_events,
)
from lap_runtimes.mcp_pool import Pool
from lap_runtimes.nesting import OnePerTurn
from lap_runtimes.process import start

_FIRST_SIGN = 1.0
"""Seconds that a call has to show that it was taken, before it is counted as taken anyway."""
_POLL = (0.02, 10.0)
"""Bounds of the seconds between two looks at a task, whatever the server proposes."""
_MODES = {"auto": "auto", "handshake": "legacy", "2026-07-28": "2026-07-28"}


class _Open(Asking):
    """A turn that is read."""

    def __init__(self, turn_id: str) -> None:
        super().__init__(turn_id)
        self.call: Call | None = None
        self.cancelled = False
        """Told to stop, maybe before there is a call."""
        self.passed_on: set[str] = set()
        """Questions of a task whose answers it has been given."""


class MCPRuntime:
    """Each tool of the server is an agent."""

    kind: ClassVar[str] = "mcp"
    Config: ClassVar[type[MCPConfig]] = MCPConfig

    def __init__(self, config: MCPConfig) -> None:
        self._config = config
        self._http = HTTP(config) if config.url else None
        self._pool = Pool(self._new, config.start_seconds, config.protocol == "handshake")
        self._tools: dict[str, Json] = {}
        self._open: dict[str, _Open] = {}
        self._own = OnePerTurn(config, MCPRuntime) if config.nests else None

    @property
    def capabilities(self) -> Capabilities:
        tasks = self._config.tasks
        return Capabilities(
            discover=True,
            answer="in_stream",
            conversation="none",
            attach="history" if tasks else "none",
            cancel="remote",
            on_disconnect="unknown" if tasks else "aborts",
            process_bound=not tasks,
            files_out=True,
        )

    async def check(self) -> str:
        async with self._pool.connected() as connection:
            count = len(await connection.tools())
            info = connection.client.server_info
            name = clean(info.title or info.name) if info else "an MCP server"
            return f"{name}: MCP {connection.client.protocol_version}, {count} tools"

    async def agents(self) -> Sequence[AgentInfo]:
        async with self._pool.connected() as connection:
            return [agent_of(tool) for tool in (await self._listed(connection)).values()]

    async def _listed(self, connection: Connection) -> Mapping[str, Json]:
        self._tools = {str(tool["name"]): tool for tool in await connection.tools()}
        return self._tools

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn)) if self._own is None else self._own.stream(turn)

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return aclosing(self._attached(ref, cursor))

    async def answer(self, ref: Ref, answer: Answer) -> None:
        if self._own is not None and (own := self._own.of(ref)) is not None:
            await own.answer(ref, answer)
            return
        answered(
            self._open.get(str(ref.get("turn", ""))),
            answer,
            lambda question, request, given: result_of(question, given),
        )

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("MCP has no call that puts a message into a running call")

    async def cancel(self, ref: Ref) -> None:
        if ref.get("task"):
            async with self._pool.connected() as connection:
                await connection.task("cancel", str(ref["task"]))
            return
        if self._own is not None and (own := self._own.of(ref)) is not None:
            await own.cancel(ref)
            return
        open_ = self._open.get(str(ref.get("turn", "")))
        if open_ is None:
            return  # it is not read, and so has ended
        open_.cancelled = True
        if open_.call is not None:
            open_.call.cancel()

    async def aclose(self) -> None:
        if self._own is not None:
            await self._own.aclose()
        await self._pool.aclose()
        if self._http is not None:
            await self._http.aclose()

    async def _new(self) -> Connection:
        over = self._http or await start(self._config)
        return Connection(over, mode=_MODES[self._config.protocol], tasks=self._config.tasks)

    # A turn

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        if not isinstance(turn.input, Prompt):
            raise Unsupported("a tool is answered while its call goes on")
        if turn.ref:
            raise Unsupported("each call of a tool stands alone; start a new session")
        if turn.input.files:
            raise Unsupported("a tool of an MCP server takes no files")
        open_ = self._open[turn.id] = _Open(turn.id)
        try:
            async with (
                self._pool.connected() as connection,
                aclosing(self._called(connection, open_, turn, turn.input)) as events,
            ):
                async for event in events:
                    yield event
        finally:
            self._open.pop(turn.id, None)

    async def _called(
        self, connection: Connection, open_: _Open, turn: Turn, prompt: Prompt
    ) -> AsyncGenerator[Event, None]:
        name = turn.agent or self._config.tool
        arguments = arguments_of(prompt, await self._tool(connection, name), self._config.argument)
        if open_.cancelled:
            yield Done(id=f"{turn.id}/done", outcome="cancelled")
            return
        open_.call = call = connection.call(turn.id, name, arguments)
        try:
            ref = {"turn": turn.id, "tool": name}
            async with aclosing(self._read(connection, open_, ref)) as events:
                async for event in events:
                    yield event
        finally:
            call.outgoing.close()
            call.cancel()

    async def _tool(self, connection: Connection, name: str) -> Json:
        if not name:
            raise Rejected("name a tool, as the agent's ref or tool", kind="invalid", sent=False)
        try:
            tool = self._tools.get(name) or (await self._listed(connection)).get(name)
        except RuntimeFailure as exc:
            exc.sent = False
            raise
        if tool is None:
            words = f"{connection.where} has no tool {name!r}"
            raise Rejected(words, kind="not_found", sent=False)
        return tool

    async def _read(
        self, connection: Connection, open_: _Open, ref: dict[str, Any]
    ) -> AsyncGenerator[Event, None]:
        call = open_.call
        assert call is not None
        came = await self._first(call)
        if isinstance(came, BecameTask):
            ref["task"] = came.task_id
        if not isinstance(came, Failed) or isinstance(came.error, Rejected):
            yield Started(id=f"{open_.turn_id}/started", ref=dict(ref))
        while True:
            if isinstance(came, Failed) and not isinstance(came.error, Rejected):
                raise came.error
            if isinstance(came, BecameTask):
                if "task" not in ref:
                    yield Progress(text="it goes on as a task", ref={**ref, "task": came.task_id})
                async with aclosing(self._followed(connection, open_, came.task_id)) as events:
                    async for event in events:
                        yield event
                return
            for event in await self._events(connection, open_, came):
                yield event
                if isinstance(event, Done):
                    return
            came = await _next(open_, call)

    async def _first(self, call: Call) -> Came | None:
        """What a call begins with, where it says so soon: a task is best known from the start."""
        with anyio.move_on_after(_FIRST_SIGN):
            await call.sent.wait()
            if self._config.tasks:
                return await call.outgoing.receive()
        try:
            return call.outgoing.receive_nowait()
        except anyio.WouldBlock:
            return None

    async def _events(self, connection: Connection, open_: _Open, came: Came | None) -> list[Event]:
        if isinstance(came, Moved):
            return [progress_of(came.progress, came.total, came.message)]
        if isinstance(came, Request):
            return _asked(open_.ask(came, question_of))
        if isinstance(came, Returned):
            return await self._result(connection, open_.turn_id, came.result)
        if isinstance(came, Cancelled):
            return [Done(id=f"{open_.turn_id}/done", outcome="cancelled")]
        if isinstance(came, Failed):
            return [_failed(open_.turn_id, came.error.message, came.error.kind)]
        return [Heartbeat()]

    async def _result(self, connection: Connection, turn_id: str, result: Json) -> list[Event]:
        """Its events; what it links to is read from the same server."""
        events = list(result_events(turn_id, result))
        linked = []
        for place, link in links_of(result):
            try:
                found: Json | None = await connection.read(str(link.get("uri", "")))
            except RuntimeFailure:
                found = None
            linked.append(linked_event(turn_id, place, link, found))
        return [*events[:-1], *linked, events[-1]]

    # Tasks

    async def _attached(self, ref: Ref, cursor: str | None) -> AsyncGenerator[Event, None]:
        if not self._config.tasks:
            raise Unsupported("without tasks = true a call that was cut off is lost")
        if cursor is not None:
            raise Unsupported("MCP tasks have no cursors; attach without one")
        if not ref.get("task"):
            raise Rejected("the server made no task of this call, which is lost", kind="gone")
        turn_id = str(ref.get("turn", ""))
        async with self._pool.connected() as connection:
            open_ = self._open[turn_id] = _Open(turn_id)
            try:
                yield Started(id=f"{turn_id}/started", ref=dict(ref))
                task_id = str(ref["task"])
                async with aclosing(self._followed(connection, open_, task_id)) as events:
                    async for event in events:
                        yield event
            finally:
                self._open.pop(turn_id, None)

    async def _followed(
        self, connection: Connection, open_: _Open, task_id: str
    ) -> AsyncGenerator[Event, None]:
        """Look at a task until it ends, and pass answers on."""
        said = ""
        while True:
            answers = _answers(open_)
            if answers:
                await connection.task("update", task_id, answers)
            task = await connection.task("get", task_id)
            ended = await self._ended(connection, open_.turn_id, task)
            if ended:
                for event in ended:
                    yield event
                return
            words = clean(str(task.get("statusMessage") or ""))
            yield Progress(text=words[:200]) if words and words != said else Heartbeat()
            said = words
            for question in _task_questions(open_, task):
                yield Asked(id=question.id, question=question)
            await anyio.sleep(self._pause(task))

    def _pause(self, task: Json) -> float:
        proposed = task.get("pollIntervalMs")
        seconds = proposed / 1000 if isinstance(proposed, int) else self._config.poll_interval
        return min(max(seconds, _POLL[0]), _POLL[1])

    async def _ended(self, connection: Connection, turn_id: str, task: Json) -> list[Event]:
        """The last events of a task that has ended; none while it has not."""
        status = task.get("status")
        if status == "completed":
            return await self._result(connection, turn_id, mapping(task.get("result")))
        if status == "cancelled":
            return [Done(id=f"{turn_id}/done", outcome="cancelled")]
        if status == "failed":
            words = str(
                mapping(task.get("error")).get("message") or task.get("statusMessage") or ""
            )
            return [_failed(turn_id, clean(words) or "the task failed without a word", "failed")]
        return []


async def _next(open_: _Open, call: Call) -> Came | None:
    """The next of a call; None: nothing for a while, or (at first) not at once."""
    with anyio.move_on_after(BEAT if open_.waits else None):
        return await call.outgoing.receive()
    return None


def _asked(question: Question | None) -> list[Event]:
    return [Asked(id=question.id, question=question)] if question else [Heartbeat()]


def _failed(turn_id: str, words: str, kind: str) -> Done:
    return Done(id=f"{turn_id}/done", outcome="failed", error=words, error_kind=kind)


def _task_questions(open_: _Open, task: Json) -> list[Question]:
    """The questions of a task that were not asked yet.  What is no elicitation is not offered."""
    found = []
    for key, request in mapping(task.get("inputRequests")).items():
        if f"{open_.turn_id}/{key}" in open_.questions:
            continue
        asked = Request.of("elicitation/create", mapping(mapping(request).get("params")))
        question = open_.ask(asked, question_of, str(key))
        if question is not None:
            found.append(question)
    return found


def _answers(open_: _Open) -> dict[str, Any]:
    """What was answered since the last look, by the task's keys."""
    given = {}
    for question_id, (_, request) in list(open_.questions.items()):
        if not request.open and question_id not in open_.passed_on:
            open_.passed_on.add(question_id)
            key = question_id.removeprefix(f"{open_.turn_id}/")
            given[key] = dict(request.reply.result() or {"action": "cancel"})
    return given
