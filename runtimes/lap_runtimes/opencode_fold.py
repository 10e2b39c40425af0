"""Folds the events of `opencode serve`, or the messages of a session, into our events.  No I/O.

A turn is one message of the user and all of the assistant's whose parent it is.  Events of other
sessions come on the same stream.  Wire format: opencode 1.18, `GET /doc`, `GET /event`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from lap_runtimes.base import (
    Answer,
    Asked,
    Done,
    Event,
    Heartbeat,
    Message,
    MessageDelta,
    Progress,
    Question,
    QuestionClosed,
    Started,
    Thinking,
    ThinkingDelta,
    ToolResult,
    ToolUse,
    Usage,
)
from lap_runtimes.content import Json, items, mapping
from lap_runtimes.errors import Kind, ProtocolError, Rejected
from lap_runtimes.http_errors import clean, error_words, told_kind

REPLIES = ("once", "always", "reject")
"""What a permission is answered with, and offered as."""
_TEXTS = {"text": (MessageDelta, Message), "reasoning": (ThinkingDelta, Thinking)}
_ABORTED = "MessageAbortedError"
_KINDS: dict[str, Kind] = {
    "ProviderAuthError": "auth",
    "ContextOverflowError": "invalid",
}
"""Errors of opencode whose name says their kind; that of a model says it by its `statusCode`."""


class TurnFold:
    """One turn.  `ref` holds `session`, `turn`, and once it is known `message`; at its beginning,
    `message` is that of the turn before."""

    def __init__(self, turn_id: str, ref: Json, *, again: bool) -> None:
        self.turn_id = turn_id
        self.finished = False
        self.ref = {"session": str(ref.get("session", "")), "turn": turn_id}
        self._before = "" if again else str(ref.get("message", ""))
        self._message = str(ref.get("message", "")) if again else ""
        self._begun = False
        self._kinds: dict[str, str] = {}
        """The type of each part of the assistant's."""
        self._open: dict[str, list[str]] = {}
        self._said: set[str] = set()
        """Ids of what was given whole."""
        self._used: dict[str, Json] = {}
        self._error: Json = {}
        self._asked: set[str] = set()

    def feed(self, data: str) -> list[Event]:
        """Events of one server-sent event.  Raises `ProtocolError` for what is no JSON."""
        try:
            body = mapping(json.loads(data))
        except (ValueError, RecursionError) as exc:
            raise ProtocolError(f"the stream has an event that is not JSON: {exc}") from exc
        about = mapping(body.get("properties"))
        if str(about.get("sessionID", "")) != self.ref["session"]:
            return [Heartbeat()]
        return list(self._feed(str(body.get("type", "")), about)) or [Heartbeat()]

    def catch_up(self, messages: Any, *, busy: bool) -> list[Event]:
        """Events of `GET /session/{id}/message` that were not given yet, and the end, where the
        session is not busy any more."""
        events: list[Event] = []
        for message in items(messages):
            events += self._feed("message.updated", {"info": message.get("info")})
            for part in items(message.get("parts")):
                events += self._feed("message.part.updated", {"part": part})
                if not busy:
                    self._unfinished(mapping(part))
        if not busy:
            events += self._feed("session.idle", {})
        return events

    def _feed(self, kind: str, about: Json) -> Iterator[Event]:
        if kind == "message.updated":
            yield from self._updated(mapping(about.get("info")))
        elif kind == "message.part.updated":
            yield from self._part(mapping(about.get("part")))
        elif kind == "message.part.delta":
            yield from self._delta(about)
        elif kind in ("permission.asked", "question.asked"):
            yield from self.ask(kind, about)
        elif kind in ("permission.replied", "question.replied", "question.rejected"):
            yield from self._settled(str(about.get("requestID", "")))
        elif kind.startswith("session."):
            yield from self._about_session(kind, about)

    def _about_session(self, kind: str, about: Json) -> Iterator[Event]:
        status = mapping(about.get("status"))
        if status.get("type") == "retry":
            yield Progress(text=clean(f"tries again: {status.get('message', '')}"))
        elif kind == "session.error":
            self._error = mapping(about.get("error"))
            if not self._message:
                # Before a message was made of the prompt: there will be none.
                yield from self._end()
        elif kind == "session.idle" and self._message:
            yield from self._end()

    def _start(self) -> Iterator[Event]:
        if not self._begun:
            self._begun = True
            if self._message:
                self.ref["message"] = self._message
            yield Started(id=f"{self.turn_id}/started", ref=dict(self.ref))

    def _updated(self, info: Json) -> Iterator[Event]:
        message_id = str(info.get("id", ""))
        if info.get("role") == "user":
            if not self._message and message_id != self._before:
                self._message = message_id
            if message_id == self._message:
                yield from self._start()
        elif self._message and info.get("parentID") == self._message:
            self._used[message_id] = info
            if info.get("error"):
                self._error = mapping(info.get("error"))

    def _part(self, part: Json) -> Iterator[Event]:
        if part.get("messageID") not in self._used:
            return
        part_id, kind = str(part.get("id", "")), str(part.get("type", ""))
        self._kinds[part_id] = kind
        if kind in _TEXTS and mapping(part.get("time")).get("end") and part_id not in self._said:
            yield from self._whole(part_id, str(part.get("text", "")))
        elif kind == "tool":
            yield from self._tool(part_id, part, mapping(part.get("state")))

    def _unfinished(self, part: Json) -> None:
        """A text that the agent broke off, in a message of the turn: it ends with the turn."""
        part_id = str(part.get("id", ""))
        if self._kinds.get(part_id) in _TEXTS and part_id not in self._said and part.get("text"):
            self._open[part_id] = [str(part["text"])]

    def _delta(self, about: Json) -> Iterator[Event]:
        part_id = str(about.get("partID", ""))
        kind = self._kinds.get(part_id, "")
        text = str(about.get("delta", ""))
        if kind in _TEXTS and about.get("field") == "text" and part_id not in self._said and text:
            self._open.setdefault(part_id, []).append(text)
            yield _TEXTS[kind][0](message_id=part_id, text=text)

    def _whole(self, part_id: str, text: str) -> Iterator[Event]:
        self._open.pop(part_id, None)
        self._said.add(part_id)
        if text:
            yield _TEXTS[self._kinds[part_id]][1](id=part_id, message_id=part_id, text=text)

    def _tool(self, part_id: str, part: Json, state: Json) -> Iterator[Event]:
        status = state.get("status")
        if status != "pending" and part_id not in self._said:
            self._said.add(part_id)
            yield ToolUse(
                id=part_id,
                tool_use_id=part_id,
                name=clean(str(part.get("tool", "tool"))),
                input=dict(mapping(state.get("input"))),
            )
        result_id = f"{part_id}/result"
        if status in ("completed", "error") and result_id not in self._said:
            self._said.add(result_id)
            text = state.get("output") if status == "completed" else state.get("error")
            yield ToolResult(
                id=result_id,
                tool_use_id=part_id,
                text=str(text or ""),
                is_error=status == "error",
            )

    def ask(self, kind: str, about: Json) -> Iterator[Event]:
        """A question, once: of the stream, or of the list of those that are open."""
        request_id = str(about.get("id", ""))
        if request_id in self._asked:
            return
        self._asked.add(request_id)
        make = _permission if kind == "permission.asked" else _question
        yield from self._start()
        yield Asked(id=request_id, question=make(request_id, about))

    def _settled(self, request_id: str) -> Iterator[Event]:
        if request_id in self._asked:
            yield QuestionClosed(id=f"{request_id}/closed", question_id=request_id)

    def _end(self) -> Iterator[Event]:
        if self.finished:
            return
        yield from self._start()
        self.finished = True
        for part_id, texts in list(self._open.items()):
            yield from self._whole(part_id, "".join(texts))
        yield from self._usage()
        done = f"{self.turn_id}/done"
        outcome: Literal["completed", "failed", "cancelled"] = "completed"
        words: str | None = None
        kind: Kind | None = None
        if self._error.get("name") == _ABORTED:
            outcome = "cancelled"
        elif self._error:
            outcome = "failed"
            words, kind = _failure(self._error)
        ref = dict(self.ref)
        yield Done(id=done, outcome=outcome, error=words, error_kind=kind, ref=ref)

    def _usage(self) -> Iterator[Event]:
        tokens = [mapping(info.get("tokens")) for info in self._used.values()]
        costs = [info.get("cost") for info in self._used.values()]
        if not any(_count(each, "output") for each in tokens):
            return
        yield Usage(
            id=f"{self.turn_id}/usage",
            input_tokens=sum(_count(each, "input") for each in tokens),
            output_tokens=sum(_count(each, "output") for each in tokens),
            cost_usd=float(sum(cost for cost in costs if isinstance(cost, (int, float)))),
            detail={
                "reasoning": sum(_count(each, "reasoning") for each in tokens),
                "cache_read": sum(_count(mapping(each.get("cache")), "read") for each in tokens),
                "cache_write": sum(_count(mapping(each.get("cache")), "write") for each in tokens),
            },
        )


def _failure(error: Json) -> tuple[str, Kind]:
    """What a turn failed of: in words, with the status of the model's provider, and its kind."""
    name, data = clean(str(error.get("name") or "it failed")), mapping(error.get("data"))
    words = error_words(dict(data)) or name
    status = data.get("statusCode")
    told = f"{words} (status {status})" if isinstance(status, int) else words
    return told, _KINDS.get(name) or told_kind(data)


def _count(of: Json, name: str) -> int:
    value = of.get(name)
    return int(value) if isinstance(value, (int, float)) else 0


def _permission(request_id: str, about: Json) -> Question:
    tool = clean(str(about.get("permission", "a tool")))
    patterns = about.get("patterns")
    what = ", ".join(str(each) for each in patterns) if isinstance(patterns, list) else ""
    return Question(
        id=request_id,
        kind="approval",
        text=clean(f"May it use {tool}" + (f": {what}" if what else "?")),
        options=REPLIES,
        tool=tool,
        tool_input=dict(mapping(about.get("metadata"))) or None,
    )


def _question(request_id: str, about: Json) -> Question:
    """One or several questions with options; several are asked for as data."""
    asked = items(about.get("questions"))
    text = "\n".join(str(each.get("question", "")) for each in asked)
    if len(asked) == 1:
        labels = [str(option.get("label", "")) for option in items(asked[0].get("options"))]
        options = () if asked[0].get("custom", True) else tuple(labels)
        shown = f"{text} ({', '.join(labels)})" if labels and not options else text
        return Question(id=request_id, kind="input", text=shown, options=options)
    strings = {"type": "array", "items": {"type": "string"}}
    answers = {"type": "array", "items": strings, "minItems": len(asked), "maxItems": len(asked)}
    schema = {"type": "object", "properties": {"answers": answers}, "required": ["answers"]}
    return Question(id=request_id, kind="input", text=text, schema=schema)


def reply_of(answer: Answer) -> tuple[str, dict[str, Any] | None]:
    """The path below the server's address and the body that answer a question.  Raises `Rejected`,
    unsent."""
    request_id = answer.question_id
    if any(c in "/?#%\\" or ord(c) <= 32 for c in request_id):
        request_id = ""
    if request_id.startswith("per"):
        reply = answer.option or {"allow": "once", "deny": "reject"}.get(answer.decision or "", "")
        if reply not in REPLIES:
            words = f"a permission is answered with one of {', '.join(REPLIES)}"
            raise Rejected(words, kind="invalid", sent=False)
        said = {"message": answer.text} if reply == "reject" and answer.text else {}
        return f"permission/{request_id}/reply", {"reply": reply, **said}
    if request_id.startswith("que"):
        if answer.decision == "deny":
            return f"question/{request_id}/reject", None
        answers = (answer.data or {}).get("answers") or [[answer.option or answer.text]]
        return f"question/{request_id}/reply", {"answers": answers}
    words = f"no question {answer.question_id} is open"
    raise Rejected(words, kind="not_found", sent=False)
