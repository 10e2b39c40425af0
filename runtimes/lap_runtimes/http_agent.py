"""Agents on custom infrastructure, described in the configuration: a request template, where the
text is in a JSON, NDJSON or server-sent-events answer, and how to continue, attach and cancel.

The template language is in `http_template.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, ClassVar

import anyio

from lap_runtimes import base
from lap_runtimes.base import AgentInfo, Capabilities, Event, EventStream, Prompt, Ref, Turn
from lap_runtimes.errors import Rejected, Unsupported
from lap_runtimes.http import HTTP, MAX_JSON, Reply
from lap_runtimes.http_agent_answer import Reading
from lap_runtimes.http_agent_config import HTTPAgentConfig, RequestTemplate
from lap_runtimes.http_template import Answer, as_text, filled, filled_path
from lap_runtimes.naming import named
from lap_runtimes.stream import Form, StreamReader, frames

_FORMS: dict[str, Form] = {"sse": "sse", "ndjson": "ndjson"}


class HTTPAgentRuntime:
    """One agent, or several that differ by `${agent}`."""

    kind: ClassVar[str] = "http"
    Config: ClassVar[type[HTTPAgentConfig]] = HTTPAgentConfig

    def __init__(self, config: HTTPAgentConfig) -> None:
        self._config = config
        self._http = HTTP(config)
        later = config.continue_request or config.request
        self._named = config.request.variables() | later.variables()

    @property
    def capabilities(self) -> Capabilities:
        config = self._config
        keeps = {"session_id", "session_uuid"} & self._named or config.continue_request
        aborts = config.on_disconnect == "aborts"
        return Capabilities(
            stream=config.answer.form != "json",
            conversation="caller"
            if "messages" in self._named
            else ("runtime" if keeps else "none"),
            attach="history" if config.attach_request or config.poll_request else "none",
            cancel="remote" if config.cancel_request else ("disconnect" if aborts else "none"),
            on_disconnect=config.on_disconnect,
            idempotent_start=config.idempotent,
            usage=config.answer.usage is not None,
        )

    async def check(self) -> str:
        if self._config.check_path is not None:
            async with self._http.stream("GET", self._http.url(self._config.check_path)) as reply:
                return f"answers with status {reply.status}"
        with self._http.within():
            reply = await self._http.open("OPTIONS", self._http.url(""))
            try:
                if reply.status >= 500 or reply.status in (401, 403):
                    await self._http.refuse_errors(reply)
                return f"reachable (OPTIONS answered {reply.status})"
            finally:
                await reply.aclose()

    async def agents(self) -> Sequence[AgentInfo]:
        raise Unsupported("a custom HTTP runtime cannot list its agents; name them in [agents]")

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn))

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return aclosing(self._attached(ref, cursor))

    async def answer(self, ref: Ref, answer: base.Answer) -> None:
        raise Unsupported("a custom HTTP agent asks no questions")

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("a custom HTTP agent takes no message while it works")

    async def cancel(self, ref: Ref) -> None:
        request = self._config.cancel_request
        if request is None:
            raise Unsupported("without cancel_request the agent cannot be cancelled")
        values = self._of(ref)
        try:
            with self._http.within():
                async with self._send(request, values):
                    pass
        except Rejected as exc:
            if exc.kind not in ("not_found", "conflict", "gone"):
                raise

    async def aclose(self) -> None:
        await self._http.aclose()

    # One request and its answer

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        if not isinstance(turn.input, Prompt):
            raise Unsupported("a custom HTTP agent asks no questions")
        if turn.input.files:
            raise Unsupported("a custom HTTP agent takes no files")
        capabilities = self.capabilities
        continued = bool(turn.ref.get("turns"))
        if continued and capabilities.conversation == "none":
            raise Unsupported(
                "this agent keeps no conversation; start a new session, or put ${session_id}, "
                "${messages} or a continue_request into its configuration"
            )
        if continued and capabilities.conversation == "caller" and turn.history is None:
            raise Unsupported("${messages} needs the history of the session")
        config = self._config
        request = (
            config.continue_request if turn.ref and config.continue_request else config.request
        )
        kept = dict(turn.ref.get("kept", {}))
        values = {**_prompt(turn, turn.input), **_ids(turn.id, turn.session_id), **_refs(kept)}
        if "nested" in request.variables():
            if turn.nested is None:
                raise Unsupported("${nested} is for agents that a server calls: there is none here")
            values["nested"] = await turn.nested()
        beginning = {
            "turn": turn.id,
            "session": turn.session_id,
            "kept": kept,
            "turns": turn.ref.get("turns", 0),
        }
        async with aclosing(self._exchange(request, values, beginning)) as events:
            async for event in events:
                yield event

    async def _attached(self, ref: Ref, cursor: str | None) -> AsyncGenerator[Event, None]:
        request = self._config.attach_request or self._config.poll_request
        if request is None:
            raise Unsupported("without attach_request a lost stream cannot be read again")
        if cursor is not None:
            raise Unsupported("there are no cursors here; attach without one")
        async with aclosing(self._exchange(request, self._of(ref), ref)) as events:
            async for event in events:
                yield event

    @staticmethod
    def _of(ref: Ref) -> dict[str, Any]:
        ids = _ids(str(ref.get("turn", "")), str(ref.get("session", "")))
        return {**ids, **_refs(ref.get("kept", {}))}

    @asynccontextmanager
    async def _send(
        self, request: RequestTemplate, values: Mapping[str, Any]
    ) -> AsyncIterator[Reply]:
        missing = [n for n in request.variables() if n.startswith("ref.") and n not in values]
        if missing:
            raise Rejected(
                f"the agent has not yet given {', '.join(sorted(missing))}, which this needs",
                kind="invalid",
                sent=False,
            )
        headers = {name: as_text(filled(each, values)) for name, each in request.headers.items()}
        if any(not value.isprintable() for value in headers.values()):
            raise Rejected("a header would hold control characters", kind="invalid", sent=False)
        async with self._http.stream(
            request.method,
            self._http.url(filled_path(request.path, values)),
            json=None if request.body is None else filled(request.body, values),
            headers=headers,
        ) as reply:
            yield reply

    async def _exchange(
        self, request: RequestTemplate, values: Mapping[str, Any], beginning: Ref
    ) -> AsyncGenerator[Event, None]:
        reading = Reading(self._config.answer, beginning)
        async with (
            self._send(request, values) as reply,
            aclosing(self._events(reply, reading)) as events,
        ):
            async for event in events:
                yield event
        poll = self._config.poll_request
        while poll is not None and not reading.finished:
            await anyio.sleep(self._config.poll_interval)
            answer = await self._look(poll, {**values, **_refs(reading.kept)})
            for event in reading.look(answer):
                yield event

    async def _look(self, request: RequestTemplate, values: Mapping[str, Any]) -> Answer:
        """One look at work that goes on."""
        with self._http.within():
            async with self._send(request, values) as reply:
                return await _body(reply)

    async def _events(self, reply: Reply, reading: Reading) -> AsyncGenerator[Event, None]:
        headers = _headers(reply)
        form = self._config.answer.form
        if form == "json":
            read_it = reading.look if self._config.poll_request else reading.whole
            for event in read_it(await _body(reply)):
                yield named(event, reply.headers)
            return
        reader = StreamReader(_FORMS[form])
        async with aclosing(reply.chunks()) as chunks, aclosing(frames(chunks, reader)) as read:
            async for frame in read:
                if frame is None:
                    yield base.Heartbeat()
                    continue
                answer = Answer.read(frame.data, headers, frame.event, frame.id)
                for event in reading.feed(answer):
                    yield named(event, reply.headers)
                if reading.finished:
                    return
        for event in reading.end(said_done=reader.done):
            yield event


def _headers(reply: Reply) -> dict[str, str]:
    return {name.lower(): value for name, value in reply.headers.items()}


async def _body(reply: Reply) -> Answer:
    body = await reply.read(MAX_JSON)
    return Answer.read(body.decode("utf-8", "replace"), _headers(reply))


def _prompt(turn: Turn, prompt: Prompt) -> dict[str, Any]:
    roles = {"user": "user", "agent": "assistant"}
    said = [{"role": roles[past.role], "content": past.text} for past in turn.history or ()]
    return {
        "prompt": prompt.text,
        "input": None if prompt.input is None else dict(prompt.input),
        "messages": [*said, {"role": "user", "content": prompt.text}],
        "agent": turn.agent,
    }


def _ids(turn_id: str, session_id: str) -> dict[str, str]:
    return {
        "turn_id": turn_id,
        "turn_uuid": _uuid(turn_id),
        "session_id": session_id,
        "session_uuid": _uuid(session_id),
    }


def _uuid(ours: str) -> str:
    """The same 128 bits as a UUID; of an id of another form, one derived from it."""
    digits = ours.partition("_")[2]
    try:
        return str(uuid.UUID(digits))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, ours))


def _refs(kept: Mapping[str, Any]) -> dict[str, Any]:
    return {f"ref.{name}": value for name, value in kept.items()}
