"""Elastic Agent Builder: the agents of a Kibana, conversations that it keeps, and prompts that it
asks before an agent may go on.

What the events mean is in `elastic_fold.py` and `elastic_prompts.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Literal

import anyio
from pydantic import Field, SecretStr, model_validator

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
from lap_runtimes.config import Auth, HTTPRuntimeConfig
from lap_runtimes.elastic_fold import OURS, RoundFold
from lap_runtimes.elastic_prompts import responses
from lap_runtimes.errors import Rejected, Unsupported
from lap_runtimes.stream import StreamReader, frames
from lap_runtimes.vendor_http import (
    Json,
    VendorHTTP,
    inlined,
    mapping,
    mappings,
    segment,
    text_of,
)

_API = "api/agent_builder"
_OURS = ("input", "agent_id", "conversation_id", "prompts", "attachments", "_execution_mode")
_ON_DISCONNECT: Mapping[str, Literal["continues", "aborts", "unknown"]] = {
    "": "unknown",
    "local": "aborts",
    "task_manager": "continues",
}
_HEADERS = {"kbn-xsrf": "true", "elastic-api-version": "2023-10-31"}


class ElasticConfig(HTTPRuntimeConfig):
    """`url` is that of Kibana, of a space with `/s/SPACE` after it."""

    scheme: Literal["ApiKey", "Bearer"] = "ApiKey"
    """How `auth.bearer` is sent: as an API key, or as a token."""
    agent: str = "elastic-ai-agent"
    """The agent of a turn that names none."""
    connector: str = ""
    """The model connector; empty: Kibana's default."""
    execution: Literal["", "local", "task_manager"] = ""
    """Where rounds run, on stacks that let their client choose (9.4 and later): `local` ends one
    when its reader leaves; `task_manager` does not, so that a lost round can be read again.  Empty:
    the stack's own choice, which nobody can rely on."""
    poll_interval: float = Field(2.0, gt=0)
    """Seconds between two looks at a round whose stream was lost."""
    body: Mapping[str, Any] = Field(default_factory=dict)
    """More fields of each request (`configuration_overrides`, `capabilities`, …)."""

    @model_validator(mode="after")
    def _fits_together(self) -> ElasticConfig:
        taken = sorted(set(self.body) & set(_OURS))
        if taken:
            raise ValueError(f"body: {', '.join(taken)} is set by the adapter; remove it there")
        return self

    def sent(self) -> ElasticConfig:
        """As HTTP takes it: with Kibana's headers, and the credential in its scheme."""
        headers = {**_HEADERS, **self.headers}
        bearer = self.auth.bearer
        if bearer is None or self.scheme == "Bearer":
            return self.model_copy(update={"headers": headers})
        secret = SecretStr(f"{self.scheme} {bearer.get_secret_value()}")
        named = {**self.auth.header, "Authorization": secret}
        auth = Auth.model_construct(bearer=None, header=named)
        return self.model_copy(update={"headers": headers, "auth": auth})


class ElasticRuntime:
    """`Turn.agent` is an agent's id, or empty for the configured one."""

    kind: ClassVar[str] = "elastic"
    Config: ClassVar[type[ElasticConfig]] = ElasticConfig

    def __init__(self, config: ElasticConfig) -> None:
        self._config = config
        self._http = VendorHTTP(config.sent(), {})

    @property
    def capabilities(self) -> Capabilities:
        execution = self._config.execution
        return Capabilities(
            discover=True,
            answer="resume",
            attach="history" if execution == "task_manager" else "none",
            cancel="disconnect" if execution == "local" else "none",
            on_disconnect=_ON_DISCONNECT[execution],
            files_in=True,
            files_out=True,
            usage=True,
        )

    async def check(self) -> str:
        return f"Agent Builder: {len(await self.agents())} agents"

    async def agents(self) -> Sequence[AgentInfo]:
        found = mapping(await self._http.json("GET", self._http.url(f"{_API}/agents")))
        return [
            AgentInfo(
                ref=str(each["id"]),
                name=str(each.get("name") or each["id"]),
                description=str(each.get("description") or ""),
            )
            for each in mappings(found.get("results"))
            if each.get("id")
        ]

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn))

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return aclosing(self._attached(ref, cursor))

    async def answer(self, ref: Ref, answer: Answer) -> None:
        raise Unsupported("an Elastic agent is answered by a new start")

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("Agent Builder takes no message while it works")

    async def cancel(self, ref: Ref) -> None:
        raise Unsupported("Agent Builder has no public call that cancels")

    async def aclose(self) -> None:
        await self._http.aclose()

    # Asking

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        body = await self._body(turn)
        ref = {key: turn.ref[key] for key in ("conversation", "round", "told") if key in turn.ref}
        if isinstance(turn.input, Answers):
            ref |= {key: turn.ref[key] for key in ("resumes", "steps") if key in turn.ref}
            ref["answered"] = list(body["prompts"])
        ref["turn"] = turn.id
        try:
            async with aclosing(self._converse(body, RoundFold(ref))) as events:
                async for event in events:
                    yield event
            return
        except Rejected as exc:
            never_kept = (
                exc.kind in ("not_found",) and ref.get("conversation") and "round" not in ref
            )
            if not never_kept:
                raise
        # The conversation's only round was lost before Kibana kept it.
        again = {key: value for key, value in body.items() if key != "conversation_id"}
        async with aclosing(self._converse(again, RoundFold({"turn": turn.id}))) as events:
            async for event in events:
                yield event

    async def _body(self, turn: Turn) -> dict[str, Any]:
        config = self._config
        body: dict[str, Any] = {**config.body, "agent_id": turn.agent or config.agent}
        if config.connector:
            body["connector_id"] = config.connector
        if config.execution:
            body["_execution_mode"] = config.execution
        if turn.ref.get("conversation"):
            body["conversation_id"] = turn.ref["conversation"]
        if isinstance(turn.input, Answers):
            return {**body, "prompts": responses(turn.input.answers, turn.ref.get("open"))}
        attached = [
            {"id": f"{OURS}{turn.id}-{number}", "type": "text", "data": {"content": text}}
            for number, text in enumerate([await inlined(file) for file in turn.input.files])
        ]
        if attached:
            body["attachments"] = attached
        return {**body, "input": text_of(turn.input)}

    async def _converse(self, body: Json, fold: RoundFold) -> AsyncGenerator[Event, None]:
        """The content type is whatever a proxy lets pass unbuffered, and says nothing."""
        url = self._http.url(f"{_API}/converse/async")
        headers = {"Accept": "text/event-stream"}
        async with (
            self._http.stream("POST", url, json=body, headers=headers) as reply,
            aclosing(reply.chunks()) as chunks,
            aclosing(frames(chunks, StreamReader("sse"))) as read,
        ):
            async for frame in read:
                for event in fold.feed(frame.event, frame.data) if frame else [Heartbeat()]:
                    yield event
                if fold.finished:
                    return
        for event in fold.end():
            yield event

    # Looking again

    async def _attached(self, ref: Ref, cursor: str | None) -> AsyncGenerator[Event, None]:
        if self._config.execution != "task_manager":
            raise Unsupported('without execution = "task_manager" a lost round is not read again')
        if cursor is not None:
            raise Unsupported("Agent Builder has no cursors; attach without one")
        if not ref.get("conversation"):
            raise Rejected("Kibana has given no conversation", kind="gone", sent=False)
        conversation = segment(ref["conversation"], what="conversation")
        url = self._http.url(f"{_API}/conversations/{conversation}")
        fold = RoundFold(ref)
        while True:
            try:
                found = mapping(await self._http.json("GET", url))
            except Rejected as exc:
                if exc.kind not in ("not_found",):
                    raise
                found = {}  # Not kept yet: its first round is being worked on.
            kept = _round(found, fold)
            if kept is not None and kept.get("status") != "in_progress":
                for event in fold.feed_round(kept, found.get("attachments")):
                    yield event
                return
            if kept is not None:
                yield Heartbeat()
            # Nothing is said of a round that is not there: the engine ends such a silence.
            await anyio.sleep(self._config.poll_interval)


def _round(conversation: Json, fold: RoundFold) -> Json | None:
    """The turn's round among those that are kept; None: it is not among them, or it still waits for
    what was answered."""
    rounds = mappings(conversation.get("rounds"))
    if fold.resumes:
        found = [each for each in rounds if str(each.get("id")) == fold.resumes]
        pending = {each.get("id") for each in mappings(found and found[0].get("pending_prompts"))}
        waits = pending and pending <= set(fold.ref.get("answered") or ())
        return None if not found or waits else found[0]
    before = fold.ref.get("round")
    places = [place for place, each in enumerate(rounds) if each.get("id") == before]
    later = rounds[places[-1] + 1 :] if places else ([] if before else rounds)
    return later[0] if later else None
