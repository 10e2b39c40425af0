"""Agents on Claude Managed Agents, and on servers that speak its API: sessions with an environment,
events, approvals, custom tools, interrupts, files, usage.

What the events mean is in `claude_fold.py`.  The SDK is not used: it repeats requests that start
work.  Wire format: the official `anthropic` SDK, beta `managed-agents-2026-04-01`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, ClassVar

from pydantic import Field

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
from lap_runtimes.claude_fold import SessionFold
from lap_runtimes.config import Address, HTTPRuntimeConfig
from lap_runtimes.errors import Rejected, RuntimeFailure, Unsupported
from lap_runtimes.files import fetched
from lap_runtimes.http import HTTP
from lap_runtimes.http_errors import clean
from lap_runtimes.managed import (
    MAX_ID,
    MAX_PAGES,
    answer_text,
    fed,
    followed,
    multipart,
    objects,
    paired,
    preparing,
    prompt_text,
    segment,
)
from lap_runtimes.responses_items import Json, mapping

HEADERS = {
    "anthropic-version": "2026-10-21",
    "anthropic-beta": "managed-agents-2026-04-01,files-api-2025-04-14",
}
UPLOADS = "/mnt/session/uploads"
"""Where the session's container has the files that were sent."""
_SHOWN = {
    "image/png": "image",
    "image/jpeg": "image",
    "image/gif": "image",
    "image/webp": "image",
    "application/pdf": "document",
}
"""Files that the model is also shown, by media type, and as what kind of block."""
_PREVIEWS = "event_deltas[]=agent.message&event_deltas[]=agent.thinking"


class ClaudeManagedAgentsConfig(HTTPRuntimeConfig):
    """`auth = { bearer = "env:ANTHROPIC_API_KEY" }`, as the newest SDK sends it; older servers want
    the key as `header = { x-api-key = … }`."""

    url: Address = "https://api.anthropic.com"
    environment: str = Field(min_length=1)
    """Id of the environment (`env_…`) that sessions get: their container."""
    agent: str = ""
    """Agent (`agent_…`) of registered agents that name none."""
    vaults: tuple[str, ...] = ()
    """Ids of vaults whose credentials the agent may use."""
    resources: tuple[Mapping[str, Any], ...] = ()
    """Mounted into each session, as the API takes them: repositories, files, memory stores."""
    budget_usd: float | None = Field(None, gt=0)
    """Ceiling of each session, at list prices; the service holds it."""
    metadata: Mapping[str, str] = Field(default_factory=dict)
    """Written on each session, beside `lap_session`."""


class ClaudeManagedAgentsRuntime:
    """`Turn.agent` is an agent's id, or empty for the configured one."""

    kind: ClassVar[str] = "claude_managed_agents"
    Config: ClassVar[type[ClaudeManagedAgentsConfig]] = ClaudeManagedAgentsConfig

    def __init__(self, config: ClaudeManagedAgentsConfig) -> None:
        self._config = config
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
            files_in=True,
            files_out=True,
            usage=True,
        )

    async def check(self) -> str:
        environment = segment(self._config.environment, "environment")
        found = mapping(await self._get(f"v1/environments/{environment}"))
        return f"Claude Managed Agents, environment {clean(str(found.get('name', environment)))}"

    async def agents(self) -> Sequence[AgentInfo]:
        """Every agent of the workspace that is not archived."""
        listed = await self._pages("v1/agents", {"limit": "100"})
        return [
            AgentInfo(
                ref=str(agent["id"]),
                name=str(agent.get("name") or agent["id"]),
                description=str(agent.get("description") or ""),
            )
            for agent in listed
            if agent.get("id") and not agent.get("archived_at")
        ]

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn))

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return aclosing(self._attached(ref, cursor))

    async def answer(self, ref: Ref, answer: Answer) -> None:
        raise Unsupported("Claude Managed Agents are answered by a new start")

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("a message to a running session waits until it is idle")

    async def cancel(self, ref: Ref) -> None:
        session = segment(ref.get("session"))
        try:
            await self._send(session, [{"type": "user.interrupt"}])
        except Rejected as exc:
            if exc.kind not in ("invalid", "conflict", "not_found", "gone"):
                raise
            if await self._works(session):
                raise

    async def aclose(self) -> None:
        await self._http.aclose()

    # A turn

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        ref = {key: turn.ref[key] for key in ("session", "used", "files") if key in turn.ref}
        ref["turn"] = turn.id
        with preparing():
            if isinstance(turn.input, Answers):
                events = [_answer(kind, answer) for kind, answer in paired(turn.input, turn.ref)]
                ref["asked"] = dict(turn.ref["open"])
            else:
                uploads = [(file, await self._uploaded(file)) for file in turn.input.files]
                events = [_message(turn.input, uploads)]
                await self._session(turn, ref, [_mount(*each) for each in uploads])
        session = segment(ref.get("session"))
        # Opened first: a stream shows only what happens while it is open.
        async with AsyncExitStack() as stack:
            with preparing():
                reply = await stack.enter_async_context(self._stream(session))
            sent = await self._send(session, events)
            fold = SessionFold({**ref, **({"from": sent[0]} if sent else {})})
            yield fold.started()
            async with aclosing(followed(reply, fold)) as live:
                async for event in live:
                    yield event
        async with aclosing(self._ended(session, fold)) as rest:
            async for event in rest:
                yield event

    async def _attached(self, ref: Ref, cursor: str | None) -> AsyncGenerator[Event, None]:
        if cursor is not None:
            raise Unsupported("Claude Managed Agents have no cursors; attach without one")
        session = segment(ref.get("session"))
        if not ref.get("from"):
            raise Rejected("the service gave this turn no id to find it by", kind="gone")
        fold = SessionFold(ref)
        with preparing():
            past = await self._since(session, str(ref.get("from", "")))
        yield fold.started()
        for event in fed(fold, past):
            yield event
        if not fold.finished:
            async with self._stream(session) as reply:
                # Again, now that the stream is open: what happened between the two.
                for event in fed(fold, await self._since(session, str(ref.get("from", "")))):
                    yield event
                if not fold.finished:
                    async with aclosing(followed(reply, fold)) as live:
                        async for event in live:
                            yield event
        async with aclosing(self._ended(session, fold)) as rest:
            async for event in rest:
                yield event

    async def _ended(self, session: str, fold: SessionFold) -> AsyncGenerator[Event, None]:
        """What is asked when the session rests.  A stream that was lost just ends."""
        if not fold.finished:
            return
        found: Json = {}
        files: list[Json] = []
        try:
            found = mapping(await self._get(f"v1/sessions/{session}"))
            files = await self._pages("v1/files", {"scope_id": session, "limit": "1000"})
        except RuntimeFailure as exc:
            # The answer is here; a session that is deleted, or a server without files, has no more.
            if exc.kind not in ("not_found", "gone", "invalid"):
                raise
        for event in fold.end(found, files):
            yield await fetched(self._http, event)

    # Requests

    async def _session(self, turn: Turn, ref: dict[str, Any], mounts: list[Json]) -> None:
        """The session of this turn, with these files mounted, in `ref`: made, where it has none."""
        if ref.get("session"):
            path = f"v1/sessions/{segment(ref['session'])}/resources"
            for mount in mounts:
                await self._post(path, mount)
            return
        config = self._config
        agent = turn.agent or config.agent
        if not agent:
            raise Unsupported("no agent is named; set ref of the agent, or agent of the runtime")
        body: dict[str, Any] = {
            "agent": agent,
            "environment_id": config.environment,
            "metadata": {**config.metadata, "lap_session": turn.session_id},
        }
        if resources := [*map(dict, config.resources), *mounts]:
            body["resources"] = resources
        if config.vaults:
            body["vault_ids"] = list(config.vaults)
        if config.budget_usd is not None:
            cents = max(1, round(config.budget_usd * 100))
            amount = {"amount": str(cents), "currency": "USD"}
            body["budget"] = {"type": "limit", "max_list_cost": amount}
        made = mapping(await self._post("v1/sessions", body))
        ref["session"] = segment(made.get("id"))

    async def _uploaded(self, file: PromptFile) -> str:
        content, media_type = multipart("file", file.name, file.media_type, await file.read())
        with self._http.within():
            reply = await self._http.open(
                "POST",
                self._http.url("v1/files"),
                content=content,
                headers={"Content-Type": media_type},
            )
            try:
                await self._http.refuse_errors(reply)
                return segment(mapping(await reply.json()).get("id"), "file")
            finally:
                await reply.aclose()

    @asynccontextmanager
    async def _stream(self, session: str) -> AsyncGenerator[Any, None]:
        url = self._http.url(f"v1/sessions/{session}/events/stream?{_PREVIEWS}")
        headers = {"Accept": "text/event-stream"}
        async with self._http.stream("GET", url, headers=headers) as reply:
            yield reply

    async def _send(self, session: str, events: list[dict[str, Any]]) -> list[str]:
        """Ids of the events as the service took them."""
        sent = mapping(await self._post(f"v1/sessions/{session}/events", {"events": events}))
        return [str(each["id"])[:MAX_ID] for each in objects(sent.get("data")) if each.get("id")]

    async def _since(self, session: str, first: str) -> list[Json]:
        """The session's events from this one on, oldest first; all, where there is none."""
        path = f"v1/sessions/{segment(session)}/events"
        params = {"order": "desc" if first else "asc", "limit": "1000"}
        found = await self._pages(path, params, until=first)
        return found[::-1] if first else found

    async def _works(self, session: str) -> bool:
        try:
            found = mapping(await self._get(f"v1/sessions/{session}"))
        except Rejected as exc:
            if exc.kind in ("not_found", "gone"):
                return False
            raise
        return found.get("status") in ("running", "rescheduling")

    async def _pages(self, path: str, params: dict[str, str], *, until: str = "") -> list[Json]:
        """All of a list, or its part up to the object with the id `until`."""
        found: list[Json] = []
        for _ in range(MAX_PAGES):
            page = mapping(await self._get(path, params))
            some = objects(page.get("data"))
            found += some
            following = page.get("next_page")
            if not (some and following) or (until and any(e.get("id") == until for e in some)):
                break
            params = {**params, "page": str(following)}
        return found

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        return await self._http.json("GET", self._http.url(path), params=params)

    async def _post(self, path: str, body: Json) -> Any:
        return await self._http.json("POST", self._http.url(path), json=dict(body))


def _message(prompt: Prompt, uploads: list[tuple[PromptFile, str]]) -> dict[str, Any]:
    text = prompt_text(prompt)
    if uploads:
        places = "\n".join(f"- {_place(file, file_id)}" for file, file_id in uploads)
        text = f"{text}\n\nFiles with this message:\n{places}".strip()
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    for file, file_id in uploads:
        kind = _SHOWN.get(file.media_type)
        if kind is not None:
            block: dict[str, Any] = {"type": kind, "source": {"type": "file", "file_id": file_id}}
            content.append({**block, "title": file.name} if kind == "document" else block)
    return {"type": "user.message", "content": content}


def _place(file: PromptFile, file_id: str) -> str:
    return f"{UPLOADS}/{file_id}/{file.name}"


def _mount(file: PromptFile, file_id: str) -> dict[str, Any]:
    return {"type": "file", "file_id": file_id, "mount_path": _place(file, file_id)}


def _answer(kind: str, answer: Answer) -> dict[str, Any]:
    """`kind` is what asked: a custom tool, a tool of a self-hosted environment, or a permission."""
    if kind in ("agent.custom_tool_use", "self_hosted"):
        custom = kind == "agent.custom_tool_use"
        return {
            "type": "user.custom_tool_result" if custom else "user.tool_result",
            "custom_tool_use_id" if custom else "tool_use_id": answer.question_id,
            "content": [{"type": "text", "text": answer_text(answer)}],
            "is_error": answer.is_error or answer.decision == "deny",
        }
    allowed = answer.decision == "allow"
    made: dict[str, Any] = {
        "type": "user.tool_confirmation",
        "tool_use_id": answer.question_id,
        "result": "allow" if allowed else "deny",
    }
    return made if allowed or not answer.text else {**made, "deny_message": answer.text}
