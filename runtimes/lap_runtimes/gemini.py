"""Agents of the Gemini API: interactions with managed agents, in the background and kept by the
service, so that they are continued, attached to by cursor, and cancelled.

What the events mean is in `gemini_fold.py`.
Wire format: the official `google-genai` SDK, `interactions` and `agents`.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar

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
from lap_runtimes.config import Address, HTTPRuntimeConfig
from lap_runtimes.errors import Rejected, Unsupported
from lap_runtimes.files import fetched
from lap_runtimes.gemini_fold import PENDING, InteractionFold
from lap_runtimes.http import HTTP, Reply
from lap_runtimes.managed import (
    MAX_PAGES,
    answer_text,
    followed,
    objects,
    paired,
    preparing,
    prompt_text,
    segment,
)
from lap_runtimes.responses_items import Json, mapping

_OURS = ("agent", "input", "background", "store", "stream", "previous_interaction_id")
_STREAM = {"Accept": "text/event-stream"}


class GeminiConfig(HTTPRuntimeConfig):
    """`auth = { header = { x-goog-api-key = "env:GEMINI_API_KEY" } }`."""

    url: Address = "https://generativelanguage.googleapis.com/v1"
    agent: str = ""
    """Agent of registered agents that name none: one of yours, or a built-in one
    (`antigravity-preview-09-2026`, `deep-research-preview-04-2026`)."""
    environment: str | Mapping[str, Any] | None = None
    """The environment of new sessions, as the API takes it; later turns of a session stay in the
    one that it got."""
    poll_interval: float = Field(2.0, gt=0)
    """Seconds between two looks at an interaction whose stream cannot be had again."""
    body: Mapping[str, Any] = Field(default_factory=dict)
    """More fields for each interaction (`agent_config`, `tools`, `labels`, …)."""

    @model_validator(mode="after")
    def _fits_together(self) -> GeminiConfig:
        if taken := sorted(set(self.body) & {*_OURS, "environment"}):
            raise ValueError(f"body: {', '.join(taken)} is set by the adapter; remove it there")
        return self


class GeminiRuntime:
    """`Turn.agent` is an agent's id, or empty for the configured one."""

    kind: ClassVar[str] = "gemini"
    Config: ClassVar[type[GeminiConfig]] = GeminiConfig

    def __init__(self, config: GeminiConfig) -> None:
        self._config = config
        self._http = HTTP(config)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            discover=True,
            stream=True,
            answer="resume",
            attach="cursor",
            cancel="remote",
            on_disconnect="continues",
            files_in=True,
            files_out=True,
            usage=True,
        )

    async def check(self) -> str:
        await self._get("agents", {"page_size": "1"})
        return "Gemini API, interactions"

    async def agents(self) -> Sequence[AgentInfo]:
        """The agents of the project; the service does not list its built-in ones."""
        found: list[Json] = []
        params = {"page_size": "100"}
        for _ in range(MAX_PAGES):
            page = mapping(await self._get("agents", params))
            found += objects(page.get("agents"))
            if not page.get("next_page_token"):
                break
            params = {**params, "page_token": str(page["next_page_token"])}
        return [
            AgentInfo(
                ref=str(agent["id"]),
                name=str(agent["id"]),
                description=str(agent.get("description") or ""),
            )
            for agent in found
            if agent.get("id")
        ]

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn))

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return aclosing(self._attached(ref, cursor))

    async def answer(self, ref: Ref, answer: Answer) -> None:
        raise Unsupported("a Gemini interaction is answered by a new start")

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("a Gemini interaction takes no message while it works")

    async def cancel(self, ref: Ref) -> None:
        path = f"interactions/{segment(ref.get('interaction'), 'interaction')}"
        try:
            await self._http.json("POST", self._http.url(f"{path}/cancel"))
        except Rejected as exc:
            if exc.kind not in ("invalid", "conflict"):
                raise
            if mapping(await self._get(path)).get("status") in PENDING:
                raise

    async def aclose(self) -> None:
        await self._http.aclose()

    # A turn

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        with preparing():
            body, ref = await self._request(turn)
        fold = InteractionFold(turn.id, ref)
        url = self._http.url("interactions")
        async with (
            self._http.stream("POST", url, json=body, headers=_STREAM) as reply,
            aclosing(self._read(reply, fold)) as events,
        ):
            async for event in events:
                yield event

    async def _attached(self, ref: Ref, cursor: str | None) -> AsyncGenerator[Event, None]:
        interaction = segment(ref.get("interaction"), "interaction")
        kept = {key: ref[key] for key in ("interaction", "previous", "environment") if key in ref}
        try:
            fold = InteractionFold(str(ref.get("turn", "")), kept, cursor=cursor)
        except ValueError as exc:
            raise Rejected(f"no such cursor: {cursor}", kind="invalid", sent=False) from exc
        after = {"last_event_id": fold.event_id} if fold.event_id else {}
        params = {"stream": "true", **after}
        url = self._http.url(f"interactions/{interaction}")
        try:
            async with (
                self._http.stream("GET", url, params=params, headers=_STREAM) as reply,
                aclosing(self._read(reply, fold)) as events,
            ):
                async for event in events:
                    yield event
            if fold.finished:
                return
        except Rejected as exc:
            if exc.kind not in ("invalid", "gone", "conflict"):
                raise
        # This interaction has no stream to be had again, but can be looked at.
        async with aclosing(self._polled(interaction, fold)) as events:
            async for event in events:
                yield event

    async def _read(self, reply: Reply, fold: InteractionFold) -> AsyncGenerator[Event, None]:
        if reply.media_type == "application/json":
            for event in fold.feed_whole(mapping(await reply.json())):
                yield await fetched(self._http, event)
        else:
            async with aclosing(followed(reply, fold)) as live:
                async for event in live:
                    yield await fetched(self._http, event)
        if fold.finished:
            for event in fold.end(await self._kept(fold)):
                yield await fetched(self._http, event)

    async def _polled(self, interaction: str, fold: InteractionFold) -> AsyncGenerator[Event, None]:
        while True:
            found = mapping(await self._get(f"interactions/{interaction}"))
            for event in fold.feed_whole(found) or [Heartbeat()]:
                yield await fetched(self._http, event)
            if fold.finished:
                break
            await anyio.sleep(self._config.poll_interval)
        for event in fold.end(found):
            yield await fetched(self._http, event)

    async def _kept(self, fold: InteractionFold) -> Json:
        """What the service keeps of the interaction: errors, calls and environment, which its
        stream does not name."""
        path = f"interactions/{segment(fold.interaction, 'interaction')}"
        return mapping(await self._get(path))

    # Asking

    async def _request(self, turn: Turn) -> tuple[dict[str, Any], dict[str, Any]]:
        """The request's body, and the part of the ref that is known before the answer."""
        config = self._config
        agent = turn.agent or config.agent
        if not agent:
            raise Unsupported("no agent is named; set ref of the agent, or agent of the runtime")
        ref = {key: turn.ref[key] for key in ("previous", "environment") if key in turn.ref}
        if isinstance(turn.input, Answers):
            given: Any = [_result(name, each) for name, each in paired(turn.input, turn.ref)]
        else:
            given = await _content(turn.input)
        body: dict[str, Any] = {
            **config.body,
            "agent": agent,
            "input": given,
            "background": True,
            "store": True,
            "stream": True,
        }
        if ref.get("previous"):
            body["previous_interaction_id"] = ref["previous"]
        environment = ref.get("environment") or config.environment
        if environment:
            body["environment"] = environment if isinstance(environment, str) else dict(environment)
        return body, ref

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        return await self._http.json("GET", self._http.url(path), params=params)


async def _content(prompt: Prompt) -> str | list[dict[str, Any]]:
    text = prompt_text(prompt)
    if not prompt.files:
        return text
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    return parts + [await _part(file) for file in prompt.files]


async def _part(file: PromptFile) -> dict[str, Any]:
    kind = file.media_type.partition("/")[0]
    return {
        "type": kind if kind in ("image", "audio", "video") else "document",
        "mime_type": file.media_type,
        "data": base64.b64encode(await file.read()).decode(),
    }


def _result(name: str, answer: Answer) -> dict[str, Any]:
    return {
        "type": "function_result",
        "call_id": answer.question_id,
        "name": name,
        "result": answer_text(answer),
        "is_error": answer.is_error or answer.decision == "deny",
    }
