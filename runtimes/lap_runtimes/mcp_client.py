"""The MCP SDK as a client: one connection to a server, over HTTP or a program's stdin and stdout,
and the calls on it.  The only file here that imports mcp.

A connection lives in a task of its own, as does each call: the SDK's scopes must not be open across
the steps of a stream.  In the 2026-07-28 era a connection is shared by calls.  In the handshake's
era a server asks on it, without saying for which call: it carries one call at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, cast

import anyio
import mcp.types as t
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp import Client, MCPError
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp.types import (
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    REQUEST_TIMEOUT,
    jsonrpc_message_adapter,
)
from pydantic import ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from lap_runtimes.content import Json, mapping
from lap_runtimes.errors import Kind, ProtocolError, Rejected, RuntimeFailure, Unavailable
from lap_runtimes.http import HTTP
from lap_runtimes.http_bridge import bridged
from lap_runtimes.http_errors import clean
from lap_runtimes.mcp_call import BecameTask, Call, Came, Cancelled, Failed, Moved, Returned
from lap_runtimes.process import MAX_LINE, Process

TASKS = "io.modelcontextprotocol/tasks"
TURN = "lap-mcp/turn"
"""Key of a call's `_meta`: the id of the turn that it is."""
MAX_ROUNDS = 50
"""How often one call may ask for more before it is given up."""
MAX_TOOLS = 2000
CONTROL_SECONDS, CLOSE_SECONDS = 30.0, 2.0
_AHEAD = 64
_KINDS: Mapping[int, Kind] = {INVALID_PARAMS: "invalid", METHOD_NOT_FOUND: "unsupported"}
_LOST = (CONNECTION_CLOSED, REQUEST_TIMEOUT)
_LOST_WORDS = ("Connection closed", "SSE stream", "Timed out")
"""How the SDK's own errors of these codes begin; servers use the same codes for anything."""
_WIRE = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")


class _TaskParams(t.RequestParams):
    model_config = _WIRE
    task_id: str
    input_responses: dict[str, Any] | None = None


class _TaskRequest(t.Request[_TaskParams, str]):
    params: _TaskParams
    name_param = "taskId"


class _Anything(t.Result):
    model_config = _WIRE


class _Created(t.Result):
    model_config = _WIRE
    result_type: Literal["task"] = "task"
    task_id: str


class _Tasks(ClientExtension):
    """Declares the extension; a call that became a task is taken as it is."""

    identifier = TASKS

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=_Created, resolve=self._resolve)]

    async def _resolve(self, created: _Created, ctx: ClaimContext) -> t.CallToolResult:
        raise AssertionError("calls are made with allow_claimed")


@dataclass(slots=True)
class _Asking:
    """A request other than a call, and what went wrong below the SDK."""

    failure: RuntimeFailure | None = None


_current: ContextVar[Call | _Asking | None] = ContextVar("lap_mcp_request", default=None)
"""Whose request it is: the SDK sends each in the context of its caller."""


class Connection:
    """Made on a running loop; opened, used and closed by its owner."""

    def __init__(self, over: HTTP | Process, *, mode: str, tasks: bool) -> None:
        self.where = over.where if isinstance(over, Process) else over.rules.home
        self.process = over if isinstance(over, Process) else None
        self.calls: set[Call] = set()
        self.busy = False
        """Taken by a caller, where it carries one call at a time."""
        self.lost = False
        self._mode = mode
        self._extensions: list[ClientExtension] = [_Tasks()] if tasks else []
        self._client: Client | None = None
        self._failure: RuntimeFailure | None = None
        self._ready = asyncio.Event()
        self._closing = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        work = self._hold(self._pipe(over)) if isinstance(over, Process) else self._http(over)
        self._start(work, "connection")

    @property
    def modern(self) -> bool:
        return self.client.protocol_version >= "2026"

    @property
    def client(self) -> Client:
        assert self._client is not None, "not opened"
        return self._client

    async def opened(self, seconds: float) -> None:
        """Raises what keeps it from being used, as nothing that was sent."""
        with anyio.move_on_after(seconds):
            await self._ready.wait()
        if self._client is None or self.lost:
            words = f"{self.where} has not answered within {seconds:g} s"
            failure = self._failure or Unavailable(words)
            failure.sent = False
            raise failure

    async def aclose(self) -> None:
        self._closing.set()
        with anyio.CancelScope(shield=True):
            for call in self.calls:
                call.cancel()
            if self._running:
                _, late = await asyncio.wait(self._running, timeout=CLOSE_SECONDS)
                for task in late:
                    task.cancel()
                if late:
                    await asyncio.wait(late)
            if self.process is not None:
                await self.process.aclose()

    # Asking

    async def tools(self) -> list[Json]:
        """`tools/list`, all pages."""
        found: list[Json] = []
        cursor: str | None = None
        async with self._translated(None):
            while len(found) < MAX_TOOLS:
                with anyio.fail_after(CONTROL_SECONDS):
                    page = await self.client.list_tools(cursor=cursor, cache_mode="bypass")
                found += [tool.model_dump(by_alias=True, mode="json") for tool in page.tools]
                cursor = page.next_cursor
                if not cursor:
                    break
        return found

    async def read(self, uri: str) -> Json:
        """`resources/read`."""
        async with self._translated(None):
            with anyio.fail_after(CONTROL_SECONDS):
                found = await self.client.session.read_resource(uri)
            return found.model_dump(by_alias=True, mode="json", exclude_none=True)

    async def task(
        self, verb: Literal["get", "update", "cancel"], task_id: str, answers: Json | None = None
    ) -> Json:
        given = None if answers is None else dict(answers)
        params = _TaskParams(task_id=task_id, input_responses=given)
        request = _TaskRequest(method=f"tasks/{verb}", params=params)
        async with self._translated(None):
            with anyio.fail_after(CONTROL_SECONDS):
                found = await self.client.session.send_request(request, _Anything)
            return found.model_dump(by_alias=True, mode="json")

    # Calling

    def call(self, turn_id: str, name: str, arguments: Json) -> Call:
        incoming, outgoing = anyio.create_memory_object_stream[Came](_AHEAD)
        call = Call(turn_id, incoming, outgoing)
        self.calls.add(call)
        self._start(self._call(call, name, arguments), f"call of {turn_id}")
        return call

    async def _call(self, call: Call, name: str, arguments: Json) -> None:
        last: Came = Cancelled()
        try:
            with call.scope:
                async with self._translated(call):
                    last = await self._rounds(call, name, dict(arguments))
        except RuntimeFailure as exc:
            last = Failed(exc)
        finally:
            if self._closing.is_set():
                last = Failed(Unavailable(f"{self.where}: the connection was closed"))
            self.calls.discard(call)
            call.sent.set()
        await call.give(last)
        call.incoming.close()

    async def _rounds(self, call: Call, name: str, arguments: dict[str, Any]) -> Came:
        responses: t.InputResponses | None = None
        state: str | None = None
        meta = cast(t.RequestParamsMeta, {TURN: call.turn_id})

        async def moved(progress: float, total: float | None, message: str | None) -> None:
            await call.give(Moved(progress, total, message))

        for _ in range(MAX_ROUNDS):
            found = await self.client.session.call_tool(
                name,
                arguments,
                progress_callback=moved,
                input_responses=responses,
                request_state=state,
                meta=meta,
                allow_input_required=True,
                allow_claimed=True,
            )
            if isinstance(found, _Created):
                return BecameTask(found.task_id)
            if not isinstance(found, t.InputRequiredResult):
                return Returned(found.model_dump(by_alias=True, mode="json", exclude_none=True))
            state = found.request_state
            responses = None
            if not found.input_requests:
                await anyio.sleep(0.2)
                continue
            responses = {}
            for key, request in found.input_requests.items():
                if not isinstance(request, t.ElicitRequest):
                    words = f"{self.where} asks for {request.method}, which is not offered"
                    raise Rejected(words, kind="unsupported")
                params = request.params.model_dump(by_alias=True, mode="json", exclude_none=True)
                responses[key] = t.ElicitResult.model_validate(await call.ask(params))
        raise Rejected(f"{self.where} asks on and on, and was given up after {MAX_ROUNDS} rounds")

    async def _elicited(
        self, context: Any, params: t.ElicitRequestParams
    ) -> t.ElicitResult | t.ErrorData:
        """The handshake's era: asked on the connection, which carries one call."""
        body = params.model_dump(by_alias=True, mode="json", exclude_none=True)
        calls = list(self.calls)
        answer = await calls[0].ask(body) if len(calls) == 1 else {"action": "cancel"}
        return t.ElicitResult.model_validate(answer)

    @asynccontextmanager
    async def _translated(self, call: Call | None) -> AsyncIterator[None]:
        """Raise ours from the SDK's."""
        below = call or _Asking()
        token = _current.set(below)
        try:
            yield
        except MCPError as exc:
            raise await self._of(exc, below) from exc
        except TimeoutError as exc:
            raise Unavailable(f"{self.where}: no answer within {CONTROL_SECONDS:g} s") from exc
        except (ValidationError, RuntimeError, ValueError) as exc:
            raise ProtocolError(f"{self.where} does not keep to MCP: {clean(str(exc))}") from exc
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as exc:
            raise Unavailable(f"{self.where}: the connection is closed") from exc
        finally:
            _current.reset(token)

    async def _of(self, exc: MCPError, below: Call | _Asking) -> RuntimeFailure:
        if below.failure is not None:
            return below.failure
        if self.lost or (exc.code in _LOST and exc.message.startswith(_LOST_WORDS)):
            if self._failure is not None:
                return self._failure
            dead = self.process if self.lost and not self._closing.is_set() else None
            words = await dead.end() if dead else ""
            return Unavailable(words or f"{self.where}: {clean(exc.message)}")
        if exc.message.startswith("Unexpected content type"):  # the SDK's own words
            return ProtocolError(f"{self.where} does not keep to MCP: {clean(exc.message)}")
        said = self.process.scrub(exc.message) if self.process else exc.message
        return Rejected(f"{self.where}: {clean(said)}", kind=_KINDS.get(exc.code, "failed"))

    # Its life

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"{self.where}: {name}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _http(self, http: HTTP) -> None:
        def on_reply() -> None:
            if isinstance(call := _current.get(), Call):
                call.sent.set()

        def on_failure(failure: RuntimeFailure) -> None:
            if (below := _current.get()) is not None:
                below.failure = failure
            if not self._ready.is_set():
                self._failure = failure

        client = bridged(http, limit=MAX_LINE, on_reply=on_reply, on_failure=on_failure)
        async with client:
            await self._hold(
                streamable_http_client(http.base, http_client=client, max_sse_event_size=MAX_LINE)
            )

    async def _hold(self, transport: AbstractAsyncContextManager[Any]) -> None:
        """Be connected until it is closed.  Whatever ends it is said by `opened` and the calls."""
        client = Client(
            transport,
            mode=self._mode,
            elicitation_callback=self._elicited,
            extensions=self._extensions,
            client_info=t.Implementation(name="lap-mcp", title="LAP MCP", version="0"),
            cache=None,
        )
        try:
            async with self._translated(None), client:
                self._client = client
                self._ready.set()
                await self._closing.wait()
        except RuntimeFailure as exc:
            self._failure = self._failure or exc
        except ExceptionGroup as group:
            self._failure = self._failure or await self._from_within(group)
        finally:
            self.lost = True
            self._ready.set()

    async def _from_within(self, group: ExceptionGroup[Exception]) -> RuntimeFailure:
        """The failure that the SDK's task groups wrapped."""
        inner: Exception = group
        while isinstance(inner, ExceptionGroup):
            inner = inner.exceptions[0]
        if isinstance(inner, RuntimeFailure):
            return inner
        if isinstance(inner, MCPError):
            return await self._of(inner, _Asking())
        return ProtocolError(f"{self.where} does not keep to MCP: {clean(repr(inner))}")

    @asynccontextmanager
    async def _pipe(self, process: Process) -> AsyncIterator[Any]:
        """The SDK's transport over a program, with the limits of `process.py`."""
        incoming, outgoing = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        written, writing = anyio.create_memory_object_stream[SessionMessage](0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, process, incoming)
            tasks.start_soon(self._write, process, writing)
            try:
                yield outgoing, written
            finally:
                tasks.cancel_scope.cancel()
                for stream in (incoming, outgoing, written, writing):
                    stream.close()

    async def _read(
        self, process: Process, incoming: MemoryObjectSendStream[SessionMessage | Exception]
    ) -> None:
        try:
            message: t.JSONRPCMessage | None
            while (message := await process.message(_message)) is not None:
                await incoming.send(SessionMessage(message))
        except ProtocolError as exc:
            self._failure = exc
        self.lost = True
        incoming.close()

    async def _write(
        self, process: Process, writing: MemoryObjectReceiveStream[SessionMessage]
    ) -> None:
        with contextlib.suppress(Unavailable):
            async for sent in writing:
                message = sent.message
                line = message.model_dump_json(by_alias=True, exclude_unset=True)
                await process.send(line.encode("utf-8", "replace"))
                if isinstance(message, t.JSONRPCRequest) and message.method == "tools/call":
                    turn_id = mapping(mapping(message.params).get("_meta")).get(TURN)
                    for call in self.calls:
                        if call.turn_id == turn_id:
                            call.sent.set()
            return
        # It does not read: its stdout ends too, or there is no use in waiting for it.
        self.lost = True


def _message(line: bytes) -> t.JSONRPCMessage | None:
    try:
        return jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValidationError:
        return None
