"""Agents behind an OpenAI Responses API, or anything compatible: streaming or whole answers,
conversation state in each of its forms, background work where the server offers it.

What the events mean is in `responses_fold.py` and `responses_items.py`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Literal

import anyio
from pydantic import Field, model_validator

from lap_runtimes.base import (
    AgentInfo,
    Answer,
    Answers,
    Capabilities,
    Event,
    EventStream,
    Heartbeat,
    Prompt,
    PromptFile,
    Ref,
    Turn,
)
from lap_runtimes.config import HTTPRuntimeConfig
from lap_runtimes.errors import ProtocolError, Rejected, Unsupported
from lap_runtimes.files import at_once, fetched
from lap_runtimes.http import HTTP, Reply
from lap_runtimes.naming import named
from lap_runtimes.responses_fold import PENDING, Cursor, ResponseFold
from lap_runtimes.responses_items import input_item, mapping
from lap_runtimes.stream import StreamReader, frames

MAX_RESPONSE = 72 * 1024 * 1024
"""Bytes of one event or answer: a generated image comes inside it."""
_OURS = ("input", "stream", "background", "store", "previous_response_id", "conversation")


class OpenAIResponsesConfig(HTTPRuntimeConfig):
    """`url` ends where `/responses` begins, mostly in `/v1`."""

    model: str = ""
    """For agents that name none; empty for servers that want none."""
    instructions: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Sent as they are: MCP servers, web search, functions (which are asked back as questions)."""
    state: Literal["previous_response_id", "conversation", "resend"] = "previous_response_id"
    """Who keeps the conversation: the server by response id, the server in a `/conversations`
    object, or nobody, so that each turn sends everything again."""
    background: bool = False
    """The server works on when the connection is lost, and can be attached to and cancelled."""
    stream: bool = True
    poll_interval: float = Field(1.0, gt=0)
    """Seconds between two looks at background work that is not streamed."""
    body: Mapping[str, Any] = Field(default_factory=dict)
    """More fields for each request (`temperature`, `metadata`, `context`, …)."""

    @model_validator(mode="after")
    def _fits_together(self) -> OpenAIResponsesConfig:
        taken = sorted(set(self.body) & set(_OURS))
        if taken:
            raise ValueError(f"body: {', '.join(taken)} is set by the adapter; remove it there")
        if self.background and self.state == "resend":
            raise ValueError('background: needs a server that stores responses, not state="resend"')
        return self


class OpenAIResponsesRuntime:
    """`Turn.agent` is the model, or empty for the configured one."""

    kind: ClassVar[str] = "openai_responses"
    Config: ClassVar[type[OpenAIResponsesConfig]] = OpenAIResponsesConfig

    def __init__(self, config: OpenAIResponsesConfig, http: HTTP | None = None) -> None:
        """`http` in place of the configuration's address and credential."""
        self._config = config
        self._http = http or HTTP(config)
        self._cursors = config.background and config.stream

    @property
    def capabilities(self) -> Capabilities:
        background, resends = self._config.background, self._config.state == "resend"
        return Capabilities(
            discover=True,
            stream=self._config.stream,
            answer="none" if resends else "resume",
            conversation="caller" if resends else "runtime",
            attach=("cursor" if self._config.stream else "history") if background else "none",
            cancel="remote" if background else "disconnect",
            on_disconnect="continues" if background else "unknown",
            files_in=True,
            files_out=True,
            usage=True,
        )

    async def check(self) -> str:
        found = await self._http.json("GET", self._http.url("models"))
        count = len(mapping(found).get("data") or [])
        return f"Responses API with {count} models"

    async def agents(self) -> Sequence[AgentInfo]:
        """The configured model; without one, all that the server lists."""
        if self._config.model:
            return [AgentInfo(ref=self._config.model, name=self._config.model)]
        found = mapping(await self._http.json("GET", self._http.url("models"))).get("data")
        models = [mapping(each) for each in found] if isinstance(found, list) else []
        return [AgentInfo(ref=str(m["id"]), name=str(m["id"])) for m in models if m.get("id")]

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn))

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return aclosing(self._attached(ref, cursor))

    async def answer(self, ref: Ref, answer: Answer) -> None:
        raise Unsupported("a Responses server is answered by a new start")

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("the Responses API takes no message while it works")

    async def cancel(self, ref: Ref) -> None:
        if not self._config.background:
            raise Unsupported("only background responses have a call that cancels")
        path = f"responses/{self._response(ref)}"
        try:
            await self._http.json("POST", self._http.url(f"{path}/cancel"))
        except Rejected as exc:
            if exc.kind not in ("invalid", "conflict"):
                raise
            found = mapping(await self._http.json("GET", self._http.url(path)))
            if found.get("status") in PENDING:
                raise

    async def aclose(self) -> None:
        await self._http.aclose()

    # Reading

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        body, ref = await self._request(turn)
        fold = ResponseFold(turn.id, ref, cursors=self._cursors, after=None)
        accept = "text/event-stream" if self._config.stream else "application/json"
        url = self._http.url("responses")
        headers = {"Accept": accept}
        async with (
            self._http.stream("POST", url, json=body, headers=headers) as reply,
            aclosing(self._read(reply, fold)) as events,
        ):
            async for event in events:
                yield event

    async def _attached(self, ref: Ref, cursor: str | None) -> AsyncGenerator[Event, None]:
        if not self._config.background:
            raise Unsupported("without background = true a lost response cannot be read again")
        if cursor is not None and not self._cursors:
            raise Unsupported("without streaming there are no cursors; attach without one")
        try:
            after = Cursor.decode(cursor) if cursor is not None else None
        except ValueError as exc:
            raise Rejected(f"no such cursor: {cursor}", kind="invalid", sent=False) from exc
        response_id = self._response(ref)
        kept = {key: ref[key] for key in ("conversation", "previous", "response") if key in ref}
        fold = ResponseFold(str(ref.get("turn", "")), kept, cursors=self._cursors, after=after)
        async with aclosing(self._again(response_id, fold, after)) as events:
            async for event in events:
                yield event

    async def _read(self, reply: Reply, fold: ResponseFold) -> AsyncGenerator[Event, None]:
        """A stream; a whole answer, also from a server that was asked for a stream; and then, where
        the work goes on in the background, looking until it is done."""
        if reply.media_type == "application/json":
            for event in at_once(fold.feed_response(await reply.json(MAX_RESPONSE))):
                yield await fetched(self._http, named(event, reply.headers))
        else:
            async with aclosing(self._streamed(reply, fold)) as events:
                async for event in events:
                    yield named(event, reply.headers)
        if fold.finished or not (fold.pending or self._config.background):
            return
        if not self._config.background:
            raise ProtocolError("the server left the response unfinished; set background = true")
        # Still in the background, or a stream that ended without saying how (it was cancelled).
        async with aclosing(self._polled(fold.response_id, fold)) as events:
            async for event in events:
                yield event

    async def _streamed(self, reply: Reply, fold: ResponseFold) -> AsyncGenerator[Event, None]:
        reader = StreamReader(limit=MAX_RESPONSE)
        async with aclosing(reply.chunks()) as chunks, aclosing(frames(chunks, reader)) as read:
            async for frame in read:
                found = fold.feed(frame.event, frame.data) if frame else [Heartbeat()]
                for event in at_once(found):
                    yield await fetched(self._http, event)
                if fold.finished:
                    return
        for event in at_once(fold.end(said_done=reader.done)):
            yield await fetched(self._http, event)

    async def _again(
        self, response_id: str, fold: ResponseFold, after: Cursor | None
    ) -> AsyncGenerator[Event, None]:
        if self._config.stream:
            params = {"stream": "true"}
            if after is not None:
                params["starting_after"] = str(after.sequence)
            url = self._http.url(f"responses/{response_id}")
            headers = {"Accept": "text/event-stream"}
            try:
                async with (
                    self._http.stream("GET", url, params=params, headers=headers) as reply,
                    aclosing(self._read(reply, fold)) as events,
                ):
                    async for event in events:
                        yield event
                return
            except Rejected as exc:
                if exc.kind not in ("invalid", "gone", "conflict"):
                    raise
        # This response has no stream to be had again, but can be looked at.
        async with aclosing(self._polled(response_id, fold)) as events:
            async for event in events:
                yield event

    async def _polled(self, response_id: str, fold: ResponseFold) -> AsyncGenerator[Event, None]:
        if not response_id:
            return
        url = self._http.url(f"responses/{response_id}")
        while not fold.finished:
            for event in fold.feed_response(await self._http.json("GET", url)) or [Heartbeat()]:
                yield await fetched(self._http, event)
            if not fold.finished:
                await anyio.sleep(self._config.poll_interval)

    @staticmethod
    def _response(ref: Ref) -> str:
        response_id = str(ref.get("response", ""))
        if not response_id or any(c in "/?#%\\" or ord(c) <= 32 for c in response_id):
            raise Rejected("the server has given no response id", kind="gone", sent=False)
        return response_id

    # Asking

    async def _request(self, turn: Turn) -> tuple[dict[str, Any], dict[str, Any]]:
        """The request's body, and the part of the ref that is known before the answer."""
        config = self._config
        model = turn.agent or config.model
        body: dict[str, Any] = {
            **({"model": model} if model else {}),
            **({"instructions": config.instructions} if config.instructions else {}),
            **({"tools": [dict(tool) for tool in config.tools]} if config.tools else {}),
            **config.body,
            "input": await self._input(turn),
            "stream": config.stream,
        }
        if config.background:
            body |= {"background": True, "store": True}
        ref: dict[str, Any] = {}
        if config.state == "conversation":
            ref["conversation"] = turn.ref.get("conversation") or await self._conversation()
            body["conversation"] = ref["conversation"]
        elif config.state == "previous_response_id":
            if turn.ref.get("forgets"):
                raise Unsupported(
                    "this server gives its responses no ids and so cannot continue a session; "
                    'set state = "resend"'
                )
            if turn.ref.get("previous"):
                body["previous_response_id"] = ref["previous"] = turn.ref["previous"]
        return body, ref

    async def _conversation(self) -> str:
        made = mapping(await self._http.json("POST", self._http.url("conversations"), json={}))
        if not made.get("id"):
            raise ProtocolError("the server made a conversation without an id")
        return str(made["id"])

    async def _input(self, turn: Turn) -> list[dict[str, Any]]:
        if isinstance(turn.input, Answers):
            if self._config.state == "resend":
                raise Unsupported(
                    "a server that keeps nothing cannot be answered; "
                    'use state = "previous_response_id" or "conversation"'
                )
            return self.answers(turn.input, turn.ref)
        past: list[dict[str, Any]] = []
        if self._config.state == "resend" and turn.ref:
            if turn.history is None:
                raise Unsupported('state = "resend" needs the history of the session')
            roles = {"user": "user", "agent": "assistant"}
            past = [{"role": roles[said.role], "content": said.text} for said in turn.history]
        return [*past, await _prompt(turn.input)]

    @staticmethod
    def answers(answers: Answers, ref: Ref) -> list[dict[str, Any]]:
        """Input items for the answers to all open questions.  Raises `Rejected`."""
        asked = {question_id: kind for kind, question_id in ref.get("open", [])}
        given = {answer.question_id: answer for answer in answers.answers}
        missing = ", ".join(each for each in asked if each not in given)
        unknown = ", ".join(each for each in given if each not in asked)
        if missing or unknown or not asked:
            words = f"missing: {missing or 'none'}; unknown: {unknown or 'none'}"
            raise Rejected(
                f"all open questions are answered at once ({words})", kind="invalid", sent=False
            )
        return [input_item(asked[question_id], answer) for question_id, answer in given.items()]


async def _prompt(prompt: Prompt) -> dict[str, Any]:
    text = prompt.text
    if prompt.input is not None:
        text = "\n\n".join(filter(None, (text, json.dumps(dict(prompt.input), ensure_ascii=False))))
    if not prompt.files:
        return {"role": "user", "content": text}
    parts: list[dict[str, Any]] = [{"type": "input_text", "text": text}] if text else []
    parts += [await _file(file) for file in prompt.files]
    return {"role": "user", "content": parts}


async def _file(file: PromptFile) -> dict[str, Any]:
    encoded = base64.b64encode(await file.read()).decode()
    data = f"data:{file.media_type};base64,{encoded}"
    if file.media_type.startswith("image/"):
        return {"type": "input_image", "image_url": data, "detail": "auto"}
    return {"type": "input_file", "filename": file.name, "file_data": data}
