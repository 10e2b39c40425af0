"""Local agents that speak the Agent Client Protocol over stdin and stdout: sessions, streaming,
permissions and forms while the stream goes on, cancel, and loading a session in a new process.

The SDK is behind `acp_client.py`; what the events mean is in `acp_fold.py`.  One process serves all
sessions of the runtime; it is started when it is first needed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import anyio
from pydantic import model_validator

from lap_runtimes.acp_client import Answered, Client, Failed, Prompting, Sent, Update
from lap_runtimes.acp_fold import PromptFold, chosen, permission
from lap_runtimes.asking import BEAT, Asking, Request, answered
from lap_runtimes.base import (
    AgentInfo,
    Answer,
    Answers,
    Asked,
    Capabilities,
    Event,
    EventStream,
    Heartbeat,
    Prompt,
    PromptFile,
    Question,
    Ref,
    Started,
    Turn,
)
from lap_runtimes.content import Json, mapping
from lap_runtimes.elicitation import question_of, result_of
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure, Unavailable, Unsupported
from lap_runtimes.files import plain_name
from lap_runtimes.http_errors import clean
from lap_runtimes.nesting import OnePerTurn
from lap_runtimes.process import ProcessConfig, start

AGENT = "default"
"""The one agent of a program, as `AgentInfo.ref`."""
_FINISH_SECONDS = 10.0
"""What an agent that was cancelled has to end its turn before the session takes another."""


class ACPConfig(ProcessConfig):
    auth_method: str = ""
    """One of the agent's `authMethods`, for one that wants it; its credential is in `env`."""
    mode: str = ""
    """The mode each session is put into, as the agent names them."""
    elicitation: bool = True
    """Offer forms and sign-in addresses (a part of the protocol that is not settled yet)."""

    @model_validator(mode="after")
    def _has_a_program(self) -> ACPConfig:
        if not self.command:
            raise ValueError('command: name the program, e.g. command = ["opencode", "acp"]')
        return self


class _Open(Asking):
    """A turn that is read."""

    def __init__(self, turn_id: str, prompting: Prompting) -> None:
        super().__init__(turn_id)
        self.prompting = prompting


class ACPRuntime:
    """One program, which is one agent."""

    kind: ClassVar[str] = "acp"
    Config: ClassVar[type[ACPConfig]] = ACPConfig

    def __init__(self, config: ACPConfig) -> None:
        self._config = config
        self._client: Client | None = None
        self._starting = anyio.Lock()
        self._sessions: set[str] = set()
        """Those that the running process knows."""
        self._open: dict[str, _Open] = {}
        self._own = OnePerTurn(config, ACPRuntime) if config.nests else None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            discover=True,
            answer="in_stream",
            cancel="remote",
            on_disconnect="aborts",
            process_bound=True,
            files_in=True,
            files_out=True,
        )

    async def check(self) -> str:
        info = (await self._connected()).info
        loads = mapping(info.get("agentCapabilities")).get("loadSession")
        keeps = "loads" if loads else "does not load"
        version = clean(str(mapping(info.get("agentInfo")).get("version") or ""))
        return f"{self._name(info)} {version}".strip() + f": ACP 1, {keeps} earlier sessions"

    async def agents(self) -> Sequence[AgentInfo]:
        return [AgentInfo(ref=AGENT, name=self._name((await self._connected()).info))]

    def _name(self, info: Json) -> str:
        about = mapping(info.get("agentInfo"))
        name = about.get("title") or about.get("name") or Path(self._config.command[0]).name
        return clean(str(name))

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn)) if self._own is None else self._own.stream(turn)

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        raise Unsupported("a turn of a local agent ends with its stream; it cannot be read again")

    async def answer(self, ref: Ref, answer: Answer) -> None:
        if self._own is not None and (own := self._own.of(ref)) is not None:
            await own.answer(ref, answer)
            return
        answered(self._open.get(str(ref.get("session", ""))), answer, _reply)

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("ACP has no call that puts a message into a running prompt")

    async def cancel(self, ref: Ref) -> None:
        session_id = str(ref.get("session", ""))
        if not session_id:
            raise Rejected("there is no session to cancel", kind="conflict", sent=False)
        if self._own is not None and (own := self._own.of(ref)) is not None:
            await own.cancel(ref)
            return
        client = self._client
        if client is not None and (prompting := client.working(session_id)) is not None:
            await self._cancel(client, prompting)

    @staticmethod
    async def _cancel(client: Client, prompting: Prompting) -> None:
        # The agent is told first, so that it does not take the answers for a person's.
        prompting.cancelled = True
        await client.notify("session/cancel", {"sessionId": prompting.session_id})
        prompting.give_up()

    async def aclose(self) -> None:
        if self._own is not None:
            await self._own.aclose()
        async with self._starting:
            client, self._client = self._client, None
            if client is not None:
                await client.aclose()

    # A turn

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        if isinstance(turn.input, Answers):
            raise Unsupported("a local agent is answered while its stream goes on")
        if turn.agent not in ("", AGENT):
            words = f"this program is one agent, {AGENT!r}; there is no {turn.agent!r}"
            raise Rejected(words, kind="not_found", sent=False)
        try:
            client = await self._connected()
            session_id = await self._session(client, turn.ref)
            blocks = await _blocks(turn.input, client)
        except RuntimeFailure as exc:
            exc.sent = False
            raise
        prompting = await client.prompt(session_id, blocks)
        open_ = self._open[session_id] = _Open(turn.id, prompting)
        fold = PromptFold(turn.id, float(turn.ref.get("spent", 0.0)))
        try:
            if prompting.delivered:
                ref = {"session": session_id, "turn": turn.id}
                yield Started(id=f"{turn.id}/started", ref=ref)
            async with aclosing(self._read(open_, fold)) as events:
                async for event in events:
                    yield event
        finally:
            self._open.pop(session_id, None)
            prompting.outgoing.close()
            if client.working(session_id) is prompting:
                await self._leave(client, prompting)

    @staticmethod
    async def _leave(client: Client, prompting: Prompting) -> None:
        """Nobody will read this turn again: end it, instead of letting it work unseen."""
        with anyio.move_on_after(_FINISH_SECONDS, shield=True):
            try:
                await ACPRuntime._cancel(client, prompting)
            except Unavailable:
                return

    async def _read(self, open_: _Open, fold: PromptFold) -> AsyncGenerator[Event, None]:
        while True:
            sent = await _next(open_)
            if sent is None:
                yield Heartbeat()
            elif isinstance(sent, Update):
                for event in fold.feed(sent.body):
                    yield event
            elif isinstance(sent, Request):
                for event in _asked(open_, fold, sent):
                    yield event
            else:
                for event in self._ended(open_, fold, sent):
                    yield event
                return

    def _ended(self, open_: _Open, fold: PromptFold, sent: Answered | Failed) -> list[Event]:
        """Raises the error of a program that is gone."""
        if isinstance(sent, Failed):
            if not isinstance(sent.error, Rejected):
                raise sent.error
            return fold.fail(sent.error.message, sent.error.kind)
        events = fold.end(sent.result)
        ref: dict[str, Any] = {"session": open_.prompting.session_id, "turn": open_.turn_id}
        if fold.spent:
            ref["spent"] = fold.spent
        return [*events[:-1], replace(events[-1], ref=ref)]

    # The program and its sessions

    async def _connected(self) -> Client:
        """The running program; started, where there is none.  Everything that fails here failed
        before a prompt was sent."""
        async with self._starting:
            if self._client is not None and not self._client.lost:
                return self._client
            if self._client is not None:
                gone, self._client = self._client, None
                await gone.aclose()
            self._sessions = set()
            client = Client(await start(self._config))
            try:
                await client.connect(self._config.elicitation, self._config.start_seconds)
                if self._config.auth_method:
                    await client.request("authenticate", {"methodId": self._config.auth_method})
            except BaseException as exc:
                await client.aclose()
                if isinstance(exc, RuntimeFailure):
                    exc.sent = False
                raise
            self._client = client
            return client

    async def _session(self, client: Client, ref: Ref) -> str:
        """The session of this ref, as the running process knows it, or a new one."""
        session_id = str(ref.get("session", ""))
        place: dict[str, Any] = {"cwd": client.process.folder, "mcpServers": []}
        if session_id in self._sessions:
            await _until_free(client, session_id)
            return session_id
        if session_id:
            if not mapping(client.info.get("agentCapabilities")).get("loadSession"):
                raise Rejected(
                    "the process that held this session has ended, and the agent cannot load "
                    "earlier ones; start a new session",
                    kind="gone",
                )
            await client.request("session/load", {**place, "sessionId": session_id})
        else:
            made = mapping(await client.request("session/new", place))
            session_id = str(made.get("sessionId") or "")
            if not session_id or len(session_id) > 1024:
                raise ProtocolError("the agent made a session without an id")
        if self._config.mode:
            mode = {"sessionId": session_id, "modeId": self._config.mode}
            await client.request("session/set_mode", mode)
        self._sessions.add(session_id)
        return session_id


async def _until_free(client: Client, session_id: str) -> None:
    """Wait for a turn that was cancelled or left to end."""
    prompting = client.working(session_id)
    if prompting is None:
        return
    with anyio.move_on_after(_FINISH_SECONDS):
        await prompting.over.wait()
        return
    raise Rejected("the agent still works on the turn before", kind="conflict")


async def _next(open_: _Open) -> Sent | None:
    with anyio.move_on_after(BEAT if open_.waits else None):
        return await open_.prompting.outgoing.receive()
    return None


def _asked(open_: _Open, fold: PromptFold, request: Request) -> list[Event]:
    said: list[Event] = []
    make = question_of
    if request.method == "session/request_permission":
        said = fold.before_question(request.params.get("toolCall"))
        make = permission
    question = open_.ask(request, make)
    return [*said, Asked(id=question.id, question=question)] if question else said


def _reply(question: Question, request: Request, answer: Answer) -> Json:
    if question.kind != "approval":
        return result_of(question, answer)
    try:
        option = chosen(request.params, answer.option, answer.decision)
    except LookupError as exc:
        offered = ", ".join(question.options)
        words = f"the answer is none of what the agent offers: {offered}"
        raise Rejected(words, kind="invalid", sent=False) from exc
    if option is None:
        return {"outcome": {"outcome": "cancelled"}}
    return {"outcome": {"outcome": "selected", "optionId": option}}


async def _blocks(prompt: Prompt, client: Client) -> list[Json]:
    """The prompt as content blocks.  Text and links are the two that every agent takes."""
    text = prompt.text
    if prompt.input is not None:
        text = "\n\n".join(filter(None, (text, json.dumps(dict(prompt.input), ensure_ascii=False))))
    takes = mapping(mapping(client.info.get("agentCapabilities")).get("promptCapabilities"))
    blocks: list[Json] = [{"type": "text", "text": text}]
    for file in prompt.files:
        blocks.append(await _file(file, takes, client))
    return blocks


async def _file(file: PromptFile, takes: Json, client: Client) -> Json:
    data = await file.read()
    kind = file.media_type.partition("/")[0]
    encoded = {"mimeType": file.media_type, "data": base64.b64encode(data).decode()}
    if kind in ("image", "audio") and takes.get(kind):
        return {"type": kind, **encoded}
    path = await client.process.keep(plain_name(file.name, fallback="file"), data)
    return {
        "type": "resource_link",
        "uri": Path(path).as_uri(),
        "name": file.name,
        "mimeType": file.media_type,
        "size": len(data),
    }
