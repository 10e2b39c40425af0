"""Agents of A2A 0.3, through the A2A SDK, which turns what they say into 1.0.  The only file that
imports a2a, and the httpx that its SDK wants; what travels there goes through `http.py` and its
rules for origins, credentials, TLS, redirects and sizes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager

import httpx
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.client.card_resolver import parse_agent_card
from a2a.types import a2a_pb2 as wire
from a2a.utils import errors as foreign
from google.protobuf.json_format import (  # type: ignore[import-untyped]
    MessageToDict,
    ParseDict,
    ParseError,
)

from lap_runtimes.a2a_card import Card
from lap_runtimes.a2a_client import MAX_EVENT, NOT_BEGUN, Json
from lap_runtimes.errors import Kind, ProtocolError, Rejected
from lap_runtimes.http import HTTP, Reply
from lap_runtimes.http_errors import MAX_ERROR_BODY, clean
from lap_runtimes.stream import EventMeter

FOREIGN: tuple[tuple[type[Exception], Kind], ...] = (
    (foreign.TaskNotFoundError, "not_found"),
    (foreign.TaskNotCancelableError, "conflict"),
    (foreign.PushNotificationNotSupportedError, "unsupported"),
    (foreign.UnsupportedOperationError, "unsupported"),
    (foreign.ContentTypeNotSupportedError, "invalid"),
    (foreign.InternalError, "failed"),
    (foreign.InvalidAgentResponseError, "failed"),
    (foreign.ExtendedAgentCardNotConfiguredError, "unsupported"),
    (foreign.InvalidParamsError, "invalid"),
    (foreign.InvalidRequestError, "invalid"),
    (foreign.MethodNotFoundError, "unsupported"),
    (foreign.JSONParseError, "invalid"),
    (foreign.ExtensionSupportRequiredError, "unsupported"),
    (foreign.VersionNotSupportedError, "unsupported"),
)
"""An error that the agent answered with, and what it is to us."""

_NO_A2A = (
    ParseError,
    httpx.HTTPError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RecursionError,
)
"""What the SDK raises for an answer that is none."""


@contextmanager
def foreign_errors(where: str) -> Iterator[None]:
    """Raise ours from the SDK's: `Rejected` for an A2A error, `ProtocolError` for no A2A."""
    try:
        yield
    except tuple(cls for cls, _ in FOREIGN) as exc:
        kind = next(kind for cls, kind in FOREIGN if isinstance(exc, cls))
        words = clean(str(exc))
        raise Rejected(f"{where}: {words}", kind=kind, sent=kind not in NOT_BEGUN) from exc
    except foreign.A2AError as exc:
        raise ProtocolError(f"{where} does not speak A2A: {clean(str(exc))}") from exc
    except _NO_A2A as exc:
        raise ProtocolError(f"{where} does not speak A2A: {clean(str(exc))}") from exc


class LegacyPeer:
    """The SDK's client for one call, on our HTTP.  Closing it closes every answer still open, which
    the SDK would leave to the garbage collector.  Messages, tasks and responses are the JSON of A2A
    1.0."""

    def __init__(self, card: Card, http: HTTP) -> None:
        self._http = http
        self._where = http.rules.home
        self.streams = card.streams
        self._httpx = httpx.AsyncClient(transport=_Bridge(http), timeout=None, trust_env=False)
        config = ClientConfig(
            httpx_client=self._httpx, supported_protocol_bindings=[card.interface.binding]
        )
        with foreign_errors(self._where):
            self._client: Client = ClientFactory(config).create(_wire(card))

    async def aclose(self) -> None:
        await self._httpx.aclose()

    def send(self, message: Json) -> AsyncGenerator[Json | None, None]:
        """`SendStreamingMessage`, or `SendMessage` with `returnImmediately` where the agent does
        not stream: then one response."""
        with foreign_errors(self._where):
            request = wire.SendMessageRequest(message=ParseDict(message, wire.Message()))
        request.configuration.return_immediately = not self.streams
        return self._responses(self._client.send_message(request))

    def subscribe(self, task_id: str) -> AsyncGenerator[Json | None, None]:
        return self._responses(self._client.subscribe(wire.SubscribeToTaskRequest(id=task_id)))

    async def look(self, task_id: str) -> Json:
        with self._http.within(), foreign_errors(self._where):
            task = await self._client.get_task(wire.GetTaskRequest(id=task_id))
            found: Json = MessageToDict(task)
            return found

    async def cancel(self, task_id: str) -> None:
        with self._http.within(), foreign_errors(self._where):
            await self._client.cancel_task(wire.CancelTaskRequest(id=task_id))

    async def _responses(
        self, responses: AsyncIterator[wire.StreamResponse]
    ) -> AsyncGenerator[Json | None, None]:
        with foreign_errors(self._where):
            async for response in responses:
                yield MessageToDict(response)


def _wire(card: Card) -> wire.AgentCard:
    """The card as the SDK reads it, with the one address that was chosen."""
    made = parse_agent_card(copy.deepcopy(dict(card.raw)))
    chosen = card.interface
    del made.supported_interfaces[:]
    made.supported_interfaces.append(
        wire.AgentInterface(
            url=chosen.url,
            protocol_binding=chosen.binding,
            protocol_version=chosen.version,
            tenant=chosen.tenant,
        )
    )
    return made


class _Bridge(httpx.AsyncBaseTransport):
    """httpx's requests, sent by `http.py`: its origins, credential, TLS, redirects and errors."""

    def __init__(self, http: HTTP) -> None:
        self._http = http
        self._open: set[Reply] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        dropped = ("host", "content-length", "connection", "user-agent", "accept-encoding")
        reply = await self._http.open(
            request.method,
            str(request.url),
            content=await request.aread(),
            headers={k: v for k, v in request.headers.items() if k not in dropped},
            whence="the agent card",
        )
        self._open.add(reply)
        if reply.status >= 400:
            return await self._error(reply)
        kept = {"content-type": reply.headers.get("content-type", "")}
        return httpx.Response(reply.status, headers=kept, stream=_Body(reply))

    async def aclose(self) -> None:
        for reply in list(self._open):
            self._open.discard(reply)
            await reply.aclose()

    async def _error(self, reply: Reply) -> httpx.Response:
        """An A2A error in the body goes to the SDK, which knows its codes; others are raised."""
        body = self._http.scrub(await reply.read(MAX_ERROR_BODY, cut=True))
        try:
            error = json.loads(body).get("error", {})
            code, details = error.get("code"), error.get("details")
        except (ValueError, AttributeError, RecursionError):
            code, details = None, None
        if isinstance(code, int) and code < 0:
            return httpx.Response(200, headers={"content-type": "application/json"}, content=body)
        if details:
            return httpx.Response(reply.status, content=body)
        raise self._http.rejection(reply, body)


class _Body(httpx.AsyncByteStream):
    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    async def __aiter__(self) -> AsyncIterator[bytes]:
        meter = EventMeter(MAX_EVENT, events=self._reply.media_type == "text/event-stream")
        async with aclosing(self._reply.chunks()) as chunks:
            async for chunk in chunks:
                meter.count(chunk)
                yield chunk

    async def aclose(self) -> None:
        await self._reply.aclose()
