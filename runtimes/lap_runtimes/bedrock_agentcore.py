"""Agents in Amazon Bedrock AgentCore: your own in AgentCore Runtime, and AgentCore's managed ones
(harnesses).  Requests are signed, or carry an OAuth token.

What the answers mean is in `agentcore_fold.py` and `agentcore_harness_fold.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote

import anyio

from lap_runtimes.agentcore_config import AgentCoreConfig
from lap_runtimes.agentcore_fold import PayloadFold
from lap_runtimes.agentcore_harness_fold import HarnessFold
from lap_runtimes.aws_eventstream import EventStreamReader
from lap_runtimes.aws_signing import SigV4
from lap_runtimes.base import (
    AgentInfo,
    Answer,
    Answers,
    Capabilities,
    Done,
    Event,
    EventStream,
    Heartbeat,
    Prompt,
    Ref,
    Turn,
    together,
)
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure, Unsupported
from lap_runtimes.http import HTTP, MAX_JSON, Reply
from lap_runtimes.naming import named
from lap_runtimes.stoppable import Stoppable
from lap_runtimes.stream import StreamReader, frames

_SERVICE = "bedrock-agentcore"
_SESSION = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
_USER = "X-Amzn-Bedrock-AgentCore-Runtime-User-Id"
_ARN = re.compile(r"arn:[\w-]*:bedrock-agentcore:[\w-]+:\d{12}:[\w/.:-]+")
_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{32,99}")
"""Runtime takes longer ones, but says that it answers with at most 100; a harness takes these."""
_PAGES = 50
_AT_ONCE = 8
_FAILED = 424
"""RuntimeClientError: the agent was called and failed."""
_SPOKEN = ("HTTP", "")
"""Server protocols of the payload kind; MCP, A2A and AG-UI agents need their own adapters."""

Fold = PayloadFold | HarnessFold


class BedrockAgentCoreRuntime:
    """`Turn.agent` is the ARN of an agent runtime, or of a harness."""

    kind: ClassVar[str] = "bedrock_agentcore"
    Config: ClassVar[type[AgentCoreConfig]] = AgentCoreConfig

    def __init__(self, config: AgentCoreConfig) -> None:
        self._config = config
        self._harness = config.surface == "harness"
        signer = SigV4(config.aws, service=_SERVICE, region=config.region)
        self._http = HTTP(config, signer if config.signed else None)
        # An OAuth token is for the agent that it was issued for; the control plane never gets it.
        control = config.model_copy(update={"url": config.control_url, "headers": {}})
        self._control = HTTP(control, signer) if config.signed else None
        self._stoppable = Stoppable()
        self._environments: dict[str, str] = {}

    @property
    def capabilities(self) -> Capabilities:
        config = self._config
        stops = not self._harness or config.signed
        return Capabilities(
            discover=config.signed or bool(config.agent),
            stream=config.stream,
            answer="resume" if self._harness else "none",
            cancel="remote" if stops else "none",
            usage=self._harness,
        )

    async def check(self) -> str:
        if self._control is None:
            with self._http.within():
                reply = await self._http.open("GET", self._http.url("ping"))
                await reply.aclose()
            return f"reachable ({reply.status}); only a call shows whether the token is accepted"
        found = await self._page(self._control, None, size=1)
        return f"AgentCore in {self._config.region}: {'agents' if found[0] else 'no agents'}"

    async def agents(self) -> Sequence[AgentInfo]:
        if self._control is None:
            if self._config.agent:
                return [_named(self._config.agent)]
            raise Unsupported(
                "with an OAuth token the agents cannot be listed; name their ARNs in [agents], "
                "or set aws in place of auth"
            )
        listed: list[Mapping[str, Any]] = []
        token: str | None = None
        for _ in range(_PAGES):
            found, token = await self._page(self._control, token, size=100)
            listed += [each for each in found if each.get("status") in ("READY", None)]
            if token is None:
                break
        if not self._harness:
            listed = await self._payload_agents(self._control, listed)
        return [_info(each) for each in listed]

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn))

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return aclosing(_no_attach())

    async def answer(self, ref: Ref, answer: Answer) -> None:
        raise Unsupported("an AgentCore agent takes no answer while its stream goes on")

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("AgentCore has no call that puts a message into a running turn")

    async def cancel(self, ref: Ref) -> None:
        """Stops the session's environment; the next turn of the session gets a new one."""
        if self.capabilities.cancel != "remote":
            raise Unsupported("stopping a harness needs signed requests: set aws in place of auth")
        session, turn = str(ref.get("session", "")), str(ref.get("turn", ""))
        arn = await self._environment(_arn(str(ref.get("agent", ""))))
        qualifier = "" if self._harness else f"?qualifier={quote(self._config.qualifier, safe='')}"
        url = self._http.url(f"runtimes/{quote(arn, safe='')}/stopruntimesession{qualifier}")
        token = {"clientToken": f"lap-stop-{turn}".ljust(33, "-")}
        try:
            with self._http.within():
                headers = {_SESSION: session}
                async with self._http.stream("POST", url, json=token, headers=headers):
                    pass
        except Rejected as exc:
            if exc.kind not in ("not_found", "conflict", "gone"):
                raise
        self._stoppable.stop(turn)

    async def aclose(self) -> None:
        await self._http.aclose()
        if self._control is not None:
            await self._control.aclose()

    # Turns

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        url, body = self._request(turn)
        session = turn.session_id if _SESSION_ID.fullmatch(turn.session_id) else ""
        if not session:
            raise Rejected(
                f"{turn.session_id!r} cannot be a session id of AgentCore",
                kind="invalid",
                sent=False,
            )
        ref = {"session": session, "agent": turn.agent or self._config.agent}
        fold: Fold = (
            HarnessFold(turn.id, ref)
            if self._harness
            else PayloadFold(turn.id, ref, text=self._config.text)
        )
        with self._stoppable.running(turn.id) as running:
            async with (
                aclosing(self._called(url, body, session, fold)) as called,
                aclosing(running.each(called)) as events,
            ):
                async for event in events:
                    yield event
            if running.stopped and not fold.finished:
                for event in fold.cancelled():
                    yield event

    async def _called(
        self, url: str, body: Mapping[str, Any], session: str, fold: Fold
    ) -> AsyncGenerator[Event, None]:
        if not self._config.stream:
            # Its answer comes when it is done: until then this is what it can be cancelled by.
            for event in fold.start():
                yield event
        headers = {_SESSION: session, "Accept": self._accepted()}
        if self._config.user_id:
            headers[_USER] = self._config.user_id
        failure: Rejected | None = None
        try:
            async with (
                self._http.stream("POST", url, json=body, headers=headers) as reply,
                aclosing(self._read(reply, fold)) as events,
            ):
                async for event in events:
                    yield named(event, reply.headers)
        except Rejected as exc:
            if exc.status != _FAILED:
                raise
            failure = exc
        if failure is not None:
            for event in fold.failed(failure.message):
                if isinstance(event, Done):
                    event = replace(event, request_id=failure.request_id)
                yield event

    async def _read(self, reply: Reply, fold: Fold) -> AsyncGenerator[Event, None]:
        for event in fold.start():
            yield event
        if isinstance(fold, HarnessFold):
            stream = _messages(reply, fold)
        elif reply.media_type == "text/event-stream":
            stream = _events(reply, fold)
        else:
            stream = _whole(reply, fold)
        async with aclosing(stream) as events:
            async for event in events:
                yield event

    def _accepted(self) -> str:
        if self._harness:
            return "application/vnd.amazon.eventstream"
        return "text/event-stream, application/json" if self._config.stream else "application/json"

    def _request(self, turn: Turn) -> tuple[str, dict[str, Any]]:
        """The address and the body.  Raises what is refused before anything is sent."""
        config = self._config
        if isinstance(turn.input, Prompt) and turn.input.files:
            raise Unsupported("AgentCore agents take no files; put what they need into the input")
        if isinstance(turn.input, Answers) and not self._harness:
            raise Unsupported("agents in AgentCore Runtime ask no questions")
        arn = _arn(turn.agent or config.agent)
        qualifier = quote(config.qualifier, safe="")
        if self._harness:
            url = f"harnesses/invoke?harnessArn={quote(arn, safe='')}&qualifier={qualifier}"
            return self._http.url(url), {**config.body, "messages": [_message(turn)]}
        assert isinstance(turn.input, Prompt)
        url = f"runtimes/{quote(arn, safe='')}/invocations?qualifier={qualifier}"
        body = {**config.body, **(turn.input.input or {}), config.prompt_key: turn.input.text}
        return self._http.url(url), body

    # The control plane

    async def _page(
        self, control: HTTP, token: str | None, *, size: int
    ) -> tuple[list[Mapping[str, Any]], str | None]:
        """Agents, and the token of the next page."""
        query = f"?maxResults={size}"
        query += f"&nextToken={quote(token, safe='')}" if token else ""
        method, path, key = (
            ("GET", "harnesses", "harnesses")
            if self._harness
            else ("POST", "runtimes/", "agentRuntimes")
        )
        found = await control.json(method, control.url(path + query))
        if not isinstance(found, Mapping) or not isinstance(found.get(key), list):
            raise ProtocolError(f"{control.rules.home} answered a list without {key}")
        agents = [each for each in found[key] if isinstance(each, Mapping)]
        return agents, str(found["nextToken"]) if found.get("nextToken") else None

    async def _payload_agents(
        self, control: HTTP, listed: list[Mapping[str, Any]]
    ) -> list[Mapping[str, Any]]:
        """Those that can be called with a payload; where that may not be seen, all."""
        spoken = [True] * len(listed)
        slots = anyio.CapacityLimiter(_AT_ONCE)

        async def look(place: int) -> None:
            name = quote(str(listed[place].get("agentRuntimeId", "")), safe="")
            async with slots:
                try:
                    found = await control.json("GET", control.url(f"runtimes/{name}/"))
                except RuntimeFailure:
                    return
            protocol = found.get("protocolConfiguration") if isinstance(found, Mapping) else None
            if isinstance(protocol, Mapping):
                spoken[place] = str(protocol.get("serverProtocol", "")) in _SPOKEN

        for place in range(0, len(listed), _AT_ONCE):
            async with anyio.create_task_group() as tasks:
                for each in range(place, min(place + _AT_ONCE, len(listed))):
                    tasks.start_soon(look, each)
        return [each for each, speaks in zip(listed, spoken, strict=True) if speaks]

    async def _environment(self, arn: str) -> str:
        """The runtime that a session of this agent lives in: of a harness, the one below it."""
        if not self._harness or self._control is None:
            return arn
        if arn not in self._environments:
            name = quote(arn.rsplit("/", 1)[-1], safe="")
            found = await self._control.json("GET", self._control.url(f"harnesses/{name}"))
            for key in ("harness", "environment", "agentCoreRuntimeEnvironment"):
                found = found.get(key) if isinstance(found, Mapping) else None
            below = found.get("agentRuntimeArn") if isinstance(found, Mapping) else None
            if not below:
                raise ProtocolError(f"{arn} names no runtime that its sessions live in")
            self._environments[arn] = _arn(str(below))
        return self._environments[arn]


async def _no_attach() -> AsyncGenerator[Event, None]:
    raise Unsupported("AgentCore cannot give a stream again")
    yield  # makes this a generator


async def _messages(reply: Reply, fold: HarnessFold) -> AsyncGenerator[Event, None]:
    reader = EventStreamReader()
    async with aclosing(reply.chunks()) as chunks:
        async for chunk in chunks:
            found = [event for message in reader.feed(chunk) for event in fold.feed(message)]
            for event in together(found) or [Heartbeat()]:
                yield event
            if fold.finished:
                return
    reader.close()
    for event in fold.end():
        yield event


async def _events(reply: Reply, fold: PayloadFold) -> AsyncGenerator[Event, None]:
    reader = StreamReader("sse", limit=MAX_JSON)
    async with aclosing(reply.chunks()) as chunks, aclosing(frames(chunks, reader)) as read:
        async for frame in read:
            for event in fold.feed(frame.data) if frame else [Heartbeat()]:
                yield event
            if fold.finished:
                return
    for event in fold.end():
        yield event


async def _whole(reply: Reply, fold: PayloadFold) -> AsyncGenerator[Event, None]:
    body = await reply.read(MAX_JSON)
    for event in together(fold.whole(body.decode("utf-8", "replace"))):
        yield event


def _arn(text: str) -> str:
    if not _ARN.fullmatch(text):
        raise Rejected(f"{text[:200]!r} is not the ARN of an agent", kind="invalid", sent=False)
    return text


def _named(arn: str) -> AgentInfo:
    """An agent of which only the ARN is known: `…:runtime/NAME-abcdefghij`."""
    name = arn.rsplit("/", 1)[-1].rpartition("-")[0]
    return AgentInfo(ref=arn, name=name or arn)


def _info(found: Mapping[str, Any]) -> AgentInfo:
    return AgentInfo(
        ref=str(found.get("agentRuntimeArn") or found.get("arn") or ""),
        name=str(found.get("agentRuntimeName") or found.get("harnessName") or ""),
        description=str(found.get("description") or ""),
    )


def _message(turn: Turn) -> dict[str, Any]:
    if isinstance(turn.input, Prompt):
        texts = [turn.input.text]
        if turn.input.input is not None:
            texts.append(json.dumps(dict(turn.input.input), ensure_ascii=False))
        return {"role": "user", "content": [{"text": text} for text in texts if text]}
    asked = [str(each) for each in turn.ref.get("open", ())]
    given = {answer.question_id: answer for answer in turn.input.answers}
    if not asked or set(asked) != set(given):
        raise Rejected(
            f"all open questions are answered at once; open are: {', '.join(asked) or 'none'}",
            kind="invalid",
            sent=False,
        )
    return {"role": "user", "content": [_result(given[each]) for each in asked]}


def _result(answer: Answer) -> dict[str, Any]:
    text = answer.text
    if answer.decision == "deny":
        text = f"The call was declined. {text}".strip()
    content: list[dict[str, Any]] = []
    if text or answer.data is None:
        content.append({"text": text})
    if answer.data is not None:
        content.append({"json": dict(answer.data)})
    failed = answer.is_error or answer.decision == "deny"
    return {
        "toolResult": {
            "toolUseId": answer.question_id,
            "content": content,
            "status": "error" if failed else "success",
        }
    }
