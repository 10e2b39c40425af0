"""Snowflake Cortex Agents: agents of a schema, threads that keep a conversation, and runs in the
background, whose events can be read again.

What the events mean is in `snowflake_fold.py` and `snowflake_parts.py`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Literal

import anyio
from pydantic import Field, field_validator, model_validator

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
    PromptFile,
    Ref,
    Turn,
)
from lap_runtimes.config import HTTPRuntimeConfig
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure, Unsupported
from lap_runtimes.http import Reply
from lap_runtimes.responses_fold import Cursor
from lap_runtimes.snowflake_fold import CODES, RunFold
from lap_runtimes.snowflake_parts import answer_part
from lap_runtimes.stream import StreamReader, frames
from lap_runtimes.vendor_http import (
    Json,
    VendorHTTP,
    error_code,
    inlined,
    mapping,
    mappings,
    segment,
    text_of,
)

ORIGIN = "lap_mcp"
"""How our threads are marked: at most 16 bytes."""
_RUNS = "api/v2/cortex/agent/runs"
_THREADS = "api/v2/cortex/threads"
_AT_ONCE = 5.0
"""Seconds in which the events of a run that has ended come to their end."""
_OURS = ("thread_id", "parent_message_id", "messages", "stream", "background")
_TOKEN_TYPE = "X-Snowflake-Authorization-Token-Type"


class SnowflakeConfig(HTTPRuntimeConfig):
    """`url` is `https://ACCOUNT.snowflakecomputing.com`."""

    token_type: Literal["PROGRAMMATIC_ACCESS_TOKEN", "OAUTH", "KEYPAIR_JWT"] = (
        "PROGRAMMATIC_ACCESS_TOKEN"
    )
    """What `auth.bearer` is."""
    schemas: tuple[str, ...] = Field(min_length=1)
    """`DATABASE.SCHEMA` of each place where agents are looked for; a name with a dot in it is in
    double quotes."""
    agent: str = ""
    """The agent of a turn that names none."""
    body: Mapping[str, Any] = Field(default_factory=dict)
    """More fields of each run (`tool_choice`, `models`, …)."""

    @field_validator("schemas")
    @classmethod
    def _places(cls, schemas: tuple[str, ...]) -> tuple[str, ...]:
        for each in schemas:
            if len(parts_of(each)) != 2:
                raise ValueError(f"{each!r} is no DATABASE.SCHEMA")
        return schemas

    @model_validator(mode="after")
    def _fits_together(self) -> SnowflakeConfig:
        taken = sorted(set(self.body) & set(_OURS))
        if taken:
            raise ValueError(f"body: {', '.join(taken)} is set by the adapter; remove it there")
        return self


class SnowflakeRuntime:
    """`Turn.agent` is `DATABASE.SCHEMA.AGENT`, the name of an agent in the first schema, or empty
    for the configured one."""

    kind: ClassVar[str] = "snowflake"
    Config: ClassVar[type[SnowflakeConfig]] = SnowflakeConfig

    def __init__(self, config: SnowflakeConfig) -> None:
        self._config = config
        typed = {_TOKEN_TYPE: config.token_type} if config.auth.bearer is not None else {}
        headers = {**typed, **config.headers}
        self._http = VendorHTTP(config.model_copy(update={"headers": headers}), CODES)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            discover=True,
            answer="resume",
            attach="cursor",
            cancel="remote",
            on_disconnect="continues",
            files_in=True,
            files_out=True,
            usage=True,
        )

    async def check(self) -> str:
        return f"Cortex Agents: {len(await self.agents())} agents"

    async def agents(self) -> Sequence[AgentInfo]:
        found: list[AgentInfo] = []
        for place in self._config.schemas:
            answer = await self._http.json("GET", self._http.url(_agents_path(parts_of(place))))
            _refuse_envelope(answer)
            for each in mappings(answer):
                if each.get("name"):
                    found.append(_agent(place, each))
        return found

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn))

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return aclosing(self._attached(ref, cursor))

    async def answer(self, ref: Ref, answer: Answer) -> None:
        raise Unsupported("a Cortex agent is answered by a new start")

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("Cortex Agents take no message while they work")

    async def cancel(self, ref: Ref) -> None:
        try:
            await self._http.json("POST", self._http.url(f"{_RUNS}/{_run(ref)}/cancel"))
        except Rejected as exc:
            if exc.kind in ("conflict",) and await self._has_ended(ref):
                return
            if exc.kind not in ("not_found", "gone"):
                raise

    async def _has_ended(self, ref: Ref) -> bool:
        """Whether the run's events, told from the first, come to an end at once.  Snowflake has no
        call for its status."""
        try:
            with anyio.move_on_after(_AT_ONCE):
                async with aclosing(self._again(RunFold(ref), None)) as events:
                    async for event in events:
                        if isinstance(event, Done):
                            return True
        except RuntimeFailure:
            pass  # not known: that the run cannot be cancelled is what is told
        return False

    async def aclose(self) -> None:
        await self._http.aclose()

    # Asking

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        content = await _content(turn)
        url = self._http.url(f"{self._agent_path(turn.agent)}:run")
        thread = turn.ref.get("thread")
        if thread is None:
            thread = await self._thread()
        parent = turn.ref.get("parent", 0)
        body = {
            **self._config.body,
            "thread_id": thread,
            "parent_message_id": parent,
            "messages": [{"role": "user", "content": content}],
            "stream": True,
            "background": True,
        }
        fold = RunFold({"turn": turn.id, "thread": thread, "parent": parent})
        headers = {"Accept": "text/event-stream"}
        async with (
            self._http.stream("POST", url, json=body, headers=headers) as reply,
            aclosing(self._read(reply, fold)) as events,
        ):
            async for event in events:
                yield event

    def _agent_path(self, agent: str) -> str:
        agent = agent or self._config.agent
        parts = parts_of(agent)
        if len(parts) == 1:
            parts = [*parts_of(self._config.schemas[0]), *parts]
        if len(parts) != 3:
            raise Rejected(f"{agent!r} is no DATABASE.SCHEMA.AGENT", kind="invalid", sent=False)
        return f"{_agents_path(parts[:2])}/{segment(parts[2], what='agent')}"

    async def _thread(self) -> int:
        made = await self._http.json(
            "POST", self._http.url(_THREADS), json={"origin_application": ORIGIN}
        )
        _refuse_envelope(made)
        named = made.get("thread_id") if isinstance(made, Mapping) else made
        try:
            return int(str(named))
        except (TypeError, ValueError) as exc:
            raise ProtocolError("Snowflake made a thread without a number") from exc

    # Following a run

    async def _attached(self, ref: Ref, cursor: str | None) -> AsyncGenerator[Event, None]:
        try:
            after = Cursor.decode(cursor) if cursor is not None else None
        except ValueError as exc:
            raise Rejected(f"no such cursor: {cursor}", kind="invalid", sent=False) from exc
        _run(ref)
        async with aclosing(self._again(RunFold(ref, after=after), after)) as events:
            async for event in events:
                yield event

    async def _read(self, reply: Reply, fold: RunFold) -> AsyncGenerator[Event, None]:
        """A stream; a whole answer; or the word that the run has begun, whose stream is then asked
        for.  A stream that breaks off just ends."""
        if reply.media_type != "application/json":
            async with aclosing(self._streamed(reply, fold)) as events:
                async for event in events:
                    yield event
            return
        answer = mapping(await reply.json())
        _refuse_envelope(answer)
        if "role" in answer:
            for event in fold.feed_response(answer):
                yield event
            return
        run = mapping(answer.get("metadata") or {}).get("run_id")
        if not run:
            raise ProtocolError("Snowflake began a run without an id")
        fold.ref["run"] = str(run)
        async with aclosing(self._again(fold, None)) as events:
            async for event in events:
                yield event

    async def _streamed(self, reply: Reply, fold: RunFold) -> AsyncGenerator[Event, None]:
        async with (
            aclosing(reply.chunks()) as chunks,
            aclosing(frames(chunks, StreamReader("sse"))) as read,
        ):
            async for frame in read:
                found = fold.feed(frame.event, frame.data) if frame else [Heartbeat()]
                for event in found:
                    yield event
                if fold.finished:
                    return

    async def _again(self, fold: RunFold, after: Cursor | None) -> AsyncGenerator[Event, None]:
        """The run's events after a place; where they are no longer kept, the answer in its
        thread."""
        params = {"starting_after": str(after.sequence)} if after is not None else {}
        headers = {"Accept": "text/event-stream"}
        url = self._http.url(f"{_RUNS}/{_run(fold.ref)}")
        try:
            async with (
                self._http.stream("GET", url, params=params, headers=headers) as reply,
                aclosing(self._read(reply, fold)) as events,
            ):
                async for event in events:
                    yield event
            return
        except Rejected as exc:
            if exc.kind not in ("gone", "not_found"):
                raise
            refusal = exc
        for event in fold.feed_response(await self._persisted(fold.ref, refusal)):
            yield event

    async def _persisted(self, ref: Ref, refusal: Rejected) -> Json:
        """The answer as the thread keeps it: the message below that of the user, which the run's
        id names.  Raises `refusal` where there is none (yet)."""
        asked = _run(ref).rpartition("-")[2]
        thread = segment(ref.get("thread"), what="thread")
        params = {"page_size": "100"}
        found = await self._http.json("GET", self._http.url(f"{_THREADS}/{thread}"), params=params)
        for each in mappings(mapping(found).get("messages")):
            if str(each.get("parent_id")) == asked and each.get("role", "assistant") == "assistant":
                payload = each.get("message_payload")
                try:
                    kept = json.loads(payload) if isinstance(payload, str) else payload
                except (ValueError, RecursionError) as exc:
                    raise ProtocolError("a message of the thread is not JSON") from exc
                told = {"assistant_message_id": each.get("message_id")}
                return {**mapping(kept), "metadata": {**mapping(kept).get("metadata", {}), **told}}
        raise refusal


def parts_of(name: str) -> list[str]:
    """The parts of an identifier between its dots; a part in double quotes is as it stands there,
    quotes kept, because they mean something to Snowflake."""
    parts, quoted, part = [], False, ""
    for letter in name:
        if letter == "." and not quoted:
            parts.append(part)
            part = ""
            continue
        quoted = quoted != (letter == '"')
        part += letter
    return [*parts, part] if all([*parts, part]) else []


def _agents_path(place: list[str]) -> str:
    database, schema = (segment(each, what="schema") for each in place)
    return f"api/v2/databases/{database}/schemas/{schema}/agents"


def _agent(place: str, found: Json) -> AgentInfo:
    name = str(found["name"])
    plain = name if name.replace("_", "").isalnum() and name == name.upper() else f'"{name}"'
    profile = found.get("profile")
    try:
        shown = json.loads(profile) if isinstance(profile, str) else profile
    except (ValueError, RecursionError):
        shown = None
    title = shown.get("display_name") if isinstance(shown, Mapping) else None
    about = ". ".join(str(each) for each in (title, found.get("comment")) if each)
    return AgentInfo(ref=f"{place}.{plain}", name=name, description=about)


def _refuse_envelope(answer: Any) -> None:
    """Raise `Rejected` for an error that comes with status 200, as expired sessions do."""
    if isinstance(answer, Mapping) and answer.get("success") is False:
        code = error_code(answer)
        raise Rejected(
            f"Snowflake refused: {answer.get('message')} (code {code})",
            kind=CODES.get(code, "failed"),
            status=200,
            sent=False,
        )


def _run(ref: Ref) -> str:
    if not ref.get("run"):
        raise Rejected("Snowflake has given no run", kind="gone", sent=False)
    return segment(ref["run"], what="run")


async def _content(turn: Turn) -> list[dict[str, Any]]:
    if isinstance(turn.input, Answers):
        return _answers(turn.input, turn.ref)
    prompt = turn.input
    text = text_of(prompt)
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for file in prompt.files:
        if file.media_type.startswith("image/"):
            parts.append(await _image(file))
        else:
            parts.append({"type": "text", "text": await inlined(file)})
    if not parts:
        raise Rejected("the prompt is empty", kind="invalid", sent=False)
    return parts


async def _image(file: PromptFile) -> dict[str, Any]:
    encoded = base64.b64encode(await file.read()).decode()
    image = {"type": "base64", "media_type": file.media_type, "data": encoded}
    return {"type": "image", "image": image}


def _answers(answers: Answers, ref: Ref) -> list[dict[str, Any]]:
    asked = mapping(ref.get("open") or {})
    given = {answer.question_id: answer for answer in answers.answers}
    missing = [question for question in asked if question not in given]
    unknown = [question for question in given if question not in asked]
    if missing or unknown or not given:
        words = f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        raise Rejected(
            f"all open questions are answered at once ({words})", kind="invalid", sent=False
        )
    return [answer_part(asked[question], answer) for question, answer in given.items()]
