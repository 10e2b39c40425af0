"""Folds the events of `InvokeHarness` (an AWS binary event stream) into our events.  No I/O.

A harness runs its agent loop itself: several messages, the tools between them.  What it cannot run
is an inline function: the stream then ends with the stop reason `tool_use`, and the caller answers
with a tool result.
Wire format: botocore 1.44, bedrock-agentcore, shape `InvokeHarnessStreamOutput`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lap_runtimes.aws_eventstream import EventMessage
from lap_runtimes.base import (
    Asked,
    Done,
    Event,
    Heartbeat,
    Message,
    MessageDelta,
    Progress,
    Question,
    Started,
    Thinking,
    ThinkingDelta,
    ToolResult,
    ToolUse,
    Usage,
)
from lap_runtimes.errors import Kind, ProtocolError
from lap_runtimes.http_errors import clean

Json = Mapping[str, Any]
_KINDS: Mapping[str, Kind] = {"validationException": "invalid"}
"""Exceptions that a stream may end with; the two others say that the harness, or what it runs,
failed."""
_FINE = ("end_turn", "stop_sequence")
_MAX_OPEN = 50
"""Calls of inline functions that one turn may leave open; their ids have to fit into the ref."""
_MAX_ID = 100


@dataclass(slots=True)
class _Block:
    kind: Literal["text", "thinking", "use", "result"]
    about: Json = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)


class HarnessFold:
    """One turn."""

    def __init__(self, turn_id: str, ref: Json) -> None:
        self.finished = False
        self._turn = turn_id
        self._ref = {**ref, "turn": turn_id}
        self._ref.pop("open", None)
        self._started = False
        self._message = 0
        self._blocks: dict[int, _Block] = {}
        self._calls: dict[str, ToolUse] = {}
        """Calls of which it is not yet known who runs them."""
        self._stop = ""
        self._used: dict[str, int] = {}

    def start(self) -> list[Event]:
        if self._started:
            return []
        self._started = True
        return [Started(id=f"{self._turn}/started", ref=self._ref)]

    def feed(self, message: EventMessage) -> list[Event]:
        """Raises `ProtocolError` for a message that is no JSON object."""
        return [*self.start(), *self._feed(message)] or [Heartbeat()]

    def end(self) -> list[Event]:
        """The stream ended.  Nothing, where no message was finished: it was lost."""
        if self.finished or not self._stop:
            return []
        return list(self._finish())

    def failed(self, words: str, kind: Kind = "failed") -> list[Event]:
        return [*self.start(), *self._close(), self._done("failed", words, kind)]

    def cancelled(self) -> list[Event]:
        return [*self.start(), *self._close(), self._done("cancelled")]

    def _feed(self, message: EventMessage) -> Iterator[Event]:
        body = _object(message.payload)
        if message.header(":message-type") in ("exception", "error"):
            name = message.header(":exception-type") or message.header(":error-code")
            words = body.get("message") or message.header(":error-message") or "no words"
            yield from self.failed(f"{name}: {words}", _KINDS.get(name, "failed"))
            return
        kind = message.header(":event-type")
        if kind == "messageStart":
            yield from self._ran()
            self._message += 1
            self._stop = ""
        elif kind.startswith("contentBlock"):
            yield from self._content(kind, body)
        elif kind == "messageStop":
            yield from self._close()
            self._stop = str(body.get("stopReason") or "end_turn")
        elif kind == "metadata":
            yield from self._usage(body.get("usage"))
        elif kind == "hookEvent":
            words = (str(body.get(k) or "") for k in ("type", "name", "decision", "reason"))
            yield Progress(text=clean(" ".join(filter(None, ("hook", *words)))))

    # Blocks

    def _content(self, kind: str, body: Json) -> Iterator[Event]:
        index = body.get("contentBlockIndex")
        if not isinstance(index, int):
            raise ProtocolError(f"the harness sent a {kind} without a contentBlockIndex")
        if kind == "contentBlockStart":
            self._open(index, _mapping(body.get("start")))
        elif kind == "contentBlockDelta":
            yield from self._delta(index, _mapping(body.get("delta")))
        elif kind == "contentBlockStop":
            yield from self._stopped(index)

    def _open(self, index: int, start: Json) -> None:
        for name, kind in (("toolUse", "use"), ("toolResult", "result")):
            if name in start:
                about = _mapping(start[name])
                self._blocks[index] = _Block("use" if kind == "use" else "result", about)

    def _delta(self, index: int, delta: Json) -> Iterator[Event]:
        if isinstance(delta.get("text"), str):
            block = self._blocks.setdefault(index, _Block("text"))
            block.parts.append(delta["text"])
            if block.kind == "text":
                yield MessageDelta(message_id=self._id(index), text=delta["text"])
        elif "reasoningContent" in delta:
            text = _mapping(delta["reasoningContent"]).get("text")
            if isinstance(text, str) and text:
                self._blocks.setdefault(index, _Block("thinking")).parts.append(text)
                yield ThinkingDelta(message_id=self._id(index), text=text)
        elif "toolUse" in delta:
            block = self._blocks.setdefault(index, _Block("use"))
            block.parts.append(str(_mapping(delta["toolUse"]).get("input") or ""))
        elif isinstance(delta.get("toolResult"), list):
            block = self._blocks.setdefault(index, _Block("result"))
            block.parts += [_result_text(_mapping(each)) for each in delta["toolResult"]]

    def _stopped(self, index: int) -> Iterator[Event]:
        block = self._blocks.pop(index, None)
        if block is None:
            return
        place, text = self._id(index), "".join(block.parts)
        if block.kind == "text":
            yield Message(id=place, message_id=place, text=text)
        elif block.kind == "thinking":
            yield Thinking(id=place, message_id=place, text=text)
        elif block.kind == "use":
            use = ToolUse(
                id=place,
                tool_use_id=str(block.about.get("toolUseId") or place),
                name=str(block.about.get("name") or "a tool"),
                input=_arguments(text),
            )
            if block.about.get("type", "tool_use") == "tool_use":
                self._calls[use.tool_use_id] = use
            else:
                yield use
        else:
            used = str(block.about.get("toolUseId") or "")
            if used in self._calls:
                yield self._calls.pop(used)
            failed = block.about.get("status") == "error"
            yield ToolResult(id=place, tool_use_id=used, text=text, is_error=failed)

    def _close(self) -> Iterator[Event]:
        for index in list(self._blocks):
            yield from self._stopped(index)

    def _ran(self) -> Iterator[Event]:
        """Calls after which the harness went on: it ran them itself."""
        yield from self._close()
        yield from self._calls.values()
        self._calls.clear()

    def _id(self, index: int) -> str:
        return f"{self._turn}/{self._message}.{index}"

    # The end

    def _usage(self, usage: Any) -> Iterator[Event]:
        """Counts come with every message of the loop; ours are of the turn."""
        for name, count in _mapping(usage).items():
            if isinstance(count, int) and not isinstance(count, bool):
                self._used[name] = self._used.get(name, 0) + count
        used = dict(self._used)
        yield Usage(
            id=f"{self._turn}/usage/{self._message}",
            input_tokens=used.pop("inputTokens", 0),
            output_tokens=used.pop("outputTokens", 0),
            detail=used,
        )

    def _finish(self) -> Iterator[Event]:
        yield from self._close()
        if self._stop == "tool_use" and self._calls:
            yield from self._ask()
            return
        yield from self._ran()
        if self._stop in _FINE:
            yield self._done("completed")
        elif self._stop == "interrupted":
            yield self._done("cancelled")
        else:
            yield self._done("failed", f"the harness stopped: {self._stop.replace('_', ' ')}")

    def _ask(self) -> Iterator[Event]:
        calls = list(self._calls.values())
        if len(calls) > _MAX_OPEN or any(len(call.tool_use_id) > _MAX_ID for call in calls):
            raise ProtocolError("the harness left more calls open than can be answered")
        for call in calls:
            question = Question(
                id=call.tool_use_id,
                kind="tool_result",
                text=f"The agent asks for the result of {call.name}.",
                tool=call.name,
                tool_input=call.input,
            )
            yield Asked(id=f"{call.id}/asked", question=question)
        self._ref["open"] = [call.tool_use_id for call in calls]
        yield self._done("requires_action")

    def _done(
        self,
        outcome: Literal["completed", "failed", "cancelled", "requires_action"],
        words: str | None = None,
        kind: Kind = "failed",
    ) -> Done:
        self.finished = True
        return Done(
            id=f"{self._turn}/done",
            outcome=outcome,
            error=clean(words) if words else None,
            error_kind=kind if outcome == "failed" else None,
            ref=dict(self._ref),
        )


def _object(payload: bytes) -> Json:
    try:
        return _mapping(json.loads(payload or b"{}"))
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"the harness sent an event that is not JSON: {exc}") from exc


def _mapping(value: Any) -> Json:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ProtocolError(f"the harness sent {type(value).__name__} where an object belongs")
    return value


def _arguments(text: str) -> Json:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = text
    return value if isinstance(value, Mapping) else {"input": value}


def _result_text(part: Json) -> str:
    if isinstance(part.get("text"), str):
        return str(part["text"])
    return json.dumps(part["json"], ensure_ascii=False) if "json" in part else ""
