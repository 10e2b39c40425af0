"""The ACP SDK over a program's stdin and stdout: requests, notifications, and what the agent sends
during the prompt of each session.  The only file that imports acp.

Messages are plain JSON: agents add fields and leave out others, which the SDK's models refuse.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
from acp import PROTOCOL_VERSION
from acp.connection import Connection
from acp.exceptions import RequestError
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from lap_runtimes.asking import Request
from lap_runtimes.content import Json, mapping
from lap_runtimes.errors import Kind, ProtocolError, Rejected, RuntimeFailure, Unavailable
from lap_runtimes.http_errors import clean, error_words
from lap_runtimes.process import Process

VERSION = PROTOCOL_VERSION
CONTROL_SECONDS = 60.0
"""For a request other than a prompt; agents load their tools when a session begins."""
MAX_HANDLED = 512
"""Messages of the agent that are handled at a time; more wait in its pipe."""
_AHEAD = 64
"""Messages of a turn that wait for its reader."""
_QUESTIONS = ("session/request_permission", "elicitation/create")
_KINDS: Mapping[int, Kind] = {
    -32000: "auth",
    -32002: "not_found",
    -32600: "invalid",
    -32601: "unsupported",
    -32602: "invalid",
}
_NOTHING: Mapping[str, Any] = {
    "session/request_permission": {"outcome": {"outcome": "cancelled"}},
    "elicitation/create": {"action": "cancel"},
}
"""What a question is answered with where nobody can be asked."""


@dataclass(slots=True)
class Update:
    """One `session/update`."""

    body: Any


@dataclass(slots=True)
class Answered:
    """The prompt's result."""

    result: Any


@dataclass(slots=True)
class Failed:
    """The prompt's error, or what became of the program."""

    error: RuntimeFailure


Sent = Update | Request | Answered | Failed


@dataclass(slots=True)
class Prompting:
    """A prompt that the agent works on, read or left."""

    session_id: str
    incoming: MemoryObjectSendStream[Sent]
    outgoing: MemoryObjectReceiveStream[Sent]
    requests: list[Request] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    settled: anyio.Event = field(default_factory=anyio.Event)
    """The prompt was written, or could not be."""
    over: anyio.Event = field(default_factory=anyio.Event)
    """The agent has answered it, or never will."""
    delivered: bool = False
    cancelled: bool = False
    """What the agent asks from now on is answered with nothing."""

    def give_up(self) -> None:
        """Answer everything that is open with nothing."""
        for request in self.requests:
            request.drop()


class Client:
    """One agent's program, initialised.  Made by `connect`; its owner calls `aclose`."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.info: Json = {}
        self._prompts: dict[str, Prompting] = {}
        self._closing = False
        self._pipe = _Pipe(process, self._written)
        self._connection = Connection(self._handle, self._pipe)

    async def connect(self, elicitation: bool, seconds: float) -> None:
        """`initialize`.  Raises `Rejected` for another version, `Unavailable`, `ProtocolError`."""
        offered: dict[str, Any] = {
            "fs": {"readTextFile": False, "writeTextFile": False},
            "terminal": False,
        }
        if elicitation:
            offered["elicitation"] = {"form": {}, "url": {}}
        params = {
            "protocolVersion": VERSION,
            "clientCapabilities": offered,
            "clientInfo": {"name": "lap-mcp", "title": "LAP MCP", "version": "0"},
        }
        self.info = mapping(await self.request("initialize", params, seconds))
        spoken = self.info.get("protocolVersion")
        if spoken != VERSION:
            raise Rejected(
                f"{self.process.where} speaks version {clean(str(spoken))[:40]} of the protocol; "
                f"supported is {VERSION}",
                kind="unsupported",
            )

    @property
    def lost(self) -> bool:
        return self._pipe.ended

    async def request(self, method: str, params: Json, seconds: float = CONTROL_SECONDS) -> Any:
        """Raises `Rejected` for an error of the agent, `Unavailable`, `ProtocolError`."""
        try:
            with anyio.fail_after(seconds):
                return await self._connection.send_request(method, dict(params))
        except TimeoutError as exc:
            words = f"{self.process.where} has not answered {method} within {seconds:g} s"
            raise Unavailable(words) from exc
        except RequestError as exc:
            raise self._rejection(exc) from exc
        except ConnectionError as exc:
            raise await self._loss() from exc

    async def notify(self, method: str, params: Json) -> None:
        try:
            await self._connection.send_notification(method, dict(params))
        except ConnectionError as exc:
            raise await self._loss() from exc

    def working(self, session_id: str) -> Prompting | None:
        return self._prompts.get(session_id)

    async def prompt(self, session_id: str, blocks: list[Json]) -> Prompting:
        """Send a prompt; what follows comes out of `outgoing`, to its end.  It is written when this
        returns, so that a cancel comes after it; unless `delivered` is False."""
        incoming, outgoing = anyio.create_memory_object_stream[Sent](_AHEAD)
        prompting = Prompting(session_id, incoming, outgoing)
        self._prompts[session_id] = prompting
        work = self._prompt(prompting, blocks)
        prompting.task = asyncio.get_running_loop().create_task(work, name=f"prompt {session_id}")
        await prompting.settled.wait()
        return prompting

    async def _prompt(self, prompting: Prompting, blocks: list[Json]) -> None:
        params = {"sessionId": prompting.session_id, "prompt": blocks}
        last: Sent
        try:
            last = Answered(await self._connection.send_request("session/prompt", params))
        except RequestError as exc:
            last = Failed(self._rejection(exc))
        except ConnectionError:
            last = Failed(await self._loss())
        except RuntimeFailure as exc:
            last = Failed(exc)
        finally:
            self._prompts.pop(prompting.session_id, None)
            prompting.give_up()
            prompting.settled.set()
            prompting.over.set()
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await prompting.incoming.send(last)
        prompting.incoming.close()

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            prompts = list(self._prompts.values())
            for prompting in prompts:
                prompting.give_up()
                prompting.outgoing.close()
            self._closing = True
            await self._connection.close()
            await self.process.aclose()
            tasks = [prompting.task for prompting in prompts if prompting.task is not None]
            if tasks:
                await asyncio.wait(tasks, timeout=CONTROL_SECONDS)

    def _written(self, message: Json) -> None:
        if message.get("method") == "session/prompt":
            prompting = self._prompts.get(str(mapping(message.get("params")).get("sessionId")))
            if prompting is not None:
                prompting.delivered = True
                prompting.settled.set()

    # What the agent sends

    async def _handle(self, method: str, params: Any, is_notification: bool) -> Any:
        self._pipe.handling += 1
        try:
            body = mapping(params)
            prompting = self._prompts.get(str(body.get("sessionId", "")))
            if is_notification:
                if method == "session/update" and prompting is not None:
                    await self._pass_on(prompting, Update(body.get("update")))
                return None
            if method not in _QUESTIONS:
                raise RequestError.method_not_found(str(method)[:200])
            reply = await self._asked(prompting, method, body) if prompting is not None else None
            return _NOTHING[method] if reply is None else reply
        finally:
            self._pipe.handled()

    async def _asked(self, prompting: Prompting, method: str, params: Json) -> Any:
        if prompting.cancelled:
            return None
        request = Request.of(method, params)
        prompting.requests.append(request)
        try:
            await self._pass_on(prompting, request)
            return await request.reply
        finally:
            prompting.requests.remove(request)

    @staticmethod
    async def _pass_on(prompting: Prompting, sent: Update | Request) -> None:
        try:
            await prompting.incoming.send(sent)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            if isinstance(sent, Request):
                sent.drop()

    def _rejection(self, exc: RequestError) -> Rejected:
        where = self.process.where
        data = mapping(exc.data)
        details = error_words(data.get("details") or dict(data))
        said = ": ".join(dict.fromkeys(filter(None, (clean(str(exc)), details))))
        kind = _KINDS.get(exc.code if isinstance(exc.code, int) else 0, "failed")
        if kind == "auth":
            said += "; sign in with the agent itself first, or set auth_method"
        return Rejected(f"{where}: {self.process.scrub(said)}", kind=kind)

    async def _loss(self) -> RuntimeFailure:
        if self._pipe.failure is not None:
            return self._pipe.failure
        if self._closing:
            return Unavailable(f"{self.process.where} was closed")
        return Unavailable(await self.process.end())


class _Pipe:
    """The SDK's transport over a `Process`, with limits.  It never fails: an end has a reason in
    `failure`, or the program has ended."""

    def __init__(self, process: Process, written: Callable[[Json], None]) -> None:
        self.failure: RuntimeFailure | None = None
        self.ended = False
        self.handling = 0
        self._fewer = asyncio.Event()
        self._process = process
        self._written = written

    def handled(self) -> None:
        self.handling -= 1
        self._fewer.set()

    async def send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
        try:
            await self._process.send(line.encode("utf-8", "replace"))
        except Unavailable as exc:
            raise ConnectionError(exc.message) from exc
        self._written(message)

    async def receive(self) -> dict[str, Any] | None:
        while self.handling >= MAX_HANDLED:
            self._fewer.clear()
            await self._fewer.wait()
        message: dict[str, Any] | None = None
        try:
            message = await self._process.message(_message)
        except ProtocolError as exc:
            self.failure = exc
        self.ended = message is None
        return message

    async def close(self) -> None:
        self.ended = True


def _message(line: bytes) -> dict[str, Any] | None:
    """A JSON-RPC message; None for anything else, such as a banner."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or not isinstance(message.get("id"), (int, str, type(None))):
        return None
    if "method" in message and not isinstance(message["method"], str):
        return None
    error = message.get("error")
    if error is not None and not isinstance(error, dict):
        message["error"] = {"code": -32603, "message": clean(str(error))}
    return message
