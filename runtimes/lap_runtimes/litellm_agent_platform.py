"""Agents on a LiteLLM Agent Platform (LAP): its sessions on any of its runtimes, the approvals of
its inbox, interrupts where the runtime behind obeys.

The platform answers a prompt only when the agent is done, so the prompt is sent beside the reading.
Its event stream shows nothing of runs that began before it was opened, and needs a run to be open
at all: the list of events, which it calls the source of truth, is looked at instead.
What the events mean is in `lap_platform_fold.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, ClassVar

import anyio
from pydantic import Field

from lap_runtimes.base import (
    AgentInfo,
    Answer,
    Answers,
    Capabilities,
    Event,
    EventStream,
    Heartbeat,
    Prompt,
    Ref,
    Turn,
)
from lap_runtimes.config import HTTPRuntimeConfig
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure, Unavailable, Unsupported
from lap_runtimes.http import HTTP
from lap_runtimes.lap_platform_fold import PlatformFold
from lap_runtimes.managed import (
    Beside,
    concurrently,
    objects,
    paired,
    preparing,
    prompt_text,
    segment,
)
from lap_runtimes.responses_items import Json, mapping

_OBEYS = ("claude_managed_agents", "cursor")
"""Runtimes of the platform for which an interrupt ends the work; for others it does nothing."""


class LiteLLMAgentPlatformConfig(HTTPRuntimeConfig):
    """The credential has to be the platform's master key: other keys cannot read events."""

    runtime: str = ""
    """Alias of the platform's runtime that sessions run on; empty: the one in the agent's own
    configuration."""
    agent: str = ""
    """Agent (its id) of registered agents that name none."""
    model: str = ""
    """Sent with each prompt; empty: the agent's."""
    obeys_interrupt: bool | None = None
    """Whether the runtime behind ends its work when it is told to.  Unset: it is known to do so
    for `claude_managed_agents` and `cursor`."""
    poll_interval: float = Field(1.0, gt=0)
    """Seconds between two looks at the events of a running session."""


class LiteLLMAgentPlatformRuntime:
    """`Turn.agent` is an agent's id, or empty for the configured one."""

    kind: ClassVar[str] = "litellm_agent_platform"
    Config: ClassVar[type[LiteLLMAgentPlatformConfig]] = LiteLLMAgentPlatformConfig

    def __init__(self, config: LiteLLMAgentPlatformConfig) -> None:
        self._config = config
        self._http = HTTP(config)
        obeys = config.obeys_interrupt
        self._obeys = config.runtime in _OBEYS if obeys is None else obeys

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            discover=True,
            stream=False,
            answer="resume",
            attach="history",
            cancel="remote" if self._obeys else "none",
            on_disconnect="continues",
        )

    async def check(self) -> str:
        found = objects(mapping(await self._get("api/agents")).get("agents"))
        return f"LiteLLM Agent Platform with {len(found)} agents"

    async def agents(self) -> Sequence[AgentInfo]:
        found = objects(mapping(await self._get("api/agents")).get("agents"))
        return [
            AgentInfo(
                ref=str(agent["id"]),
                name=str(agent.get("name") or agent["id"]),
                description=str(agent.get("description") or ""),
            )
            for agent in found
            if agent.get("id")
        ]

    def start(self, turn: Turn) -> EventStream:
        return self._start(turn)

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return aclosing(self._attached(ref, cursor))

    async def answer(self, ref: Ref, answer: Answer) -> None:
        raise Unsupported("the platform's approvals are answered by a new start")

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("the platform has no call that puts a message into a running session")

    async def cancel(self, ref: Ref) -> None:
        if not self._obeys:
            raise Unsupported(
                "the platform answers an interrupt as if it obeyed, and does nothing for most of "
                "its runtimes; if this one obeys, set obeys_interrupt = true"
            )
        await self._post(f"session/{segment(ref.get('session'))}/interrupt", {})

    async def aclose(self) -> None:
        await self._http.aclose()

    # A turn

    @asynccontextmanager
    async def _start(self, turn: Turn) -> AsyncIterator[AsyncIterator[Event]]:
        async with (
            concurrently() as beside,
            aclosing(self._started(turn, beside)) as events,
        ):
            yield events

    async def _started(self, turn: Turn, beside: Beside) -> AsyncGenerator[Event, None]:
        with preparing():
            ref, requests = await self._prepared(turn)
        fold = PlatformFold(ref)
        sending = _Sending(self._post_until_done, requests)
        beside(sending.run)
        async with aclosing(self._followed(str(ref["session"]), fold, sending)) as events:
            async for event in events:
                yield event

    async def _attached(self, ref: Ref, cursor: str | None) -> AsyncGenerator[Event, None]:
        if cursor is not None:
            raise Unsupported("the platform has no cursors; attach without one")
        session = segment(ref.get("session"))
        fold = PlatformFold(ref)
        for event in fold.begin():
            yield event
        async with aclosing(self._followed(session, fold, None)) as events:
            async for event in events:
                yield event

    async def _followed(
        self, session: str, fold: PlatformFold, sending: _Sending | None
    ) -> AsyncGenerator[Event, None]:
        """Looks at the session's events until it rests."""
        while True:
            # Before the look: what is listed after the answer was there before it.
            settled = sending is None or sending.settled
            events, failure = await self._look(session, fold, sending)
            for event in events:
                yield event
            if failure is not None:
                raise failure
            yield Heartbeat()
            if settled and sending is not None and sending.failure is not None:
                if not fold.begun:
                    raise sending.failure
                yield fold.failed(sending.failure.message)
                return
            single = sending is not None and sending.count == 1
            if fold.resting and (settled or single):
                break
            if settled and sending is not None and await self._rests(session):
                break
            await anyio.sleep(self._config.poll_interval)
        for event in fold.end(await self._approvals(session)):
            yield event

    async def _look(
        self, session: str, fold: PlatformFold, sending: _Sending | None
    ) -> tuple[list[Event], RuntimeFailure | None]:
        """What is new.  Where the look fails, a prompt that is on its way, or was taken, has begun:
        it is not the start that failed."""
        try:
            return fold.feed_list(await self._events(session)), None
        except RuntimeFailure as exc:
            begun = sending is not None and sending.failure is None
            return (fold.begin() if begun else []), exc

    async def _prepared(self, turn: Turn) -> tuple[dict[str, Any], list[tuple[str, Json]]]:
        """The ref, and the requests that begin the work."""
        if isinstance(turn.input, Answers):
            decided = [_decision(answer) for _, answer in paired(turn.input, turn.ref)]
            session = segment(turn.ref.get("session"))
            requests = decided
        else:
            if turn.input.files:
                raise Unsupported("the platform takes no files with a prompt")
            session, model = await self._session(turn)
            part = {"type": "text", "text": prompt_text(turn.input)}
            body = {"model": {"modelID": model}, "parts": [part]}
            requests = [(f"session/{session}/prompt_async", body)]
        count = len(await self._events(session))
        return {"session": session, "turn": turn.id, "from": count}, requests

    async def _session(self, turn: Turn) -> tuple[str, str]:
        """The session's id, made where there is none, and the model to name."""
        config = self._config
        name = turn.agent or config.agent
        if not name:
            raise Unsupported("no agent is named; set ref of the agent, or agent of the runtime")
        agent: Json = {}
        if not (config.model and (config.runtime or turn.ref.get("session"))):
            agent = mapping(await self._get(f"api/agents/{segment(name, 'agent')}"))
        model = config.model or str(agent.get("model") or "")
        if not model:
            raise Rejected("the agent names no model; set model of the runtime", kind="invalid")
        if turn.ref.get("session"):
            return segment(turn.ref["session"]), model
        settings = agent.get("config")
        runtime = config.runtime
        if not runtime and isinstance(settings, Mapping):
            runtime = str(settings.get("runtime") or "")
        if not runtime:
            raise Rejected("the agent names no runtime; set runtime of the runtime", kind="invalid")
        body = {"runtime": runtime, "agent_id": name, "title": turn.session_id}
        made = mapping(await self._post("session", body))
        return segment(made.get("id")), model

    # Requests

    async def _events(self, session: str) -> list[Json]:
        found = await self._get(f"v1/sessions/{session}/events")
        listed = found if isinstance(found, list) else mapping(found).get("data")
        if not isinstance(listed, list):
            raise ProtocolError("the platform gave no list of events")
        return [mapping(each) for each in listed]

    async def _rests(self, session: str) -> bool:
        """Whether the platform, its prompt answered, takes the session to be over too."""
        found = mapping(await self._get(f"session/{session}"))
        return found.get("status") in ("idle", "error")

    async def _approvals(self, session: str) -> list[Json]:
        items = objects(mapping(await self._get("api/approvals")).get("approvals"))
        return [item for item in items if item.get("id") and item.get("session_id") == session]

    async def _get(self, path: str) -> Any:
        return await self._http.json("GET", self._http.url(path))

    async def _post(self, path: str, body: Json) -> Any:
        """Some of its calls answer with 204."""
        url = self._http.url(path)
        with self._http.within():
            async with self._http.stream("POST", url, json=dict(body)) as reply:
                return await reply.json() if reply.status != 204 else None

    async def _post_until_done(self, path: str, body: Json) -> None:
        url = self._http.url(path)
        async with self._http.stream("POST", url, json=dict(body)) as reply:
            await reply.read(1024 * 1024, cut=True)


class _Sending:
    """Requests that are answered when the agent is done, one after the other."""

    def __init__(
        self, post: Callable[[str, Json], Awaitable[None]], requests: list[tuple[str, Json]]
    ) -> None:
        self.count = len(requests)
        self.settled = False
        self.failure: RuntimeFailure | None = None
        self._post = post
        self._requests = requests

    async def run(self) -> None:
        try:
            for path, body in self._requests:
                await self._post(path, body)
        except Unavailable as exc:
            # Lost after it was sent: the agent works on, and its events are still to be read.
            self.failure = None if exc.sent else exc
        except RuntimeFailure as exc:
            self.failure = exc
        finally:
            self.settled = True


def _decision(answer: Answer) -> tuple[str, Json]:
    path = f"api/approvals/{segment(answer.question_id, 'approval')}"
    if answer.decision == "allow":
        return f"{path}/accept", {"arguments": None if answer.data is None else dict(answer.data)}
    return f"{path}/reject", {"feedback": answer.text or None}
