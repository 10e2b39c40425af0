"""Agents of a running `opencode serve`: sessions, streaming, permissions and questions while the
stream goes on, abort, and reading a turn again from the session's messages.

What the events mean is in `opencode_fold.py`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, ClassVar

import anyio
from pydantic import SecretStr, field_validator, model_validator

from lap_runtimes.base import (
    AgentInfo,
    Answer,
    Capabilities,
    Event,
    EventStream,
    Heartbeat,
    Prompt,
    Ref,
    Turn,
)
from lap_runtimes.config import Auth, HTTPRuntimeConfig, Secret
from lap_runtimes.content import items, mapping
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure, Unsupported
from lap_runtimes.http import HTTP, Reply
from lap_runtimes.http_errors import clean
from lap_runtimes.opencode_fold import TurnFold, reply_of
from lap_runtimes.stream import StreamReader, frames

MAX_EVENT = 72 * 1024 * 1024
_FREE_SECONDS = 10.0
"""What a session has to become idle after a turn that was cancelled."""


class OpencodeConfig(HTTPRuntimeConfig):
    password: Secret | None = None
    """`OPENCODE_SERVER_PASSWORD` of the server."""
    username: str = "opencode"
    model: str = ""
    """`provider/model`; empty: the server's own."""
    directory: str = ""
    """The project's folder on the server's machine; empty: where it was started."""

    @field_validator("model")
    @classmethod
    def _has_a_provider(cls, model: str) -> str:
        provider, _, name = model.partition("/")
        if model and not (provider and name):
            raise ValueError('write "provider/model"')
        return model

    @model_validator(mode="after")
    def _one_credential(self) -> OpencodeConfig:
        if self.password is not None and (self.auth.bearer is not None or self.auth.header):
            raise ValueError("password and auth are two credentials; remove one")
        return self


class OpencodeRuntime:
    """`Turn.agent` is the name of one of its agents, or empty for its default."""

    kind: ClassVar[str] = "opencode"
    Config: ClassVar[type[OpencodeConfig]] = OpencodeConfig

    def __init__(self, config: OpencodeConfig) -> None:
        self._config = config
        self._params = {"directory": config.directory} if config.directory else {}
        if config.password is not None:
            pair = f"{config.username}:{config.password.get_secret_value()}"
            basic = SecretStr("Basic " + base64.b64encode(pair.encode()).decode())
            auth = Auth.model_construct(header={"Authorization": basic})
            config = config.model_copy(update={"auth": auth})
        self._http = HTTP(config)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            discover=True,
            answer="in_stream",
            attach="history",
            cancel="remote",
            on_disconnect="continues",
            files_in=True,
            usage=True,
        )

    async def check(self) -> str:
        return f"opencode with {len(await self.agents())} agents"

    async def agents(self) -> Sequence[AgentInfo]:
        """Those that a person can talk to: not the hidden ones, nor sub-agents."""
        found = [mapping(each) for each in await self._get("agent")]
        return [
            AgentInfo(
                ref=str(each["name"]),
                name=str(each["name"]),
                description=str(each.get("description") or ""),
            )
            for each in found
            if each.get("name") and not each.get("hidden") and each.get("mode") != "subagent"
        ]

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn))

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return aclosing(self._attached(ref, cursor))

    async def answer(self, ref: Ref, answer: Answer) -> None:
        path, body = reply_of(answer)
        await self._post(path, body)

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("opencode has no call that puts a message into a running turn")

    async def cancel(self, ref: Ref) -> None:
        await self._post(f"session/{self._session_of(ref)}/abort", None)

    async def aclose(self) -> None:
        await self._http.aclose()

    # A turn

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        if not isinstance(turn.input, Prompt):
            raise Unsupported("opencode is answered while its stream goes on")
        try:
            body = await self._body(turn.input, turn.agent)
            session_id = await self._session(turn)
        except RuntimeFailure as exc:
            exc.sent = False
            raise
        fold = TurnFold(turn.id, {**turn.ref, "session": session_id}, again=False)
        # Listening comes first: the stream does not repeat what came before it.
        async with (
            self._listen() as reply,
            aclosing(self._events(reply, fold, f"session/{session_id}/prompt_async", body)) as read,
        ):
            async for event in read:
                yield event

    async def _events(
        self, reply: Reply, fold: TurnFold, path: str, body: dict[str, Any] | None
    ) -> AsyncGenerator[Event, None]:
        """What the stream says; the prompt is sent when it is known to have begun."""
        begun = False
        reader = StreamReader("sse", limit=MAX_EVENT)
        async with aclosing(reply.chunks()) as chunks, aclosing(frames(chunks, reader)) as read:
            async for frame in read:
                if frame is None:
                    yield Heartbeat()
                    continue
                found = fold.feed(frame.data)
                if not begun:
                    begun = True
                    found += await self._begin(fold, path, body)
                for event in found:
                    yield event
                if fold.finished:
                    return

    async def _begin(self, fold: TurnFold, path: str, body: dict[str, Any] | None) -> list[Event]:
        """Send the prompt; where there is none, catch up with a turn that was started before."""
        if body is not None:
            await self._post(path, body)
            return []
        session_id = str(fold.ref["session"])
        # In this order: what ends between the two looks is still an event of the stream.
        busy = session_id in mapping(await self._get("session/status"))
        events = fold.catch_up(await self._get(path), busy=busy)
        if busy:
            for kind in ("permission", "question"):
                for request in items(await self._get(kind)):
                    if request.get("sessionID") == session_id:
                        events += fold.ask(f"{kind}.asked", request)
        return events

    async def _attached(self, ref: Ref, cursor: str | None) -> AsyncGenerator[Event, None]:
        if cursor is not None:
            raise Unsupported("opencode has no cursors; attach without one")
        if not ref.get("message"):
            raise Rejected("the session has no message of this turn", kind="gone", sent=False)
        session_id = self._session_of(ref)
        fold = TurnFold(str(ref.get("turn", "")), ref, again=True)
        async with (
            self._listen() as reply,
            aclosing(self._events(reply, fold, f"session/{session_id}/message", None)) as read,
        ):
            async for event in read:
                yield event

    # The server

    def _listen(self) -> Any:
        headers = {"Accept": "text/event-stream"}
        url = self._http.url("event")
        return self._http.stream("GET", url, params=self._params, headers=headers)

    async def _get(self, path: str) -> Any:
        return await self._http.json("GET", self._http.url(path), params=self._params)

    async def _post(self, path: str, body: dict[str, Any] | None) -> None:
        """An answer that says nothing but that it was taken."""
        with self._http.within():
            async with self._http.stream(
                "POST", self._http.url(path), json=body, params=self._params
            ) as reply:
                await reply.read(1024 * 1024, cut=True)

    @staticmethod
    def _session_of(ref: Ref) -> str:
        session_id = str(ref.get("session", ""))
        if not session_id or any(c in "/?#%\\" or ord(c) <= 32 for c in session_id):
            raise Rejected("there is no session", kind="gone", sent=False)
        return session_id

    async def _until_idle(self, session_id: str) -> None:
        deadline = anyio.current_time() + _FREE_SECONDS
        while session_id in mapping(await self._get("session/status")):
            if anyio.current_time() > deadline:
                raise Rejected("the agent still works on the turn before", kind="conflict")
            await anyio.sleep(0.1)

    async def _session(self, turn: Turn) -> str:
        """A new session, or that of the turns before, once it is idle."""
        if turn.ref.get("session"):
            session_id = self._session_of(turn.ref)
            await self._until_idle(session_id)
            return session_id
        text = turn.input.text if isinstance(turn.input, Prompt) else ""
        url, title = self._http.url("session"), {"title": clean(text)[:80]}
        made = mapping(await self._http.json("POST", url, json=title, params=self._params))
        if not made.get("id"):
            raise ProtocolError("the server made a session without an id")
        return str(made["id"])

    async def _body(self, prompt: Prompt, agent: str) -> dict[str, Any]:
        text = prompt.text
        if prompt.input is not None:
            given = json.dumps(dict(prompt.input), ensure_ascii=False)
            text = "\n\n".join(filter(None, (text, given)))
        parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
        for file in prompt.files:
            data = base64.b64encode(await file.read()).decode()
            url = f"data:{file.media_type};base64,{data}"
            part = {"type": "file", "mime": file.media_type, "filename": file.name, "url": url}
            parts.append(part)
        body: dict[str, Any] = {"parts": parts}
        if agent:
            body["agent"] = agent
        if self._config.model:
            provider, _, name = self._config.model.partition("/")
            body["model"] = {"providerID": provider, "modelID": name}
        return body
