"""Agents on the OpenAI Agents API (beta): sessions with or without a hosted environment, items,
required actions, cancelling, artifacts, usage.

What the events mean is in `openai_agents_fold.py` and `openai_agents_items.py`.
Wire format: the official `openai` SDK, `resources/beta/agents`, `OpenAI-Beta: agents=v1`.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any, ClassVar

from pydantic import Field, model_validator

from lap_runtimes.base import (
    AgentInfo,
    Answer,
    Answers,
    Capabilities,
    Event,
    EventStream,
    Prompt,
    PromptFile,
    Ref,
    Turn,
)
from lap_runtimes.config import Address, HTTPRuntimeConfig
from lap_runtimes.errors import Rejected, Unsupported
from lap_runtimes.files import fetched
from lap_runtimes.http import HTTP
from lap_runtimes.managed import (
    MAX_PAGES,
    followed,
    objects,
    paired,
    preparing,
    prompt_text,
    segment,
)
from lap_runtimes.openai_agents_fold import AgentFold
from lap_runtimes.openai_agents_items import artifact_link, input_event
from lap_runtimes.responses_items import Json, mapping

HEADERS = {"openai-beta": "agents=v1"}
HOSTED = "openai_hosted"
_OURS = ("agent", "agent_id", "environment", "input", "stream", "stream_options", "metadata")


class OpenAIAgentsConfig(HTTPRuntimeConfig):
    """`url` ends where `/agents` begins, mostly in `/v1`."""

    url: Address = "https://api.openai.com/v1"
    agent: str = ""
    """Agent (its id) of registered agents that name none."""
    model: str = ""
    """In place of `agent`: an agent that is only this model."""
    environment: Mapping[str, Any] = Field(default_factory=lambda: {"type": "none"})
    """Where sessions run, as the API takes it: `{ type = "none" }`, or `{ type = "openai_hosted" }`
    with its options, which files need."""
    budget_usd: float | None = Field(None, gt=0)
    """Spending limit of each session; the service holds it."""
    metadata: Mapping[str, str] = Field(default_factory=dict)
    """Written on each session, beside `lap_session`."""
    body: Mapping[str, Any] = Field(default_factory=dict)
    """More fields for each new session (`vault_ids`, `review`, `prompt_cache_options`)."""

    @model_validator(mode="after")
    def _fits_together(self) -> OpenAIAgentsConfig:
        if taken := sorted(set(self.body) & set(_OURS)):
            raise ValueError(f"body: {', '.join(taken)} is set by the adapter; remove it there")
        if self.agent and self.model:
            raise ValueError("agent and model: name one of them")
        if self.environment.get("type") not in ("none", HOSTED, "self_hosted"):
            raise ValueError('environment: needs type = "none", "openai_hosted" or "self_hosted"')
        return self


class OpenAIAgentsRuntime:
    """`Turn.agent` is an agent's id, or empty for the configured one."""

    kind: ClassVar[str] = "openai_agents"
    Config: ClassVar[type[OpenAIAgentsConfig]] = OpenAIAgentsConfig

    def __init__(self, config: OpenAIAgentsConfig) -> None:
        self._config = config
        self._hosted = config.environment.get("type") == HOSTED
        # Part of what every request to the home origin has, so that file links have them too.
        headers = {**HEADERS, **{name.lower(): value for name, value in config.headers.items()}}
        self._http = HTTP(config.model_copy(update={"headers": headers}))

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            discover=True,
            stream=True,
            answer="resume",
            attach="history",
            cancel="remote",
            on_disconnect="continues",
            files_in=self._hosted,
            files_out=self._hosted,
            usage=True,
        )

    async def check(self) -> str:
        await self._get("agents", {"limit": "1"})
        return f"OpenAI Agents API, environment {self._config.environment['type']}"

    async def agents(self) -> Sequence[AgentInfo]:
        """The configured model; without one, every agent of the project."""
        if self._config.model:
            return [AgentInfo(ref="", name=self._config.model)]
        return [
            AgentInfo(
                ref=str(agent["id"]),
                name=str(agent.get("name") or agent["id"]),
                description=_description(agent),
                output_schema=_schema(agent),
            )
            for agent in await self._pages("agents", {"order": "asc"})
            if agent.get("id")
        ]

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn))

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return aclosing(self._attached(ref, cursor))

    async def answer(self, ref: Ref, answer: Answer) -> None:
        raise Unsupported("an OpenAI agent is answered by a new start")

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("the Agents API does not say whether a running turn takes a message")

    async def cancel(self, ref: Ref) -> None:
        session = segment(ref.get("session"))
        try:
            await self._send(session, [{"type": "agent.session.input.cancel"}], key="")
        except Rejected as exc:
            if exc.kind not in ("invalid", "conflict", "not_found", "gone"):
                raise
            if await self._works(session):
                raise

    async def aclose(self) -> None:
        await self._http.aclose()

    # A turn

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        names = ("session", "environment", "vendor_turn", "item", "artifact", "cents")
        ref = {key: turn.ref[key] for key in names if key in turn.ref}
        ref["turn"] = turn.id
        async with AsyncExitStack() as stack:
            if isinstance(turn.input, Answers):
                events = [input_event(asked, each) for asked, each in paired(turn.input, turn.ref)]
                ref["asked"] = dict(turn.ref["open"])
            else:
                self._refuse_files(turn.input)
                events = [{"type": "agent.session.input.message", "input": [_message(turn)]}]
            if not ref.get("session"):
                body = await self._new_session(turn)
                url = self._http.url("agents/sessions")
                open_stream = self._http.stream("POST", url, json=body, headers=_STREAM)
                reply = await stack.enter_async_context(open_stream)
                fold = AgentFold(ref)
            else:
                session = segment(ref["session"])
                with preparing():
                    await self._put_files(turn, ref)
                    reply = await stack.enter_async_context(self._stream(session))
                await self._send(session, events, key=turn.id)
                fold = AgentFold(ref)
                yield fold.started()
            async with aclosing(followed(reply, fold)) as live:
                async for event in live:
                    yield event
        async with aclosing(self._ended(fold)) as rest:
            async for event in rest:
                yield event

    async def _attached(self, ref: Ref, cursor: str | None) -> AsyncGenerator[Event, None]:
        if cursor is not None:
            raise Unsupported("the Agents API has no cursors; attach without one")
        session = segment(ref.get("session"))
        fold = AgentFold(ref)
        with preparing():
            past = await self._past(session, ref)
        yield fold.started()
        for event in fold.feed_past(*past):
            yield event
        if not fold.finished:
            async with self._stream(session) as reply:
                # Again, now that the stream is open: what happened between the two.
                for event in fold.feed_past(*await self._past(session, ref)):
                    yield event
                if not fold.finished:
                    async with aclosing(followed(reply, fold)) as live:
                        async for event in live:
                            yield event
        async with aclosing(self._ended(fold)) as rest:
            async for event in rest:
                yield event

    async def _ended(self, fold: AgentFold) -> AsyncGenerator[Event, None]:
        """A stream that was lost just ends."""
        if not fold.finished:
            return
        artifacts: list[Json] = []
        session = segment(fold.session_id)
        if self._hosted:
            params = {"order": "asc"}
            if fold.artifacts_after:
                params["after"] = fold.artifacts_after
            artifacts = await self._pages(f"agents/sessions/{session}/artifacts", params)
        links: list[Event] = [artifact_link(each, session) for each in artifacts]
        for event in fold.end(artifacts, links):
            yield await fetched(self._http, event)

    async def _past(self, session: str, ref: Ref) -> tuple[list[Json], Json, Json]:
        """Items since the turn began, the session, its newest turn."""
        path = f"agents/sessions/{session}"
        found = mapping(await self._get(path))
        turns = mapping(await self._get(f"{path}/turns", {"order": "desc", "limit": "1"}))
        newest = objects(turns.get("data"))
        params = {"order": "asc", **({"after": str(ref["item"])} if ref.get("item") else {})}
        items = await self._pages(f"{path}/items", params)
        return items, found, newest[0] if newest else {}

    # Requests

    async def _new_session(self, turn: Turn) -> dict[str, Any]:
        config = self._config
        agent = turn.agent or config.agent
        if not (agent or config.model):
            raise Unsupported("no agent is named; set ref of the agent, or agent of the runtime")
        environment = dict(config.environment)
        assert isinstance(turn.input, Prompt)
        if turn.input.files:
            files = [await _inline(file, path) for file, path in _places(turn)]
            environment["files"] = [*(environment.get("files") or []), *files]
        body: dict[str, Any] = {
            **config.body,
            **({"agent_id": agent} if agent else {"agent": {"model": config.model}}),
            "environment": environment,
            "metadata": {**config.metadata, "lap_session": turn.session_id},
            "input": [_message(turn)],
            "stream": True,
            "stream_options": {"include_obfuscation": False},
        }
        if config.budget_usd is not None:
            body["spend_control"] = {"limit": max(1, round(config.budget_usd * 100))}
        return body

    def _refuse_files(self, prompt: Prompt) -> None:
        if prompt.files and not self._hosted:
            raise Unsupported(
                "an agent without an environment takes no files; set environment = { type = "
                '"openai_hosted" }'
            )

    async def _put_files(self, turn: Turn, ref: Ref) -> None:
        if not isinstance(turn.input, Prompt) or not turn.input.files:
            return
        environment = segment(ref.get("environment"), "environment")
        url = self._http.url(f"agents/environments/{environment}/files")
        for file, path in _places(turn):
            await self._http.json("POST", url, json=await _inline(file, path))

    def _stream(self, session: str) -> Any:
        url = self._http.url(f"agents/sessions/{session}/events?include_obfuscation=false")
        return self._http.stream("GET", url, headers=_STREAM)

    async def _send(self, session: str, events: list[dict[str, Any]], *, key: str) -> None:
        """Accepted with 202 and no body that matters.  `key` is the same for a repeated start."""
        url = self._http.url(f"agents/sessions/{session}/events")
        headers = {"Accept": "*/*", **({"Idempotency-Key": key} if key else {})}
        with self._http.within():
            async with self._http.stream("POST", url, json={"events": events}, headers=headers):
                pass

    async def _works(self, session: str) -> bool:
        try:
            found = mapping(await self._get(f"agents/sessions/{session}"))
        except Rejected as exc:
            if exc.kind in ("not_found", "gone"):
                return False
            raise
        return found.get("status") in ("in_progress", "requires_action")

    async def _pages(self, path: str, params: dict[str, str]) -> list[Json]:
        """All of a list."""
        found: list[Json] = []
        params = {"limit": "100", **params}
        for _ in range(MAX_PAGES):
            page = mapping(await self._get(path, params))
            some = objects(page.get("data"))
            found += some
            if not some or page.get("has_more") is False or not some[-1].get("id"):
                break
            params = {**params, "after": str(some[-1]["id"])}
        return found

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        return await self._http.json("GET", self._http.url(path), params=params)


_STREAM = {"Accept": "text/event-stream"}


def _places(turn: Turn) -> list[tuple[PromptFile, str]]:
    """Each file of a prompt, and where it goes in the environment."""
    assert isinstance(turn.input, Prompt)
    folder = f"/workspace/uploads/{turn.id[-8:]}"
    return [
        (file, f"{folder}-{number}/{file.name}") for number, file in enumerate(turn.input.files, 1)
    ]


async def _inline(file: PromptFile, path: str) -> dict[str, Any]:
    data = base64.b64encode(await file.read()).decode()
    return {"type": "inline", "path": path, "data": data}


def _message(turn: Turn) -> dict[str, Any]:
    assert isinstance(turn.input, Prompt)
    text = prompt_text(turn.input)
    if turn.input.files:
        places = "\n".join(f"- {path}" for _, path in _places(turn))
        text = f"{text}\n\nFiles with this message:\n{places}".strip()
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def _description(agent: Json) -> str:
    """Agents have none of their own; where somebody wrote one into the metadata, that."""
    metadata = agent.get("metadata")
    return str(metadata.get("description") or "") if isinstance(metadata, Mapping) else ""


def _schema(agent: Json) -> Json | None:
    """The schema of an agent whose answers are JSON."""
    text = agent.get("text")
    form = text.get("format") if isinstance(text, Mapping) else None
    schema = form.get("schema") if isinstance(form, Mapping) else None
    return schema if isinstance(schema, Mapping) else None
