"""Graphs on a LangGraph server (LangGraph Platform, or `langgraph dev`): assistants, threads and
runs, with interrupts, cancel, and streams that can be taken up again.

What the events mean is in `langgraph_fold.py` and `langgraph_interrupts.py`.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar

import anyio
from pydantic import Field, field_validator

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
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure, Unsupported
from lap_runtimes.http import HTTP, Reply
from lap_runtimes.langgraph_fold import Cursor, RunFold
from lap_runtimes.langgraph_interrupts import resumed
from lap_runtimes.langgraph_schema import own_schema
from lap_runtimes.stream import StreamReader, frames

MAX_FRAME = 72 * 1024 * 1024
"""Bytes of one event: a node's update may hold a file."""
MODES = ("messages-tuple", "updates", "custom")
_OURS = (
    "assistant_id",
    "input",
    "command",
    "stream_mode",
    "stream_resumable",
    "on_disconnect",
    "if_not_exists",
    "multitask_strategy",
)
_PAGE = 100
_PAGES = 20
_AT_ONCE = 8
_WORKING = ("pending", "running")
_LOOKS = 10
_LOOK_PAUSE = 0.2


class LangGraphConfig(HTTPRuntimeConfig):
    """`url` is the deployment's.  Its key goes into `auth.header` as `x-api-key`."""

    assistant: str = ""
    """Assistant or graph that runs where none is named."""
    prompt_key: str = "messages"
    """Where in the graph's input the prompt goes: `messages`, or the name of a text field."""
    nodes: tuple[str, ...] = ()
    """Only what these nodes say is shown; empty: what every node says."""
    body: Mapping[str, Any] = Field(default_factory=dict)
    """More fields of each run: `config`, `context`, `metadata`, `durability`, …"""

    @field_validator("body")
    @classmethod
    def _not_ours(cls, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if taken := sorted(set(body) & set(_OURS)):
            raise ValueError(f"{', '.join(taken)} is set by the adapter; remove it there")
        return body


class LangGraphRuntime:
    """`Turn.agent` is the id of an assistant, or the name of a graph."""

    kind: ClassVar[str] = "langgraph"
    Config: ClassVar[type[LangGraphConfig]] = LangGraphConfig

    def __init__(self, config: LangGraphConfig) -> None:
        self._config = config
        self._http = HTTP(config)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            discover=True,
            answer="resume",
            attach="cursor",
            cancel="remote",
            on_disconnect="continues",
            files_in=self._config.prompt_key == "messages",
            files_out=True,
            usage=True,
        )

    async def check(self) -> str:
        found = await self._http.json("GET", self._http.url("info"))
        version = found.get("version", "?") if isinstance(found, Mapping) else "?"
        count = len(await self._assistants(limit=_PAGE, offset=0))
        return f"LangGraph server {version} with {count} assistants"

    async def agents(self) -> Sequence[AgentInfo]:
        listed: list[Mapping[str, Any]] = []
        for page in range(_PAGES):
            found = await self._assistants(limit=_PAGE, offset=page * _PAGE)
            listed += found
            if len(found) < _PAGE:
                break
        schemas: dict[int, Mapping[str, Any] | None] = {}
        slots = anyio.CapacityLimiter(_AT_ONCE)

        async def look(place: int) -> None:
            async with slots:
                schemas[place] = await self._schema(str(listed[place]["assistant_id"]))

        async with anyio.create_task_group() as tasks:
            for place in range(len(listed)):
                tasks.start_soon(look, place)
        return [_info(each, schemas[place]) for place, each in enumerate(listed)]

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn))

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return aclosing(self._attached(ref, cursor))

    async def answer(self, ref: Ref, answer: Answer) -> None:
        raise Unsupported("an interrupted graph is answered by a new start")

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("a graph takes no message while it runs")

    async def cancel(self, ref: Ref) -> None:
        url = f"{self._run(ref)}/cancel"
        params = {"wait": "0", "action": "interrupt"}
        try:
            with self._http.within():
                async with self._http.stream("POST", url, params=params):
                    pass
        except Rejected as exc:
            # 404, too, is the answer for a run that has ended.
            if exc.kind not in ("not_found", "conflict", "gone"):
                raise

    async def aclose(self) -> None:
        await self._http.aclose()

    # Following a run

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        thread = _thread(turn)
        body = await self._request(turn)
        url = self._http.url(f"threads/{thread}/runs/stream")
        async with self._http.stream("POST", url, json=body, headers=_stream_headers()) as reply:
            ref = {"thread": thread, "turn": turn.id, "run": _run_id(reply)}
            fold = RunFold(turn.id, ref, nodes=self._config.nodes)
            async with aclosing(self._followed(reply, fold)) as events:
                async for event in events:
                    yield event

    async def _attached(self, ref: Ref, cursor: str | None) -> AsyncGenerator[Event, None]:
        try:
            after = Cursor.decode(cursor) if cursor is not None else None
        except ValueError as exc:
            raise Rejected(f"no such cursor: {cursor}", kind="invalid", sent=False) from exc
        url = f"{self._run(ref)}/stream"
        kept = {key: ref[key] for key in ("thread", "turn", "run")}
        fold = RunFold(str(ref["turn"]), kept, nodes=self._config.nodes, after=after)
        headers = {**_stream_headers(), "Last-Event-ID": after.event if after else "-1"}
        async with (
            self._http.stream("GET", url, headers=headers) as reply,
            aclosing(self._followed(reply, fold)) as events,
        ):
            async for event in events:
                yield event

    async def _followed(self, reply: Reply, fold: RunFold) -> AsyncGenerator[Event, None]:
        for event in fold.start():
            yield event
        reader = StreamReader("sse", limit=MAX_FRAME)
        async with aclosing(reply.chunks()) as chunks, aclosing(frames(chunks, reader)) as read:
            async for frame in read:
                for event in fold.feed(frame) if frame else [Heartbeat()]:
                    yield event
                if fold.finished:
                    return
        # The stream has no last event: how the run ended is to be asked for.
        status = await self._status(fold)
        if status in _WORKING:
            return
        values = None
        if status == "success" and not fold.said:
            state = await self._http.json("GET", self._http.url(f"threads/{fold.thread}/state"))
            values = state.get("values") if isinstance(state, Mapping) else None
        for event in fold.end(status, values):
            yield event

    async def _status(self, fold: RunFold) -> str:
        """How the run stands; its stream may end a moment before the run does."""
        url = self._run(fold.ref())
        status = ""
        for _ in range(_LOOKS):
            found = await self._http.json("GET", url)
            status = str(found.get("status", "")) if isinstance(found, Mapping) else ""
            if status not in _WORKING:
                break
            await anyio.sleep(_LOOK_PAUSE)
        return status

    def _run(self, ref: Ref) -> str:
        thread, run = str(ref.get("thread", "")), str(ref.get("run", ""))
        if not (_is_uuid(thread) and _is_uuid(run)):
            raise Rejected("the server has given no run", kind="gone", sent=False)
        return self._http.url(f"threads/{thread}/runs/{run}")

    # Asking

    async def _request(self, turn: Turn) -> dict[str, Any]:
        assistant = turn.agent or self._config.assistant
        if not assistant:
            words = "name the assistant: assistant in the runtime, or ref in [agents]"
            raise Rejected(words, kind="invalid", sent=False)
        body: dict[str, Any] = {
            **self._config.body,
            "assistant_id": assistant,
            "stream_mode": list(MODES),
            "stream_resumable": True,
            "on_disconnect": "continue",
            "multitask_strategy": "reject",
            "if_not_exists": "create",
        }
        if isinstance(turn.input, Answers):
            body["command"] = {"resume": resumed(turn.input, turn.ref)}
        else:
            body["input"] = await self._input(turn.id, turn.input)
        return body

    async def _input(self, turn_id: str, prompt: Prompt) -> dict[str, Any]:
        made = dict(prompt.input or {})
        key = self._config.prompt_key
        if prompt.files and key != "messages":
            raise Unsupported('files go to a graph in messages only: prompt_key = "messages"')
        if key != "messages":
            return {**made, key: prompt.text} if prompt.text or key not in made else made
        if not prompt.text and not prompt.files and made:
            return made
        content: Any = prompt.text
        if prompt.files:
            parts = [{"type": "text", "text": prompt.text}] if prompt.text else []
            content = [*parts, *[await _file(file) for file in prompt.files]]
        return {**made, "messages": [{"role": "user", "content": content, "id": turn_id}]}

    # Assistants

    async def _assistants(self, *, limit: int, offset: int) -> list[Mapping[str, Any]]:
        url = self._http.url("assistants/search")
        found = await self._http.json("POST", url, json={"limit": limit, "offset": offset})
        if not isinstance(found, list):
            raise ProtocolError(f"{self._http.rules.home} answered no list of assistants")
        return [each for each in found if isinstance(each, Mapping) and each.get("assistant_id")]

    async def _schema(self, assistant: str) -> Mapping[str, Any] | None:
        if not _is_uuid(assistant):
            return None
        try:
            url = self._http.url(f"assistants/{assistant}/schemas")
            found = await self._http.json("GET", url)
        except RuntimeFailure:
            # A graph whose types have no schema, mostly; it can be called all the same.
            return None
        schema = found.get("input_schema") if isinstance(found, Mapping) else None
        return own_schema(schema, without=self._config.prompt_key)


def _stream_headers() -> dict[str, str]:
    return {"Accept": "text/event-stream"}


def _thread(turn: Turn) -> str:
    """The session's thread: its 128 bits as a UUID, which the server wants."""
    if thread := str(turn.ref.get("thread", "")):
        if not _is_uuid(thread):
            raise Rejected("the session has no thread of this server", kind="gone", sent=False)
        return thread
    try:
        return str(uuid.UUID(turn.session_id.partition("_")[2]))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, turn.session_id))


def _run_id(reply: Reply) -> str:
    """From the header `Content-Location: /threads/…/runs/…`, which comes before the body."""
    where = reply.headers.get("content-location", "")
    run = where.partition("?")[0].rstrip("/").rsplit("/", 1)[-1]
    if not _is_uuid(run):
        raise ProtocolError("the server began a run without saying which (Content-Location)")
    return run


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _info(found: Mapping[str, Any], schema: Mapping[str, Any] | None) -> AgentInfo:
    assistant = str(found["assistant_id"])
    name = str(found.get("name") or found.get("graph_id") or assistant)
    metadata = found.get("metadata")
    about = metadata.get("description") if isinstance(metadata, Mapping) else None
    return AgentInfo(
        ref=assistant,
        name=name,
        description=str(found.get("description") or about or ""),
        input_schema=schema,
    )


async def _file(file: PromptFile) -> dict[str, Any]:
    """A content block of LangChain; images in the form that every version of it knows."""
    data = base64.b64encode(await file.read()).decode()
    if file.media_type.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": f"data:{file.media_type};base64,{data}"}}
    block = {"type": "file", "base64": data, "mime_type": file.media_type}
    return {**block, "extras": {"filename": file.name}}
