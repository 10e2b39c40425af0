"""Folds what an A2A agent sends (the JSON of A2A 1.0 `StreamResponse`) into our events.  No I/O.

A turn gives the same messages and files, with the same ids, whether its stream was read to the end
or only the finished task is looked at: their ids are made of the task, the artifact and a digest of
the content, and what a task says while it works is progress, unless it says nothing else.
Wire format: A2A specification 1.0, section 4 (Task, Message, Artifact, Part, StreamResponse).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lap_runtimes.a2a_parts import (
    MAX_ID,
    Json,
    artifact_id_of,
    content_digest,
    digest_of,
    file_event,
    file_parts,
    link_in,
    mapping,
    message_id_of,
    parts_of,
    text_of,
    whole_numbers,
)
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
)
from lap_runtimes.errors import ProtocolError

_MAX_BEFORE = 100
INTERRUPTED = {"TASK_STATE_INPUT_REQUIRED", "TASK_STATE_AUTH_REQUIRED"}
_ENDED = {
    "TASK_STATE_COMPLETED": "completed",
    "TASK_STATE_FAILED": "failed",
    "TASK_STATE_CANCELED": "cancelled",
    "TASK_STATE_REJECTED": "failed",
}


@dataclass(slots=True)
class _Artifact:
    id: str
    name: str = ""
    parts: list[Json] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    """Text given out as deltas."""
    closed: str | None = None
    """Digest of the content that was given out whole."""


class TaskFold:
    """One turn.  `ref` is the session's: of this turn when it is attached to, else of the last."""

    def __init__(self, turn_id: str, ref: Json, *, whole: bool = False) -> None:
        self.turn_id = turn_id
        self.whole = whole
        """Events may repeat or miss something: only a looked-up task is believed at the end."""
        self.task_id = ""
        self.context_id = str(ref.get("context", ""))
        self.finished = False
        self.wants_task = False
        """The end has been seen, and the adapter is to look the task up and feed it."""
        self._agent = str(ref.get("agent", ""))
        self._answered = str(ref.get("answered", ""))
        self._before: dict[str, str] = dict(ref.get("before", {}))
        self._artifacts: dict[str, _Artifact] = {}
        self._said: dict[str, Json] = {}
        self._history: list[Json] = []
        self._started = False
        self._given = 0

    @property
    def begun(self) -> bool:
        """The agent has taken the prompt."""
        return self._started

    def feed(self, response: Json) -> list[Event]:
        """Events of one `StreamResponse`.  Raises `ProtocolError`."""
        events = list(self._feed(response))
        return events or [Heartbeat()]

    def _feed(self, response: Json) -> Iterator[Event]:
        if "message" in response:
            yield from self._only_message(mapping(response["message"]))
        elif "task" in response:
            task = mapping(response["task"])
            if self._foreign(task.get("id")):
                return
            yield from self._start(str(task.get("id", "")), task)
            self._history = [mapping(each) for each in task.get("history", [])]
            for artifact in task.get("artifacts", []):
                yield from self._artifact(mapping(artifact), append=False)
            yield from self._status(mapping(task.get("status", {})), looked_up=True)
        elif "statusUpdate" in response:
            update = mapping(response["statusUpdate"])
            if self._foreign(update.get("taskId")):
                return
            yield from self._start(str(update.get("taskId", "")), update)
            yield from self._status(mapping(update.get("status", {})), looked_up=False)
        elif "artifactUpdate" in response:
            update = mapping(response["artifactUpdate"])
            if self._foreign(update.get("taskId")):
                return
            yield from self._start(str(update.get("taskId", "")), update)
            yield from self._chunk(update)

    # The beginning

    def _foreign(self, task_id: Any) -> bool:
        return bool(self.task_id and task_id and task_id != self.task_id)

    def _start(self, task_id: str, about: Json) -> Iterator[Event]:
        context = str(about.get("contextId", "")) or self.context_id
        if len(task_id) > MAX_ID or len(context) > MAX_ID:
            raise ProtocolError("the agent's task or context id is longer than 512 characters")
        self.task_id = self.task_id or task_id
        self.context_id = context
        if not self._started:
            self._started = True
            yield Started(id=f"{self.turn_id}/started", ref=self.ref())

    def ref(self, **more: Any) -> dict[str, Any]:
        """What continues and re-attaches this turn."""
        made: dict[str, Any] = {
            "agent": self._agent,
            "context": self.context_id,
            "task": self.task_id,
            "turn": self.turn_id,
            "answered": self._answered,
            "before": self._before,
            **more,
        }
        return {key: value for key, value in made.items() if value}

    # Messages and artifacts

    def _only_message(self, message: Json) -> Iterator[Event]:
        """An answer without a task.  It cannot be attached to, so its ids are the agent's."""
        yield from self._start("", message)
        message_id = message_id_of(message)
        yield from self._content(message_id, "", [mapping(p) for p in message.get("parts", [])])
        self.finished = True
        yield Done(id=f"{self.turn_id}/done", outcome="completed", ref=self.ref())

    def _chunk(self, update: Json) -> Iterator[Event]:
        yield from self._artifact(
            mapping(update.get("artifact", {})), append=bool(update.get("append", False))
        )
        artifact = self._artifacts[artifact_id_of(mapping(update.get("artifact", {})))]
        if update.get("lastChunk") and not self.whole:
            yield from self._close(artifact)

    def _artifact(self, wire: Json, *, append: bool) -> Iterator[Event]:
        artifact = self._artifacts.setdefault(artifact_id_of(wire), _Artifact(artifact_id_of(wire)))
        artifact.name = str(wire.get("name", "")) or artifact.name
        parts = [mapping(part) for part in wire.get("parts", [])]
        if append:
            artifact.parts += parts
            delta = text_of(parts)
        else:
            artifact.parts = parts
            delta = self._unseen(artifact)
        if delta and artifact.closed is None:
            artifact.shown.append(delta)
            yield MessageDelta(message_id=f"{self.task_id}/{artifact.id}", text=delta)

    def _unseen(self, artifact: _Artifact) -> str:
        """What a whole artifact adds to the text that was shown; nothing where it differs, or was
        given out in an earlier turn of its task."""
        text = text_of(artifact.parts)
        shown = "".join(artifact.shown)
        earlier = self._before.get(digest_of(artifact.id))
        if earlier is not None and earlier == content_digest(artifact.parts):
            artifact.shown = [text]
            return ""
        return text[len(shown) :] if text.startswith(shown) else ""

    def _close(self, artifact: _Artifact) -> Iterator[Event]:
        digest = content_digest(artifact.parts)
        key = digest_of(artifact.id)
        if artifact.closed == digest or self._before.get(key) == digest or not artifact.parts:
            return
        artifact.closed = digest
        yield from self._content(artifact.id, artifact.name, artifact.parts)

    def _content(self, message_id: str, name: str, parts: list[Json]) -> Iterator[Event]:
        """A finished message, and its files."""
        text = text_of(parts)
        data = [whole_numbers(part["data"]) for part in parts if "data" in part]
        message_id = f"{self.task_id or self.turn_id}/{message_id}"
        if data and not text:
            text = json.dumps(data[0] if len(data) == 1 else data, ensure_ascii=False, indent=1)
        if text:
            self._given += 1
            yield Message(
                id=f"{message_id}/{digest_of([text, data])}",
                message_id=message_id,
                text=text,
                data=(data[0] if len(data) == 1 else data) if data else None,
            )
        for number, part in enumerate(file_parts(parts)):
            self._given += 1
            yield file_event(part, f"{message_id}/{number}", name)

    # The end

    def _status(self, status: Json, *, looked_up: bool) -> Iterator[Event]:
        state = str(status.get("state", ""))
        message = mapping(status.get("message", {}))
        if state in _ENDED or (
            state in INTERRUPTED and self._question_id(status) != self._answered
        ):
            if self.whole and not looked_up:
                self.wants_task = True
                return
            yield from self._finish(state, status, message)
            return
        if message and state not in INTERRUPTED:
            fresh = str(message.get("messageId", "")) not in self._said
            self._said[str(message.get("messageId", ""))] = message
            text = text_of(parts_of(message))
            if text and fresh:
                yield Progress(text=text)

    def _finish(self, state: str, status: Json, message: Json) -> Iterator[Event]:
        for artifact in list(self._artifacts.values()):
            yield from self._close(artifact)
        self.finished = True
        if state in INTERRUPTED:
            yield from self._ask(state, status, message)
            return
        outcome = _ENDED[state]
        if outcome == "completed":
            yield from self._last_words(message)
        done = f"{self.turn_id}/done"
        self._before, self._answered = {}, ""
        if outcome == "failed":
            verb = "rejected the task" if state.endswith("REJECTED") else "failed"
            words = text_of(parts_of(message))
            error = f"the agent {verb}: {words}" if words else f"the agent {verb} without a word"
            yield Done(id=done, outcome="failed", error=error, error_kind="failed", ref=self.ref())
        elif outcome == "cancelled":
            yield Done(id=done, outcome="cancelled", ref=self.ref())
        else:
            yield Done(id=done, outcome="completed", ref=self.ref())

    def _last_words(self, message: Json) -> Iterator[Event]:
        """The final status message, unless an artifact said the same; and where the agent said
        nothing at the end, what it said on the way."""
        if message:
            text = text_of(parts_of(message))
            if not text or all(text != text_of(a.parts) for a in self._artifacts.values()):
                yield from self._content(message_id_of(message), "", parts_of(message))
        if self._given:
            return
        for said in self._on_the_way():
            yield from self._content(message_id_of(said), "", parts_of(said))

    def _on_the_way(self) -> list[Json]:
        if not self.whole:
            return list(self._said.values())
        ours = [i for i, m in enumerate(self._history) if m.get("messageId") == self.turn_id]
        if not ours and self._answered:
            return []
        after = self._history[ours[-1] + 1 :] if ours else self._history
        said = {message_id_of(m): m for m in after if m.get("role") == "ROLE_AGENT"}
        return list({**said, **self._said}.values())

    def _ask(self, state: str, status: Json, message: Json) -> Iterator[Event]:
        question_id = self._question_id(status)
        text = text_of(parts_of(message))
        auth = state == "TASK_STATE_AUTH_REQUIRED"
        fallback = "The agent needs you to sign in." if auth else "The agent needs more input."
        yield Asked(
            id=f"{question_id}/asked",
            question=Question(
                id=question_id,
                kind="auth" if auth else "input",
                text=text or fallback,
                url=link_in(message, text) if auth else None,
            ),
        )
        self._before = dict(
            [(digest_of(a.id), content_digest(a.parts)) for a in self._artifacts.values()][
                -_MAX_BEFORE:
            ]
        )
        self._answered = ""
        yield Done(
            id=f"{self.turn_id}/done",
            outcome="requires_action",
            ref=self.ref(question=question_id),
        )

    def _question_id(self, status: Json) -> str:
        message = mapping(status.get("message", {}))
        mark = str(message.get("messageId", "")) or str(status.get("timestamp", ""))
        return f"{self.task_id}/{digest_of(mark)}"
