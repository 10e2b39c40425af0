"""Calls to one A2A 1.0 agent, over JSON-RPC or HTTP+JSON, as the specification writes them.

What travels is the protocol's own JSON, which is what the fold reads: through the SDK's messages of
protobuf and its HTTP client a turn costs four times the CPU.  Agents of 0.3 are spoken to through
the SDK, which knows both versions (`a2a_legacy.py`).
Wire format: A2A specification 1.0, sections 9 (JSON-RPC) and 11 (HTTP+JSON), errors in 3.3.2.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Protocol
from urllib.parse import quote

from lap_runtimes.a2a_card import Card
from lap_runtimes.errors import Kind, ProtocolError, Rejected
from lap_runtimes.http import HTTP, MAX_JSON, Reply
from lap_runtimes.http_errors import MAX_ERROR_BODY, clean
from lap_runtimes.stream import StreamReader, frames

Json = Mapping[str, Any]

MAX_EVENT = 72 * 1024 * 1024
"""Bytes of one event: an inline file of `MAX_FILE_BYTES` as base64, and its frame."""
_VERSION = {"A2A-Version": "1.0"}
_EVENTS = "text/event-stream"

ERRORS: Mapping[str, tuple[int, Kind]] = {
    "TASK_NOT_FOUND": (-32001, "not_found"),
    "TASK_NOT_CANCELABLE": (-32002, "conflict"),
    "PUSH_NOTIFICATION_NOT_SUPPORTED": (-32003, "unsupported"),
    "UNSUPPORTED_OPERATION": (-32004, "unsupported"),
    "CONTENT_TYPE_NOT_SUPPORTED": (-32005, "invalid"),
    "INVALID_AGENT_RESPONSE": (-32006, "failed"),
    "EXTENDED_AGENT_CARD_NOT_CONFIGURED": (-32007, "unsupported"),
    "EXTENSION_SUPPORT_REQUIRED": (-32008, "unsupported"),
    "VERSION_NOT_SUPPORTED": (-32009, "unsupported"),
    "INVALID_REQUEST": (-32600, "invalid"),
    "METHOD_NOT_FOUND": (-32601, "unsupported"),
    "INVALID_PARAMS": (-32602, "invalid"),
    "INTERNAL_ERROR": (-32603, "failed"),
    "PARSE_ERROR": (-32700, "invalid"),
}
"""An error that the agent answered with: its reason (HTTP+JSON), its code (JSON-RPC), and what
it is to us."""
NOT_BEGUN = frozenset({"not_found", "conflict", "unsupported", "invalid"})
"""The agent has not begun to work on what it refused in these ways."""


class Peer(Protocol):
    """One agent.  Messages, tasks and responses are the JSON of A2A 1.0, whatever it speaks.
    Raises `RuntimeFailure`s."""

    streams: bool

    def send(self, message: Json) -> AsyncGenerator[Json | None, None]:
        """`SendStreamingMessage`, or `SendMessage` that returns at once where the agent does not
        stream: then one response.  `None`: bytes came that say nothing."""
        ...

    def subscribe(self, task_id: str) -> AsyncGenerator[Json | None, None]: ...

    async def look(self, task_id: str) -> Json: ...

    async def cancel(self, task_id: str) -> None: ...

    async def aclose(self) -> None: ...


def peer_of(card: Card, http: HTTP) -> Peer:
    """Raises: Rejected where the agent is of 0.3 and the SDK is not installed."""
    if not card.interface.legacy:
        return RPC(card, http) if card.interface.binding == "JSONRPC" else REST(card, http)
    try:
        from lap_runtimes.a2a_legacy import LegacyPeer
    except ModuleNotFoundError as exc:
        raise Rejected(
            f"{clean(card.name)} speaks {card.protocol}, which needs an extra: "
            "pip install 'lap-mcp[a2a]'",
            kind="unsupported",
            sent=False,
        ) from exc
    return LegacyPeer(card, http)


class _Peer:
    """What both bindings share.  Nothing is open between calls."""

    def __init__(self, card: Card, http: HTTP) -> None:
        self._http = http
        self._where = http.rules.home
        self._url = card.interface.url
        self._tenant = card.interface.tenant
        self.streams = card.streams

    async def aclose(self) -> None:
        """Nothing is open."""

    def _sending(self, message: Json) -> Json:
        request: dict[str, Any] = {"message": message}
        if not self.streams:
            request["configuration"] = {"returnImmediately": True}
        return request

    async def _open(self, method: str, url: str, body: Json | None, accept: str) -> Reply:
        headers = {**_VERSION, "Accept": accept}
        content = None
        if body is not None:
            content = json.dumps(body, ensure_ascii=False).encode()
            headers["Content-Type"] = "application/json"
        return await self._http.open(
            method, url, content=content, headers=headers, whence="the agent card"
        )

    async def _once(self, method: str, url: str, body: Json | None) -> Any:
        with self._http.within():
            reply = await self._open(method, url, body, "application/json")
            try:
                return await self._whole(reply)
            finally:
                await reply.aclose()

    async def _stream(self, method: str, url: str, body: Json | None) -> AsyncGenerator[Any, None]:
        """Values of the stream's events; `None` for bytes without one."""
        reply = await self._open(method, url, body, _EVENTS)
        try:
            if reply.media_type != _EVENTS:
                yield await self._whole(reply)
                return
            await self._refuse(reply)
            reader = StreamReader("sse", limit=MAX_EVENT)
            async with (
                aclosing(reply.chunks()) as chunks,
                aclosing(frames(chunks, reader)) as found,
            ):
                async for frame in found:
                    yield None if frame is None else self._parsed(frame.data)
        finally:
            await reply.aclose()

    async def _whole(self, reply: Reply) -> Any:
        await self._refuse(reply)
        return self._parsed(await reply.read(max(MAX_EVENT, MAX_JSON)))

    async def _refuse(self, reply: Reply) -> None:
        """Raise what a status of 400 or more means."""
        if reply.status < 400:
            return
        body = self._http.scrub(await reply.read(MAX_ERROR_BODY, cut=True))
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        refused = self._http.rejection(reply, body)
        if isinstance(found, dict):
            try:
                self._raise_error(found, status=reply.status)
            except Rejected as exc:
                exc.status, exc.request_id = refused.status, refused.request_id
                exc.retry_after = refused.retry_after
                raise
        raise refused

    def _parsed(self, text: str | bytes) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise self._no_a2a(f"{text[:100]!r} is not JSON") from exc

    def _raise_error(self, body: Json, *, status: int | None = None) -> None:
        """Raise the A2A error that a body says, if it says one."""
        error = body.get("error")
        if error is None:
            return
        if not isinstance(error, dict):
            raise self._no_a2a("its error is not an object")
        code, reason = error.get("code"), _reason(error)
        kind = next(
            (k for name, (c, k) in ERRORS.items() if name == reason or (c == code and c < 0)), None
        )
        if kind is None:
            if status is not None:
                return
            kind = "failed"
        words = clean(str(error.get("message", ""))) or reason or f"error {code}"
        raise Rejected(f"{self._where}: {words}", kind=kind, sent=kind not in NOT_BEGUN)

    def _no_a2a(self, words: str) -> ProtocolError:
        return ProtocolError(f"{self._where} does not speak A2A: {clean(words)}")

    def _response(self, value: Any) -> Json:
        if isinstance(value, dict):
            return value
        raise self._no_a2a("its answer is not an object")


def _reason(error: Json) -> str:
    """`google.rpc.ErrorInfo.reason`, where the error has one."""
    for key in ("details", "data"):
        entries = error.get(key)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("reason"), str):
                return str(entry["reason"])
    return ""


class RPC(_Peer):
    """JSON-RPC 2.0: every call is a POST to one address."""

    def send(self, message: Json) -> AsyncGenerator[Json | None, None]:
        method = "SendStreamingMessage" if self.streams else "SendMessage"
        return self._results(method, self._sending(message))

    def subscribe(self, task_id: str) -> AsyncGenerator[Json | None, None]:
        return self._results("SubscribeToTask", {"id": task_id})

    async def look(self, task_id: str) -> Json:
        return await self._result("GetTask", {"id": task_id})

    async def cancel(self, task_id: str) -> None:
        await self._result("CancelTask", {"id": task_id})

    async def _result(self, method: str, params: Json) -> Json:
        found = await self._once("POST", self._url, self._request(method, params))
        return self._response(self._unpacked(found))

    async def _results(self, method: str, params: Json) -> AsyncGenerator[Json | None, None]:
        values = self._stream("POST", self._url, self._request(method, params))
        async with aclosing(values):
            async for value in values:
                yield None if value is None else self._response(self._unpacked(value))

    def _request(self, method: str, params: Json) -> Json:
        if self._tenant:
            params = {"tenant": self._tenant, **params}
        return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}

    def _unpacked(self, value: Any) -> Any:
        answer = self._response(value)
        self._raise_error(answer)
        if "result" not in answer:
            raise self._no_a2a("its answer has neither a result nor an error")
        return answer["result"]


class REST(_Peer):
    """HTTP+JSON: an address each."""

    def send(self, message: Json) -> AsyncGenerator[Json | None, None]:
        verb = "stream" if self.streams else "send"
        return self._responses(self._at(f"message:{verb}"), self._sending(message))

    def subscribe(self, task_id: str) -> AsyncGenerator[Json | None, None]:
        return self._responses(self._at(f"tasks/{quote(task_id, safe='')}:subscribe"), None)

    async def look(self, task_id: str) -> Json:
        found = await self._once("GET", self._at(f"tasks/{quote(task_id, safe='')}"), None)
        return self._checked(found)

    async def cancel(self, task_id: str) -> None:
        url = self._at(f"tasks/{quote(task_id, safe='')}:cancel")
        self._checked(await self._once("POST", url, {"id": task_id}))

    async def _responses(self, url: str, body: Json | None) -> AsyncGenerator[Json | None, None]:
        values = self._stream("POST", url, body)
        async with aclosing(values):
            async for value in values:
                yield None if value is None else self._checked(value)

    def _at(self, path: str) -> str:
        start = f"{self._url.rstrip('/')}/"
        return f"{start}{quote(self._tenant, safe='')}/{path}" if self._tenant else start + path

    def _checked(self, value: Any) -> Json:
        answer = self._response(value)
        self._raise_error(answer)
        return answer
