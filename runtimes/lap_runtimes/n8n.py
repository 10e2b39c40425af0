"""n8n workflows, called by their chat trigger or webhook; with a key of the management API also
found, cancelled, and looked at again after a loss.

What they answer is read in `n8n_fold.py`; `n8n_config.py` says which can be called.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, ClassVar

import anyio

from lap_runtimes.base import (
    MAX_FILE_BYTES,
    AgentInfo,
    Answer,
    Capabilities,
    Event,
    EventStream,
    File,
    Heartbeat,
    Prompt,
    PromptFile,
    Ref,
    Started,
    Turn,
)
from lap_runtimes.errors import Rejected, RuntimeFailure, Unsupported
from lap_runtimes.files import plain_name
from lap_runtimes.http import Reply
from lap_runtimes.n8n_config import N8nConfig, Trigger, triggers_of
from lap_runtimes.n8n_fold import ENDED, AnswerFold, reason
from lap_runtimes.stream import StreamReader
from lap_runtimes.vendor_http import (
    Json,
    VendorHTTP,
    mapping,
    mappings,
    segment,
    text_of,
)

_API = "api/v1"
_PAGES = 20
"""Pages of 100 workflows that are looked through."""
_LOOKED_AT = 20
"""Newest executions of a workflow among which a turn's is looked for."""
_NO_KEY = "without a key of the management API (auth.bearer) n8n "


class N8nRuntime:
    """`Turn.agent` is `chat/ID` or `webhook/PATH` (`@WORKFLOW` after it saves looking for the
    workflow), or empty for the configured one."""

    kind: ClassVar[str] = "n8n"
    Config: ClassVar[type[N8nConfig]] = N8nConfig

    def __init__(self, config: N8nConfig) -> None:
        self._config = config
        self._api = VendorHTTP(config.api(), {})
        self._triggers = VendorHTTP(config.triggers(), {})
        self._reading: dict[str, _Reading] = {}

    @property
    def capabilities(self) -> Capabilities:
        config = self._config
        return Capabilities(
            discover=config.manages,
            stream=config.stream,
            conversation="runtime" if config.remembers else "none",
            attach="history" if config.manages else "none",
            cancel="remote" if config.manages and config.stream else "none",
            on_disconnect="continues",
            files_in=True,
            files_out=not config.stream,
        )

    async def check(self) -> str:
        if self._config.manages:
            return f"n8n, with {len(await self.agents())} workflows that can be called"
        with self._triggers.within():
            reply = await self._triggers.open("GET", self._triggers.url("healthz"))
            try:
                await self._triggers.refuse_errors(reply)
                return "n8n is healthy; whether a workflow is there only a call shows"
            finally:
                await reply.aclose()

    async def agents(self) -> Sequence[AgentInfo]:
        """Active workflows with a public chat trigger, or a webhook that takes a POST."""
        if not self._config.manages:
            raise Unsupported(f"{_NO_KEY}does not list its workflows; name them in [agents]")
        found: list[AgentInfo] = []
        async for workflow in self._workflows():
            triggers = list(triggers_of(workflow))
            for trigger in triggers:
                name = str(workflow.get("name") or workflow.get("id"))
                about = str(workflow.get("description") or f"An n8n workflow: {name}.")
                name = name if len(triggers) == 1 else f"{name} {trigger.path}"
                found.append(AgentInfo(ref=str(trigger), name=name, description=about))
        return found

    def start(self, turn: Turn) -> EventStream:
        return aclosing(self._started(turn))

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return aclosing(self._attached(ref, cursor))

    async def answer(self, ref: Ref, answer: Answer) -> None:
        raise Unsupported("n8n's waits are answered at addresses of their own")

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("a workflow takes no message while it works")

    async def cancel(self, ref: Ref) -> None:
        if self.capabilities.cancel != "remote":
            raise Unsupported(f"{_NO_KEY}stops no execution, nor one whose answer comes whole")
        reading = self._reading.get(str(ref.get("turn") or ""), _Reading())
        found = await self._execution(ref, active=True)
        if found is None:
            return
        execution = segment(found.get("id"), what="execution")
        reading.stopping = True
        try:
            await self._api.json("POST", self._api.url(f"{_API}/executions/{execution}/stop"))
        except Rejected as exc:
            if exc.kind not in ("conflict", "not_found"):
                raise
        else:
            reading.stop()

    async def aclose(self) -> None:
        await self._api.aclose()
        await self._triggers.aclose()

    # Calling a workflow

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        if not isinstance(turn.input, Prompt):
            raise Unsupported("n8n's waits are answered at addresses of their own")
        if turn.ref.get("turns") and not self._config.remembers:
            raise Unsupported("this workflow keeps no conversation; start a new session")
        agent = turn.agent or self._config.agent
        trigger = Trigger.parse(agent)
        ref = {"agent": agent, "turn": turn.id, "turns": int(turn.ref.get("turns") or 0) + 1}
        fold = AnswerFold(turn.id, ref)
        started = Started(id=f"{turn.id}/started", ref=ref)
        try:
            async with (
                self._called(trigger, turn, turn.input) as reply,
                aclosing(self._read(reply, fold, started)) as events,
            ):
                async for event in events:
                    yield event
        except Rejected as exc:
            if exc.status != 500 or fold.finished:
                raise
            # The workflow ran and failed; the answer says no more than that.
            yield started
            yield fold.failed(await self._why(ref) or exc.message)

    @asynccontextmanager
    async def _called(self, trigger: Trigger, turn: Turn, prompt: Prompt) -> AsyncIterator[Reply]:
        body: dict[str, Any] = {**self._config.body, "sessionId": turn.session_id}
        body["turnId"] = turn.id
        if trigger.kind == "chat":
            body |= {"action": "sendMessage", "chatInput": text_of(prompt)}
        else:
            body["prompt"] = prompt.text
            if prompt.input is not None:
                body["input"] = dict(prompt.input)
        url = self._triggers.url(trigger.address)
        content, kind = json.dumps(body, ensure_ascii=False).encode(), "application/json"
        if prompt.files:
            content, kind = await _multipart(body, prompt.files)
        reply = await self._triggers.open(
            "POST", url, content=content, headers={"Content-Type": kind}
        )
        try:
            await self._triggers.refuse_errors(reply)
            yield reply
        finally:
            await reply.aclose()

    async def _read(
        self, reply: Reply, fold: AnswerFold, started: Started
    ) -> AsyncGenerator[Event, None]:
        turn, reading = str((started.ref or {})["turn"]), _Reading()
        self._reading[turn] = reading
        try:
            yield started
            if reply.media_type not in ("", "application/json", "application/x-ndjson"):
                for event in await _file(reply, str(started.id), fold):
                    yield event
                return
            async with aclosing(_lines(reply, reading)) as lines:
                async for line in lines:
                    for event in fold.feed(line, stopping=reading.stopping):
                        yield event
                    if fold.finished:
                        return
        finally:
            self._reading.pop(turn, None)
        for event in fold.cancelled() if reading.stopped else fold.end():
            yield event

    # Executions

    async def _attached(self, ref: Ref, cursor: str | None) -> AsyncGenerator[Event, None]:
        if not self._config.manages:
            raise Unsupported(f"{_NO_KEY}shows no execution again")
        if cursor is not None:
            raise Unsupported("n8n has no cursors; attach without one")
        if not ref.get("turn"):
            raise Rejected("no turn has begun", kind="gone", sent=False)
        fold = AnswerFold(str(ref["turn"]), ref)
        yield Started(id=f"{ref['turn']}/started", ref=ref)
        while True:
            found = await self._execution(ref)
            if found is None:
                words = f"the execution is not among the workflow's last {_LOOKED_AT}"
                raise Rejected(words, kind="gone")
            if found.get("status") in ENDED:
                for event in fold.execution(found):
                    yield event
                return
            yield Heartbeat()
            await anyio.sleep(self._config.poll_interval)

    async def _why(self, ref: Ref) -> str:
        """Why the turn's execution failed, where that can be found out."""
        if not self._config.manages:
            return ""
        try:
            found = await self._execution(ref)
        except RuntimeFailure:
            return ""  # The failure itself is still to be told.
        return reason(found) if found else ""

    async def _execution(self, ref: Ref, *, active: bool = False) -> Json | None:
        """The execution that got this turn: n8n says no id of it, but keeps what triggered it.
        With `active` only among those that are still at work; None where there is none."""
        workflow = await self._workflow(Trigger.parse(str(ref.get("agent") or "")))
        # Those that are running are listed only where one asks for them.
        running = await self._listed(workflow, {"status": "running"})
        others = [] if active else await self._listed(workflow, {})
        unread: list[Json] = []
        for each in [*running, *others]:
            execution = segment(each.get("id"), what="execution")
            url = self._api.url(f"{_API}/executions/{execution}")
            one = mapping(await self._api.json("GET", url, params={"includeData": "true"}))
            if str(ref.get("turn")) in json.dumps(one.get("data")):
                return one
            if not one.get("data"):
                unread.append(one)
        if active and len(running) == len(unread) == 1:
            return unread[0]
        if active and unread:
            raise Rejected(
                "several executions of this workflow are running, and n8n does not show which of "
                "them is this turn's; stop it in n8n",
                kind="conflict",
                sent=False,
            )
        return None

    async def _listed(self, workflow: str, status: dict[str, str]) -> list[Json]:
        params = {"workflowId": workflow, "limit": str(_LOOKED_AT), **status}
        found = await self._api.json("GET", self._api.url(f"{_API}/executions"), params=params)
        return mappings(mapping(found).get("data"))

    async def _workflow(self, trigger: Trigger) -> str:
        if trigger.workflow:
            return trigger.workflow
        async with aclosing(self._workflows()) as workflows:
            async for workflow in workflows:
                for each in triggers_of(workflow):
                    if (each.kind, each.path) == (trigger.kind, trigger.path):
                        return each.workflow
        raise Rejected(f"no active workflow has {trigger}", kind="not_found", sent=False)

    async def _workflows(self) -> AsyncGenerator[Json, None]:
        params = {"active": "true", "limit": "100"}
        for _ in range(_PAGES):
            url = self._api.url(f"{_API}/workflows")
            page = mapping(await self._api.json("GET", url, params=params))
            for workflow in mappings(page.get("data")):
                yield workflow
            if not page.get("nextCursor"):
                return
            params = {**params, "cursor": str(page["nextCursor"])}


class _Reading:
    """An answer that is being read, and can be stopped from elsewhere: n8n leaves the stream of an
    execution that was stopped open for ever."""

    def __init__(self) -> None:
        self.stopping = False
        """A failure that comes now is that of being stopped."""
        self.stopped = False
        self._scope = anyio.CancelScope()

    def stop(self) -> None:
        self.stopped = True
        self._scope.cancel()

    async def next(self, chunks: AsyncGenerator[bytes, None]) -> bytes | None:
        """The next chunk; None: there is none."""
        chunk: bytes | None = None
        self._scope = anyio.CancelScope()
        if not self.stopped:
            with self._scope:
                chunk = await anext(chunks, None)
        return None if self.stopped else chunk


async def _lines(reply: Reply, reading: _Reading) -> AsyncGenerator[str, None]:
    reader = StreamReader("ndjson")
    async with aclosing(reply.chunks()) as chunks:
        while (chunk := await reading.next(chunks)) is not None:
            for frame in reader.feed(chunk):
                yield frame.data
    for frame in [] if reading.stopped else reader.close():
        yield frame.data


async def _file(reply: Reply, started: str, fold: AnswerFold) -> list[Event]:
    """An answer that is a text, or a file: what its workflow's last node made of it."""
    kind = reply.media_type
    data = await reply.read(MAX_FILE_BYTES)
    if kind.startswith("text/"):
        return fold.whole(data.decode("utf-8", "replace"))
    given = reply.headers.get("content-disposition", "").partition("filename=")[2].strip('"; ')
    file_id = started.replace("/started", "/file")
    name = plain_name(given, fallback="answer", media_type=kind)
    file = File(id=file_id, file_id=file_id, name=name, media_type=kind, data=data)
    return [file, *fold.whole(None)]


async def _multipart(body: Mapping[str, Any], files: Sequence[PromptFile]) -> tuple[bytes, str]:
    """RFC 7578.  n8n takes values that are no text as JSON."""
    boundary = uuid.uuid4().hex
    parts: list[bytes] = []
    for name, value in body.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n'
        parts += [head.encode(), text.encode(), b"\r\n"]
    for file in files:
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="files"; '
            f'filename="{_quoted(file.name)}"\r\nContent-Type: {file.media_type}\r\n\r\n'
        )
        parts += [head.encode(), await file.read(), b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"


def _quoted(name: str) -> str:
    """As browsers write names (WHATWG HTML, multipart form data)."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
