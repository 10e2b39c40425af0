"""Folds the events and steps of a Gemini interaction into ours.  No I/O.

A step is started, grows by deltas, and is stopped; what it was is not said again, except in the
interaction itself.  Wire format: the types of the official `google-genai` SDK, `interactions`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lap_runtimes.base import (
    Asked,
    Done,
    Event,
    File,
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
from lap_runtimes.errors import ProtocolError, Unavailable
from lap_runtimes.files import FileLink, plain_name
from lap_runtimes.http_errors import error_words, told_kind
from lap_runtimes.managed import MAX_ID, kept_open, objects, whole
from lap_runtimes.responses_items import Json, mapping

PENDING = ("in_progress", "queued")
_ENDS: dict[str, Literal["completed", "cancelled", "requires_action"]] = {
    "completed": "completed",
    "idle": "completed",
    "cancelled": "cancelled",
    "requires_action": "requires_action",
}
_WORDS = {
    "incomplete": "the answer is incomplete",
    "budget_exceeded": "the budget of the interaction is used up",
    "requires_continuation": "the service paused a long answer, which is not taken up again here",
}
_MEDIA = ("image", "audio", "video", "document")
_LIVE = (MessageDelta, ThinkingDelta, Progress, Heartbeat)


@dataclass(slots=True)
class _Open:
    """A step that has not been stopped."""

    step: dict[str, Any] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    arguments: str = ""
    parts: list[Json] = field(default_factory=list)

    def whole(self) -> Json:
        """The step as it would be listed."""
        content = objects(self.step.get("content"))
        made = {**self.step, "content": [*content, *self.parts]}
        if self.arguments:
            made["arguments"] = _loaded(self.arguments)
        return made


class InteractionFold:
    """One turn.  `ref` holds `interaction` (for attach and cancel), `previous` (the last one that
    may be continued), `environment` (its id), and after a stop `open` (name of each function).
    Raises `ValueError` for a cursor that is none."""

    def __init__(self, turn_id: str, ref: Json, *, cursor: str | None = None) -> None:
        self.finished = False
        self.turn_id = turn_id
        self._ref = {key: value for key, value in ref.items() if key != "open"}
        given, _, self.event_id = (cursor or "").partition("|")
        """Where a replay may start; the cursor also says which steps were given before."""
        self._started = cursor is not None
        self._steps: dict[int, _Open] = {}
        self._given = {int(index) for index in given.split(",") if index}
        self._status = ""
        self._usage: Any = None

    @property
    def interaction(self) -> str:
        return str(self._ref.get("interaction") or "")

    def feed(self, body: Json) -> list[Event]:
        kind = str(body.get("event_type") or body.get("type") or "")
        if kind == "error":
            words = error_words(dict(body)) or "an error without words"
            raise Unavailable(f"the stream of the interaction broke: {words}")
        events = list(self._feed(kind, body))
        event_id = str(body.get("event_id") or "")
        if event_id and not self._steps:
            # With a step open, a replay from here would miss its beginning.
            self.event_id = event_id
        return self._marked(events)

    def feed_whole(self, interaction: Json) -> list[Event]:
        """What the interaction itself says that was not said yet."""
        events = list(self._begin(interaction))
        for index, step in enumerate(_output_steps(interaction)):
            if index not in self._given:
                self._given.add(index)
                events += self._step(index, step)
        self._status = str(interaction.get("status") or "")
        self.finished = self._status not in PENDING
        return self._marked(events)

    def _feed(self, kind: str, body: Json) -> Iterator[Event]:
        index = whole(body.get("index"))
        if kind == "interaction.created":
            yield from self._begin(mapping(body.get("interaction") or {}))
        elif kind == "interaction.status_update":
            yield from self._begin({"id": body.get("interaction_id")})
            self._rest(str(body.get("status") or ""), body, final=False)
        elif kind == "interaction.completed":
            interaction = mapping(body.get("interaction") or {})
            yield from self._begin(interaction)
            self._rest(str(interaction.get("status") or "completed"), interaction, final=True)
        elif kind == "step.start":
            self._steps[index] = _Open(dict(mapping(body.get("step") or {})))
        elif kind == "step.delta" and index not in self._given:
            yield from self._delta(index, mapping(body.get("delta") or {}))
        elif kind == "step.stop" and index not in self._given:
            self._given.add(index)
            step = self._steps.pop(index, _Open())
            yield from self._step(index, step.whole(), "".join(step.texts))

    def _begin(self, interaction: Json) -> Iterator[Event]:
        if self._started or not interaction.get("id"):
            return
        self._started = True
        self._ref["interaction"] = str(interaction["id"])[:MAX_ID]
        yield Started(id=f"{self.turn_id}/started", ref={**self._ref, "turn": self.turn_id})

    def _rest(self, status: str, body: Json, *, final: bool) -> None:
        """An update that says `completed` is followed by the completion itself."""
        self._status = status
        self._usage = body.get("usage") or self._usage
        self.finished = final or not (status == "completed" or status in PENDING)

    def _message_id(self, index: int) -> str:
        return f"{self.interaction}/{index}"

    def _delta(self, index: int, delta: Json) -> Iterator[Event]:
        step = self._steps.setdefault(index, _Open())
        kind = str(delta.get("type", ""))
        if kind == "text":
            text = str(delta.get("text") or "")
            step.texts.append(text)
            if text:
                yield MessageDelta(message_id=self._message_id(index), text=text)
        elif kind == "thought_summary":
            text = _text(delta.get("content"))
            step.step["type"] = "thought"
            step.texts.append(text)
            if text:
                yield ThinkingDelta(message_id=self._message_id(index), text=text)
        elif kind == "arguments_delta":
            step.arguments += str(delta.get("arguments") or "")
        elif kind in _MEDIA:
            step.parts.append(delta)
        else:
            step.step.update({key: value for key, value in delta.items() if key != "type"})

    # What they amount to

    def _step(self, index: int, step: Json, streamed: str = "") -> Iterator[Event]:
        """A step that is over."""
        kind, step_id = str(step.get("type") or "model_output"), self._message_id(index)
        if kind == "model_output":
            text = streamed or _text(step.get("content"))
            files = list(_files(step.get("content"), step_id))
            if text or not (files or step.get("error")):
                yield Message(id=step_id, message_id=step_id, text=text)
            yield from files
        elif kind == "thought":
            text = streamed or _text(step.get("summary"))
            if text:
                yield Thinking(id=step_id, message_id=step_id, text=text)
        elif kind.endswith("_call") and kind != "function_call":
            name = str(step.get("name") or kind.removesuffix("_call"))
            call = str(step.get("id") or step_id)
            yield ToolUse(id=step_id, tool_use_id=call, name=name, input=arguments(step))
        elif kind.endswith("_result") and kind != "function_result":
            yield ToolResult(
                id=step_id,
                tool_use_id=str(step.get("call_id") or ""),
                text=_shown(step.get("result")),
                is_error=bool(step.get("is_error")),
            )

    def end(self, interaction: Json) -> list[Event]:
        """After the last event; `interaction` is what the service keeps of it."""
        events: list[Event] = []
        for index, step in sorted(self._steps.items()):
            events += self._step(index, step.whole(), "".join(step.texts))
        usage = interaction.get("usage") or self._usage
        if isinstance(usage, Mapping):
            events.append(_used(self.turn_id, usage))
        status = str(interaction.get("status") or self._status)
        self._status = self._status if status in PENDING else status
        if interaction.get("environment_id"):
            self._ref["environment"] = str(interaction["environment_id"])[:MAX_ID]
        return self._marked([*events, *self._done(interaction)])

    def _done(self, interaction: Json) -> Iterator[Event]:
        done = f"{self.turn_id}/done"
        ref = {**self._ref, "turn": self.turn_id}
        outcome = _ENDS.get(self._status)
        if outcome is None:
            failed = [step.get("error") for step in _steps(interaction)]
            errors = [*objects(interaction.get("errors")), *objects(failed)]
            said = error_words(errors)
            words = said or _WORDS.get(self._status, "it failed without a word")
            kind = told_kind(errors[0] if errors else None)
            yield Done(id=done, outcome="failed", error=words, error_kind=kind, ref=ref)
            return
        if outcome != "cancelled":
            ref["previous"] = self.interaction
        asked = list(_questions(interaction)) if outcome == "requires_action" else []
        for question in asked:
            yield Asked(id=f"{question.id}/asked", question=question)
        if asked:
            ref["open"] = kept_open({question.id: question.tool for question in asked})
        elif outcome == "requires_action":
            words = "the interaction waits for something that it does not name"
            yield Done(id=done, outcome="failed", error=words, error_kind="failed", ref=ref)
            return
        yield Done(id=done, outcome=outcome, ref=ref)

    def _marked(self, events: list[Event]) -> list[Event]:
        """The cursor goes on the last event of a frame that is stored."""
        for place in range(len(events) - 1, -1, -1):
            if not isinstance(events[place], _LIVE):
                given = ",".join(str(index) for index in sorted(self._given))
                if self.event_id:
                    cursor = f"{given}|{self.event_id}"
                    events[place] = replace(events[place], cursor=cursor)
                break
        return events


def arguments(step: Json) -> Json:
    """The arguments of a call."""
    given = step.get("arguments")
    return given if isinstance(given, Mapping) else {} if given is None else {"input": given}


def _loaded(pieces: str) -> Any:
    """Arguments that came as pieces of JSON."""
    try:
        return json.loads(pieces)
    except (ValueError, RecursionError):
        return pieces


def _steps(interaction: Json) -> list[Json]:
    return objects(interaction.get("steps"))


def _output_steps(interaction: Json) -> list[Json]:
    ours = ("user_input", "function_result")
    return [step for step in _steps(interaction) if step.get("type") not in ours]


def _questions(interaction: Json) -> Iterator[Question]:
    """Functions that are called and have no result."""
    steps = _steps(interaction)
    answered = {str(s.get("call_id")) for s in steps if s.get("type") == "function_result"}
    for step in steps:
        if step.get("type") == "function_call" and str(step.get("id")) not in answered:
            name = str(step.get("name") or "a function")
            yield Question(
                id=str(step.get("id") or ""),
                kind="tool_result",
                text=f"The agent asks for the result of {name}.",
                tool=name,
                tool_input=arguments(step),
            )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "".join(str(p.get("text") or "") for p in parts if isinstance(p, Mapping))


def _shown(result: Any) -> str:
    return _text(result) or ("" if not result else json.dumps(result, ensure_ascii=False))


def _files(content: Any, step_id: str) -> Iterator[Event]:
    """Pictures, sounds and documents of an answer: their bytes, or an address."""
    for number, part in enumerate(content if isinstance(content, list) else []):
        if not isinstance(part, Mapping) or part.get("type") in (None, "text"):
            continue
        kind, media_type = str(part["type"]), str(part.get("mime_type") or "")
        file_id = f"{step_id}/{number}"
        suffix = media_type.rpartition("/")[2]
        name = plain_name(f"{kind}.{suffix}" if suffix else kind, fallback=kind)
        if part.get("data"):
            try:
                data = base64.b64decode(str(part["data"]), validate=True)
            except (binascii.Error, ValueError) as exc:
                raise ProtocolError(f"the service sent a file that is not base64: {exc}") from exc
            yield File(id=file_id, file_id=file_id, name=name, media_type=media_type, data=data)
        elif str(part.get("uri") or "").startswith(("https://", "http://")):
            url = str(part["uri"])
            yield FileLink(id=file_id, file_id=file_id, name=name, media_type=media_type, url=url)
        elif part.get("uri"):
            yield Message(id=file_id, message_id=file_id, text=f"{name}: {part['uri']}")


def _used(turn_id: str, usage: Json) -> Usage:
    counts = {k: v for k, v in usage.items() if v is not None}
    return Usage(
        id=f"{turn_id}/usage",
        input_tokens=whole(counts.pop("total_input_tokens", 0)),
        output_tokens=whole(counts.pop("total_output_tokens", 0)),
        detail=counts,
    )
