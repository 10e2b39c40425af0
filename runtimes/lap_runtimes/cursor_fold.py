"""Folds the events of a Cursor run into ours.  No I/O.

Wire format: Cursor Cloud Agents API 1.0.0, `GET /v1/agents/{id}/runs/{runId}/stream`.  Words of the
agent come as `assistant` events without a beginning or an end: a message is what stands between
two events of another kind, and is called by the id of its first event, which a replay gives again.
`interaction_update` repeats an event with the same id in another shape, and is not read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lap_runtimes.base import (
    Done,
    Event,
    Heartbeat,
    Message,
    MessageDelta,
    Progress,
    Started,
    Thinking,
    ThinkingDelta,
    ToolResult,
    ToolUse,
)
from lap_runtimes.http_errors import clean, error_words
from lap_runtimes.vendor_http import Json, decoded, mapping, mappings

ENDED = ("FINISHED", "ERROR", "CANCELLED", "EXPIRED")
LIVE = (MessageDelta, ThinkingDelta, Progress, Heartbeat)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a stream can be taken up: the id of an event, and what the agent said last, so that a
    result which repeats it is not told twice."""

    event_id: str
    said: str = ""

    def encode(self) -> str:
        return f"{self.said} {self.event_id}"

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises `ValueError`."""
        said, space, event_id = text.partition(" ")
        if not space or not event_id.isprintable():
            raise ValueError(text)
        return cls(event_id, said)


def digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).hexdigest()[:16]


class RunFold:
    """One run.  `ref` holds `agent`, `run`, `since` (when the run began, by Cursor's clock) and
    `git` (a digest of the branches that were told before)."""

    def __init__(self, ref: Json, *, after: Cursor | None = None) -> None:
        self.ref = dict(ref)
        self.run = str(ref.get("run", ""))
        self.finished = False
        self.look = False
        """The stream has nothing more to say, or says that something is wrong with it: how the run
        stands is in the run itself."""
        self.last_id = after.event_id if after else ""
        self._said = after.said if after else ""
        self._started = after is not None
        self._again = after is not None
        self._kind = ""
        self._open: list[str] = []
        self._open_id = ""
        self._open_last = ""
        self._count = 0
        self._calls: set[str] = set()
        self._words = ""

    def feed(self, name: str, event_id: str, data: str) -> list[Event]:
        """Events of one frame.  Raises `ProtocolError` for what is no JSON object."""
        events = list(self._feed(name, event_id, decoded(data)))
        return self._marked(events) or [Heartbeat()]

    def feed_run(self, run: Any) -> list[Event]:
        """Events of the run as it stands: nothing new, while it is being worked on."""
        body = mapping(run)
        if body.get("status") not in ENDED:
            return [*self.start(), Heartbeat()]
        text = str(body.get("result") or "")
        if self._kind == "assistant" and text.startswith("".join(self._open)):
            self._open = [text]
        told = [*self.start(), *self._close()]
        if digest(text) != self._said:
            told += self._reply(text, str(body["status"]))
        return self._marked([*told, *self._result({**body, "text": text})])

    def _feed(self, name: str, event_id: str, body: Json) -> Iterator[Event]:
        yield from self.start()
        if name == "assistant":
            yield from self._words_of("assistant", event_id, str(body.get("text") or ""))
        elif name == "thinking":
            yield from self._words_of("thinking", event_id, str(body.get("text") or ""))
        elif name == "tool_call":
            yield from self._close()
            self.last_id = event_id or self.last_id
            yield from self._call(body)
        elif name == "status":
            yield Progress(text=clean(str(body.get("status") or "")).lower())
        elif name == "result":
            yield from self._close()
            self.last_id = event_id or self.last_id
            yield from self._result(body)
        elif name == "error":
            self.look = True
            self._words = error_words(dict(body)) or str(body.get("code") or "")
        elif name == "done":
            self.look = True

    def start(self) -> list[Event]:
        """Once.  The run is there and can be found, whatever becomes of its stream."""
        if self._started:
            return []
        self._started = True
        return [Started(id=f"{self.run}/started", ref=dict(self.ref))]

    def _words_of(self, kind: str, event_id: str, text: str) -> Iterator[Event]:
        if self._kind != kind:
            yield from self._close()
            self._count += 1
            self._kind = kind
            self._open_id = f"{self.run}/{event_id or f'{kind}{self._count}'}"
        if event_id:
            self._open_last = event_id
        if text:
            self._open.append(text)
            delta = MessageDelta if kind == "assistant" else ThinkingDelta
            yield delta(message_id=self._open_id, text=text)

    def _close(self) -> Iterator[Event]:
        kind, text, message_id = self._kind, "".join(self._open), self._open_id
        self._kind, self._open = "", []
        self.last_id, self._open_last = self._open_last or self.last_id, ""
        if text and kind == "assistant":
            self._said = digest(text)
            yield Message(id=message_id, message_id=message_id, text=text)
        elif text:
            yield Thinking(id=message_id, message_id=message_id, text=text)

    def _call(self, body: Json) -> Iterator[Event]:
        call = f"{self.run}/{str(body.get('callId') or '')[:256]}"
        status = str(body.get("status") or "")
        known = call in self._calls or (self._again and status != "running")
        if not known:
            self._calls.add(call)
            given = body.get("args")
            arguments = given if isinstance(given, Mapping) else {"input": given} if given else {}
            name = str(body.get("name") or "a tool")
            yield ToolUse(id=call, tool_use_id=call, name=name, input=arguments)
        if status == "running":
            return
        result = body.get("result")
        failed = status == "error" or (isinstance(result, Mapping) and "error" in result)
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
        text = text if result is not None else ""
        yield ToolResult(id=f"{call}/result", tool_use_id=call, text=text, is_error=failed)

    def _result(self, body: Json) -> Iterator[Event]:
        yield from self._close()
        status = str(body.get("status") or "FINISHED")
        text = str(body.get("text") or "")
        if not self._said:
            # Otherwise it repeats what was streamed.
            yield from self._reply(text, status)
        yield from self._branches(body.get("git"))
        yield self._done(status, text)

    def _reply(self, text: str, status: str) -> Iterator[Event]:
        if text and status != "ERROR":
            said = f"{self.run}/result"
            self._said = digest(text)
            yield Message(id=said, message_id=said, text=text)

    def _branches(self, git: Any) -> Iterator[Event]:
        """What was pushed.  It is the agent's whole state: told when it has changed."""
        branches = mappings(mapping(git).get("branches")) if git else []
        lines = [
            " ".join(str(each[key]) for key in ("repoUrl", "branch", "prUrl") if each.get(key))
            for each in branches
        ]
        seen = digest("\n".join(lines))
        if lines and seen != self.ref.get("git"):
            self.ref["git"] = seen
            pushed = f"{self.run}/git"
            text = "Pushed:\n" + "\n".join(lines)
            yield Message(id=pushed, message_id=pushed, text=text, data={"git": git})

    def _done(self, status: str, text: str) -> Done:
        self.finished = True
        done = f"{self.run}/done"
        if status == "FINISHED":
            return Done(id=done, outcome="completed", ref=self.ref)
        if status == "CANCELLED":
            return Done(id=done, outcome="cancelled", ref=self.ref)
        words = "; ".join(filter(None, (self._words, text))) or "no reason given"
        how = "expired" if status == "EXPIRED" else "failed"
        return Done(
            id=done,
            outcome="failed",
            error=clean(f"the run {how}: {words}"),
            error_kind="failed",
            ref=self.ref,
        )

    def _marked(self, events: list[Event]) -> list[Event]:
        """The cursor goes on the last event of a frame that is stored: a crash between two of them
        must repeat the frame."""
        for place in range(len(events) - 1, -1, -1):
            if not isinstance(events[place], (*LIVE, Started)) and self.last_id:
                cursor = Cursor(self.last_id, self._said).encode()
                events[place] = replace(events[place], cursor=cursor)
                break
        return events
