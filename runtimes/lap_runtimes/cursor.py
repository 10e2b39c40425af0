"""Cursor's cloud agents (API v1): agents that work on repositories, a run for each prompt.

What Cursor calls an agent is a conversation with a machine of its own, and so a session of ours; an
agent of ours is a repository, or whatever is configured.  What the events of a run mean is in
`cursor_fold.py`.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, ClassVar

import anyio

from lap_runtimes.base import (
    AgentInfo,
    Answer,
    Capabilities,
    Done,
    Event,
    EventStream,
    File,
    Heartbeat,
    Message,
    Prompt,
    PromptFile,
    Ref,
    Turn,
    Usage,
)
from lap_runtimes.cursor_config import CursorConfig
from lap_runtimes.cursor_fold import ENDED, Cursor, RunFold
from lap_runtimes.errors import Kind, ProtocolError, Rejected, RuntimeFailure, Unsupported
from lap_runtimes.files import plain_name
from lap_runtimes.stream import StreamReader, frames
from lap_runtimes.vendor_http import (
    Json,
    VendorHTTP,
    as_uuid,
    inlined,
    mapping,
    mappings,
    segment,
    text_of,
)

MAX_IMAGES = 5
MAX_IMAGE_BYTES = 15 * 1024 * 1024
_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_REPOSITORIES_DEADLINE = 120.0
"""Seconds: the list "can take tens of seconds"."""
_CODES: Mapping[str, Kind] = {
    "plan_required": "auth",
    "role_forbidden": "auth",
    "integration_not_connected": "auth",
    "repository_access": "auth",
    "feature_unavailable": "unsupported",
    "not_implemented": "unsupported",
    "usage_limit_exceeded": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "agent_archived": "gone",
    "stream_expired": "gone",
    "invalid_last_event_id": "gone",
    "stream_unavailable": "overloaded",
}


class CursorRuntime:
    """`Turn.agent` is a repository's address, an agent of Cursor's (`bc-…`) to go on with, or empty
    for what is configured."""

    kind: ClassVar[str] = "cursor"
    Config: ClassVar[type[CursorConfig]] = CursorConfig

    def __init__(self, config: CursorConfig) -> None:
        self._config = config
        self._http = VendorHTTP(config, _CODES)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            discover=True,
            attach="cursor",
            cancel="remote",
            on_disconnect="continues",
            files_in=True,
            files_out=self._config.artifacts,
            usage=self._config.usage,
        )

    async def check(self) -> str:
        found = mapping(await self._http.json("GET", self._http.url("v1/me")))
        owner = found.get("userEmail") or "a service account"
        return f"Cursor, with the key {found.get('apiKeyName')!r} of {owner}"

    async def agents(self) -> Sequence[AgentInfo]:
        """What is configured; without `repos`, the repositories that the key can reach."""
        repos = self._config.repos
        if repos is not None:
            where = ", ".join(repo.url for repo in repos) or "no repository"
            about = f"A Cursor cloud agent that works on {where}."
            name = _name(repos[0].url) if repos else "cursor"
            return [AgentInfo(ref=repos[0].url if repos else "", name=name, description=about)]
        url = self._http.url("v1/repositories")
        found = mapping(await self._http.json("GET", url, deadline=_REPOSITORIES_DEADLINE))
        urls = [str(each["url"]) for each in mappings(found.get("items")) if each.get("url")]
        return [
            AgentInfo(ref=u, name=_name(u), description=f"A Cursor cloud agent that works on {u}.")
            for u in urls
        ]

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn))

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return aclosing(self._attached(ref, cursor))

    async def answer(self, ref: Ref, answer: Answer) -> None:
        raise Unsupported("a Cursor cloud agent asks no questions")

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("a Cursor cloud agent takes no message while it works")

    async def cancel(self, ref: Ref) -> None:
        try:
            await self._http.json("POST", self._http.url(f"{_run_path(ref)}/cancel"))
        except Rejected as exc:
            # run_not_cancellable: it has ended, or is in a state that Cursor does not leave.
            if exc.kind not in ("conflict",):
                raise
            run = mapping(await self._http.json("GET", self._http.url(_run_path(ref))))
            if run.get("status") not in ENDED:
                raise

    async def aclose(self) -> None:
        await self._http.aclose()

    # Asking

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        if not isinstance(turn.input, Prompt):
            raise Unsupported("a Cursor cloud agent asks no questions")
        prompt = await _prompt(turn.input)
        existing = turn.ref.get("agent") or (turn.agent if turn.agent.startswith("bc-") else "")
        if existing:
            run = await self._follow_up(str(existing), prompt)
        else:
            run = await self._create(turn, prompt)
        kept = {"git": turn.ref["git"]} if turn.ref.get("git") else {}
        ref = {
            "agent": str(run.get("agentId") or existing)[:256],
            "run": str(run.get("id") or "")[:256],
            "since": str(run.get("createdAt") or "")[:64],
            **kept,
        }
        if not ref["agent"] or not ref["run"]:
            raise ProtocolError("Cursor made a run without an id")
        fold = RunFold(ref)
        for event in fold.start():
            yield event
        async with aclosing(self._follow(fold)) as events:
            async for event in events:
                yield event

    async def _create(self, turn: Turn, prompt: Json) -> Json:
        """A new agent and its first run.  The agent's id is the turn's, so that one which is there
        already is this start, whose answer was lost."""
        body = {**self._body(turn.agent), "prompt": prompt}
        agent = f"bc-{as_uuid(turn.id)}"
        if "envVars" not in body:
            body["agentId"] = agent
        try:
            made = mapping(await self._http.json("POST", self._http.url("v1/agents"), json=body))
        except Rejected as exc:
            if "agent_id_conflict" not in exc.message:
                raise
            found = mapping(await self._http.json("GET", self._http.url(f"v1/agents/{agent}")))
            ref = {"agent": agent, "run": found.get("latestRunId")}
            return mapping(await self._http.json("GET", self._http.url(_run_path(ref))))
        run = mapping(made.get("run"))
        return {"agentId": mapping(made.get("agent")).get("id"), **run}

    async def _follow_up(self, agent: str, prompt: Json) -> Json:
        url = self._http.url(f"v1/agents/{segment(agent, what='agent')}/runs")
        made = mapping(await self._http.json("POST", url, json={"prompt": prompt}))
        return {"agentId": agent, **mapping(made.get("run"))}

    def _body(self, agent: str) -> dict[str, Any]:
        config = self._config
        repos = [repo.sent() for repo in config.repos or ()]
        if agent and agent not in [repo["url"] for repo in repos]:
            repos = [{"url": agent}]
        body: dict[str, Any] = {**config.body, "mode": config.mode}
        if repos or not config.environment:
            body["repos"] = repos
        if config.model:
            body["model"] = {"id": config.model}
        if config.auto_create_pr:
            body["autoCreatePR"] = True
        if config.environment:
            body["env"] = dict(config.environment)
        if config.env_vars:
            body["envVars"] = {k: v.get_secret_value() for k, v in config.env_vars.items()}
        return body

    # Following a run

    async def _attached(self, ref: Ref, cursor: str | None) -> AsyncGenerator[Event, None]:
        try:
            after = Cursor.decode(cursor) if cursor is not None else None
        except ValueError as exc:
            raise Rejected(f"no such cursor: {cursor}", kind="invalid", sent=False) from exc
        _run_path(ref)
        async with aclosing(self._follow(RunFold(ref, after=after))) as events:
            async for event in events:
                yield event

    async def _follow(self, fold: RunFold) -> AsyncGenerator[Event, None]:
        """The run's stream; where Cursor says that it has none, or no more of it, the run itself
        until it has ended.  A stream that breaks off just ends."""
        streams = True
        while True:
            if streams:
                try:
                    async with aclosing(self._streamed(fold)) as events:
                        async for event in events:
                            yield event
                    if fold.finished or not fold.look:
                        return
                except Rejected as exc:
                    if exc.kind not in ("gone", "overloaded"):
                        raise
                    streams = exc.kind == "overloaded"
            run = await self._http.json("GET", self._http.url(_run_path(fold.ref)))
            async with aclosing(self._told(fold, fold.feed_run(run))) as events:
                async for event in events:
                    yield event
            if fold.finished:
                return
            fold.look = False
            await anyio.sleep(self._config.poll_interval)

    async def _streamed(self, fold: RunFold) -> AsyncGenerator[Event, None]:
        headers = {"Accept": "text/event-stream"}
        if fold.last_id:
            headers["Last-Event-ID"] = fold.last_id
        url = self._http.url(f"{_run_path(fold.ref)}/stream")
        async with (
            self._http.stream("GET", url, headers=headers) as reply,
            aclosing(reply.chunks()) as chunks,
            aclosing(frames(chunks, StreamReader("sse"))) as read,
        ):
            async for frame in read:
                found: list[Event] = [Heartbeat()]
                if frame is not None:
                    found = fold.feed(frame.event, frame.id, frame.data)
                async with aclosing(self._told(fold, found)) as events:
                    async for event in events:
                        yield event
                if fold.finished or (fold.look and frame and frame.event == "done"):
                    return

    async def _told(self, fold: RunFold, events: list[Event]) -> AsyncGenerator[Event, None]:
        """The events; before the last one, what a run leaves behind."""
        for event in events:
            if isinstance(event, Done):
                async with aclosing(self._files(fold)) as files:
                    async for file in files:
                        yield file
                for used in await self._used(fold):
                    yield used
            yield event

    async def _files(self, fold: RunFold) -> AsyncGenerator[Event, None]:
        """Artifacts that were written since the run began."""
        since = _time(fold.ref.get("since"))
        if not self._config.artifacts:
            return
        agent = segment(fold.ref.get("agent"), what="agent")
        try:
            found = await self._http.json("GET", self._http.url(f"v1/agents/{agent}/artifacts"))
        except Rejected as exc:
            unseen = f"{fold.run}/artifacts"
            text = f"What files the agent made is not known: {exc.message}"
            yield Message(id=unseen, message_id=unseen, text=text)
            return
        for each in mappings(mapping(found).get("items")):
            when = _time(each.get("updatedAt"))
            if since is None or when is None or when >= since:
                yield await self._file(fold, agent, each)

    async def _file(self, fold: RunFold, agent: str, artifact: Json) -> Event:
        """An artifact with its bytes; where it cannot be had, words that say so.  The link to it is
        itself a credential, and is told nobody."""
        path = str(artifact.get("path") or "")
        file_id = f"{fold.run}/{path}"
        name = plain_name(path, fallback="artifact")
        try:
            url = self._http.url(f"v1/agents/{agent}/artifacts/download")
            link = mapping(await self._http.json("GET", url, params={"path": path})).get("url")
            whence = f"the link to the artifact {name}"
            got = await self._http.download(str(link or ""), whence=whence)
        except RuntimeFailure as exc:
            text = f"{name}: not fetched: {exc.message}"
            return Message(id=file_id, message_id=file_id, text=text)
        return File(
            id=file_id, file_id=file_id, name=name, media_type=got.media_type, data=got.data
        )

    async def _used(self, fold: RunFold) -> list[Event]:
        if not self._config.usage:
            return []
        agent = segment(fold.ref.get("agent"), what="agent")
        url = self._http.url(f"v1/agents/{agent}/usage")
        try:
            found = mapping(await self._http.json("GET", url, params={"runId": fold.run}))
        except Rejected:
            return []  # The run has ended well or badly; that is still to be told.
        runs = mappings(found.get("runs"))
        used = mapping((runs[0].get("usage") if runs else None) or found.get("totalUsage") or {})
        counts = {k: v for k, v in used.items() if isinstance(v, int) and not isinstance(v, bool)}
        if not any(counts.values()):
            return []
        given, made = counts.pop("inputTokens", 0), counts.pop("outputTokens", 0)
        used_id = f"{fold.run}/usage"
        return [Usage(id=used_id, input_tokens=given, output_tokens=made, detail=counts)]


def _run_path(ref: Ref) -> str:
    if not ref.get("agent") or not ref.get("run"):
        raise Rejected("Cursor has given no run", kind="gone", sent=False)
    agent, run = segment(ref["agent"], what="agent"), segment(ref["run"], what="run")
    return f"v1/agents/{agent}/runs/{run}"


def _name(url: str) -> str:
    """`owner/name` of a repository."""
    parts = [part for part in url.split("?")[0].removesuffix(".git").split("/") if part]
    return "/".join(parts[-2:]) or "cursor"


def _time(value: Any) -> datetime | None:
    try:
        when = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return when if when.tzinfo else None


async def _prompt(prompt: Prompt) -> dict[str, Any]:
    """Text files go into the text.  Raises `Unsupported` for what is neither text nor image."""
    text = text_of(prompt)
    images: list[dict[str, str]] = []
    for file in prompt.files:
        if file.media_type in _IMAGES:
            images.append(await _image(file))
        else:
            text = "\n\n".join(filter(None, (text, await inlined(file))))
    if len(images) > MAX_IMAGES:
        raise Unsupported(f"Cursor takes at most {MAX_IMAGES} images with a prompt")
    if not text:
        raise Rejected("Cursor wants a prompt in words", kind="invalid", sent=False)
    return {"text": text, "images": images} if images else {"text": text}


async def _image(file: PromptFile) -> dict[str, str]:
    if file.size > MAX_IMAGE_BYTES:
        raise Unsupported(f"{file.name}: Cursor takes images of at most 15 MB")
    return {"data": base64.b64encode(await file.read()).decode(), "mimeType": file.media_type}
