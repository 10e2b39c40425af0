"""n8n workflows, called by their chat trigger or webhook; with a key of the management API also
found, cancelled, looked at again after a loss, and answered where they wait.

What they answer is read in `n8n_fold.py`, what they wait for in `n8n_waits.py`; `n8n_config.py`
says which can be called.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, ClassVar

import anyio

from lap_runtimes.base import (
    AgentInfo,
    Answer,
    Answers,
    Asked,
    Capabilities,
    Done,
    Event,
    EventStream,
    Heartbeat,
    Progress,
    Prompt,
    Question,
    Ref,
    Started,
    Turn,
)
from lap_runtimes.errors import Rejected, RuntimeFailure, Unsupported
from lap_runtimes.http import Reply
from lap_runtimes.n8n_config import N8nConfig, Trigger, triggers_of
from lap_runtimes.n8n_executions import LOOKED_AT, Management
from lap_runtimes.n8n_fold import ENDED, AnswerFold, reason
from lap_runtimes.n8n_request import Reading, file_of, lines_of, multipart
from lap_runtimes.n8n_waits import question, reply, runs_of
from lap_runtimes.vendor_http import Json, VendorHTTP, fits, mapping, text_of

_TRIES = 10
_PAUSE = 0.3
"""How often, and after how many seconds each, an execution is looked for that has just begun."""
_NO_KEY = "without a key of the management API (auth.bearer) n8n "
_NO_WAITS = "without waits = true what an n8n workflow waits for is answered in n8n"


class N8nRuntime:
    """`Turn.agent` is `chat/ID` or `webhook/PATH` (`@WORKFLOW` after it saves looking for the
    workflow), or empty for the configured one."""

    kind: ClassVar[str] = "n8n"
    Config: ClassVar[type[N8nConfig]] = N8nConfig

    def __init__(self, config: N8nConfig) -> None:
        self._config = config
        self._api = VendorHTTP(config.api(), {})
        self._management = Management(self._api)
        self._triggers = VendorHTTP(config.triggers(), {})
        self._reading: dict[str, Reading] = {}

    @property
    def capabilities(self) -> Capabilities:
        config = self._config
        return Capabilities(
            discover=config.manages,
            stream=config.stream,
            answer="resume" if config.waits else "none",
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
        async with aclosing(self._management.workflows()) as workflows:
            async for workflow in workflows:
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
        raise Unsupported("what an n8n workflow waits for is answered by a new start")

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        raise Unsupported("a workflow takes no message while it works")

    async def cancel(self, ref: Ref) -> None:
        if self.capabilities.cancel != "remote":
            raise Unsupported(f"{_NO_KEY}stops no execution, nor one whose answer comes whole")
        waiting = mapping(ref.get("open") or {}).get("execution")
        if waiting is not None:
            await self._management.stop(str(waiting))
            return
        turn = str(ref.get("turn") or "")
        found = await self._management.find(ref, active=True)
        for _ in range(_TRIES):
            if found is not None or turn not in self._reading:
                break
            # Its stream begins before n8n calls it running.
            await anyio.sleep(_PAUSE)
            found = await self._management.find(ref, active=True)
        if found is not None:
            reading = self._reading.get(turn) or Reading()
            reading.stopping = True
            if await self._management.stop(str(found.get("id") or "")):
                reading.stop()
        elif turn in self._reading and not self._reading[turn].stopping:
            raise Rejected(
                "n8n shows no running execution of this turn; it may still run", kind="conflict"
            )

    async def aclose(self) -> None:
        await self._api.aclose()
        await self._triggers.aclose()

    # Calling a workflow

    async def _started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        turns = int(turn.ref.get("turns") or 0) + 1
        ref = {"agent": turn.agent or self._config.agent, "turn": turn.id, "turns": turns}
        if isinstance(turn.input, Answers):
            events = self._answered(turn, turn.input, ref)
        else:
            if turn.ref.get("turns") and not self._config.remembers:
                raise Unsupported("this workflow keeps no conversation; start a new session")
            events = self._prompted(turn, turn.input, ref)
        async with aclosing(events):
            async for event in events:
                yield event

    async def _prompted(self, turn: Turn, prompt: Prompt, ref: Json) -> AsyncGenerator[Event, None]:
        trigger = Trigger.parse(str(ref["agent"]))
        fold = AnswerFold(turn.id, ref)
        started = Started(id=f"{turn.id}/started", ref=ref)
        reading = self._reading[turn.id] = Reading()
        try:
            async with (
                self._called(trigger, turn, prompt) as answer,
                aclosing(self._read(answer, fold, started, reading)) as events,
            ):
                async for event in events:
                    yield event
        except Rejected as exc:
            if exc.status != 500 or fold.finished:
                raise
            # The workflow ran and failed; the answer says no more than that.
            yield started
            yield fold.failed(await self._why(ref) or exc.message)
        finally:
            self._reading.pop(turn.id, None)

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
            content, kind = await multipart(body, prompt.files)
        answer = await self._triggers.open(
            "POST", url, content=content, headers={"Content-Type": kind}
        )
        try:
            await self._triggers.refuse_errors(answer)
            yield answer
        finally:
            await answer.aclose()

    async def _read(
        self, answer: Reply, fold: AnswerFold, started: Started, reading: Reading
    ) -> AsyncGenerator[Event, None]:
        yield started
        ref = dict(started.ref or {})
        if answer.media_type not in ("", "application/json", "application/x-ndjson"):
            for event in await file_of(answer, str(started.id), fold):
                yield event
            return
        async with aclosing(_folded(answer, reading, fold)) as events:
            async for event in events:
                yield event
        if fold.finished:
            return
        waiting = None if reading.stopped else await self._waiting(ref)
        if waiting is None:
            for event in fold.cancelled() if reading.stopped else fold.end():
                yield event
            return
        # What it answered is what its last node had before it, and no answer.
        async with aclosing(self._watched({**ref, "execution": waiting}, fold)) as events:
            async for event in events:
                yield event

    # Executions

    async def _waiting(self, ref: Ref) -> str | None:
        """The id of the turn's execution, if it waits."""
        if not self._config.waits:
            return None
        found = await self._management.find(ref)
        waits = found is not None and found.get("status") == "waiting"
        return str(found.get("id")) if found is not None and waits else None

    async def _attached(self, ref: Ref, cursor: str | None) -> AsyncGenerator[Event, None]:
        if not self._config.manages:
            raise Unsupported(f"{_NO_KEY}shows no execution again")
        if cursor is not None:
            raise Unsupported("n8n has no cursors; attach without one")
        if not ref.get("turn"):
            raise Rejected("no turn has begun", kind="gone", sent=False)
        yield Started(id=f"{ref['turn']}/started", ref=ref)
        fold = AnswerFold(str(ref["turn"]), ref)
        async with aclosing(self._watched(ref, fold)) as events:
            async for event in events:
                yield event

    async def _watched(self, ref: Ref, fold: AnswerFold) -> AsyncGenerator[Event, None]:
        """An execution until it has ended or asks.  `ref["answered"]`: how many runs of nodes it
        had when it was answered; with no more, it still waits for that."""
        told = False
        while True:
            found = await self._management.find(ref)
            if found is None:
                words = f"the execution is not among the workflow's last {LOOKED_AT}"
                raise Rejected(words, kind="gone")
            if found.get("status") in ENDED:
                for event in fold.execution(found):
                    yield event
                return
            old = found.get("status") == "waiting" and ref.get("answered") == runs_of(found)
            if found.get("status") == "waiting" and not old and self._config.waits:
                asked = question(found)
                if asked is not None:
                    for event in _asked(ref, *asked):
                        yield event
                    return
                if not told:
                    told = True
                    yield Progress(text="the workflow waits; n8n or somebody else lets it go on")
            if not old:
                yield Heartbeat()
            await anyio.sleep(self._config.poll_interval)

    async def _answered(
        self, turn: Turn, answers: Answers, ref: dict[str, Any]
    ) -> AsyncGenerator[Event, None]:
        if not self._config.waits:
            raise Unsupported(_NO_WAITS)
        opened = mapping(turn.ref.get("open") or {})
        if not opened or [each.question_id for each in answers.answers] != [opened["id"]]:
            raise Rejected("that is not the open question", kind="invalid", sent=False)
        sent = reply(opened, answers.answers[0])
        found = await self._management.look(str(opened["execution"]))
        if found.get("status") != "waiting" or runs_of(found) != opened["runs"]:
            raise Rejected("the workflow no longer waits for that", kind="conflict", sent=False)
        ref |= {"execution": opened["execution"], "answered": opened["runs"]}
        yield Started(id=f"{turn.id}/started", ref=ref)
        token = mapping(found.get("data") or {}).get("resumeToken")
        url, params = self._triggers.url(sent.path), {"signature": str(token or "")}
        content, kind = json.dumps(sent.fields).encode(), "application/json"
        if sent.form:
            content, kind = await multipart(sent.fields, ())
        elif sent.method == "GET":
            params |= {key: str(value) for key, value in sent.fields.items()}
        answer = await self._triggers.open(
            sent.method,
            url,
            content=None if sent.method == "GET" else content,
            params=params,
            headers={"Content-Type": kind},
        )
        try:
            await self._triggers.refuse_errors(answer)
        finally:
            await answer.aclose()
        async with aclosing(self._watched(ref, AnswerFold(turn.id, ref))) as events:
            async for event in events:
                yield event

    async def _why(self, ref: Ref) -> str:
        """Why the turn's execution failed, where that can be found out."""
        if not self._config.manages:
            return ""
        try:
            found = await self._management.find(ref)
        except RuntimeFailure:
            return ""  # The failure itself is still to be told.
        return reason(found) if found else ""


def _asked(ref: Ref, asked: Question, opened: Json) -> list[Event]:
    turn = str(ref["turn"])
    kept = {key: ref[key] for key in ("agent", "turn", "turns") if key in ref}
    kept["open"] = {**opened, "id": asked.id}
    done = Done(id=f"{turn}/done", outcome="requires_action", ref=kept)
    if not fits(kept):
        words = "the form has more fields than can be kept; fill it in in n8n"
        done = Done(id=done.id, outcome="failed", error=words, error_kind="unsupported", ref=ref)
        return [done]
    return [Asked(id=f"{turn}/asked", question=asked), done]


async def _folded(answer: Reply, reading: Reading, fold: AnswerFold) -> AsyncGenerator[Event, None]:
    async with aclosing(lines_of(answer, reading)) as lines:
        async for line in lines:
            for event in fold.feed(line, stopping=reading.stopping):
                yield event
            if fold.finished:
                return
