"""Folds the events of a LiteLLM Agent Platform session into ours.  No I/O.

Its runtimes differ, and so do the events: most have no id, some repeat themselves to the letter.
So an event is known by its place in the session's list, which only grows.
Wire format: the platform's source, `src/sdk/agents/events.rs`, `src/http/sessions`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lap_runtimes.base import (
    Asked,
    Done,
    Event,
    Message,
    Progress,
    Question,
    Started,
    Thinking,
    ToolResult,
    ToolUse,
)
from lap_runtimes.claude_fold import blocks_text
from lap_runtimes.http_errors import clean, error_words
from lap_runtimes.managed import kept_open
from lap_runtimes.responses_items import Json

WAITS = "the agent's runtime waits for an answer that the platform cannot give it"


class PlatformFold:
    """One turn.  `ref` holds `session`, `turn`, `from` (how many events the session had before),
    and after a stop `open` (the approvals that it waits for)."""

    def __init__(self, ref: Json) -> None:
        self.finished = False
        self.resting = False
        """The last thing heard is that the session rests."""
        self._ref = {key: value for key, value in ref.items() if key != "open"}
        self._turn_id = str(ref.get("turn", ""))
        self._place = int(ref.get("from") or 0)
        self._started = False
        self._error: str | None = None
        self._interrupted = False

    def begin(self) -> list[Event]:
        """The platform has taken the prompt."""
        if self._started:
            return []
        self._started = True
        return [Started(id=f"{self._turn_id}/started", ref=dict(self._ref))]

    @property
    def begun(self) -> bool:
        return self._started

    def feed_list(self, bodies: list[Json]) -> list[Event]:
        """Those of the session's events that were not there before."""
        fresh = bodies[self._place :]
        events = self.begin() if fresh else []
        for body in fresh:
            self._place += 1
            handle = _HANDLERS.get(str(body.get("type", "")))
            if handle is not None:
                events += handle(self, body)
        return events

    def end(self, approvals: list[Json]) -> Iterator[Event]:
        """The session rests, and these approvals of it are open."""
        yield from self.begin()
        self.finished = True
        done = f"{self._turn_id}/done"
        if self._interrupted:
            yield Done(id=done, outcome="cancelled", ref=self._ref)
        elif self._error is not None:
            yield self.failed(self._error)
        elif approvals:
            for item in approvals:
                yield Asked(id=f"{item['id']}/asked", question=_question(item))
            opened = kept_open({str(item["id"]): "approval" for item in approvals})
            ref = {**self._ref, "open": opened}
            yield Done(id=done, outcome="requires_action", ref=ref)
        else:
            yield Done(id=done, outcome="completed", ref=self._ref)

    def failed(self, words: str) -> Done:
        self.finished = True
        return Done(
            id=f"{self._turn_id}/done",
            outcome="failed",
            error=clean(words) or "it failed without a word",
            error_kind="failed",
            ref=self._ref,
        )

    # Events of the platform

    def _id(self) -> str:
        return f"{self._ref.get('session', '')}/{self._place}"

    def _message(self, body: Json) -> Iterator[Event]:
        text = blocks_text(body.get("content")) or str(body.get("text") or "")
        yield Message(id=self._id(), message_id=self._id(), text=text)

    def _thinking(self, body: Json) -> Iterator[Event]:
        text = blocks_text(body.get("content")) or str(body.get("text") or "")
        if text:
            yield Thinking(id=self._id(), message_id=self._id(), text=text)
        else:
            yield Progress(text="thinking")

    def _tool_use(self, body: Json) -> Iterator[Event]:
        given = body.get("input")
        yield ToolUse(
            id=self._id(),
            tool_use_id=str(body.get("id") or self._id()),
            name=str(body.get("name") or "a tool"),
            input=given if isinstance(given, Mapping) else {"input": given} if given else {},
        )

    def _tool_result(self, body: Json) -> Iterator[Event]:
        yield ToolResult(
            id=self._id(),
            tool_use_id=str(body.get("tool_use_id") or body.get("mcp_tool_use_id") or ""),
            text=blocks_text(body.get("content")),
            is_error=bool(body.get("is_error")),
        )

    def _running(self, body: Json) -> Iterator[Event]:
        self.resting = False
        self._error = None
        yield from ()

    def _idle(self, body: Json) -> Iterator[Event]:
        self.resting = True
        stop = body.get("stop_reason")
        kind = stop.get("type") if isinstance(stop, Mapping) else stop
        if kind == "requires_action":
            self._error = WAITS
        elif kind in ("interrupted", "cancelled"):
            self._interrupted = True
        elif kind in ("retries_exhausted", "refusal", "budget_reached"):
            self._error = self._error or f"the session stopped: {kind}"
        else:
            self._error = None
        yield from ()

    def _failure(self, body: Json) -> Iterator[Event]:
        error = body.get("error")
        status = error.get("retry_status") if isinstance(error, Mapping) else None
        words = clean(error_words({"error": error})) or "an error without words"
        if isinstance(status, Mapping) and status.get("type") == "retrying":
            yield Progress(text=f"retrying: {words}")
        else:
            self._error = words
            self.resting = True

    def _interrupt(self, body: Json) -> Iterator[Event]:
        self._interrupted = True
        yield from ()


_HANDLERS: dict[str, Callable[[PlatformFold, Json], Iterator[Event]]] = {
    "agent.message": PlatformFold._message,
    "agent.thinking": PlatformFold._thinking,
    "agent.tool_use": PlatformFold._tool_use,
    "agent.mcp_tool_use": PlatformFold._tool_use,
    "agent.tool_result": PlatformFold._tool_result,
    "agent.mcp_tool_result": PlatformFold._tool_result,
    "session.status_running": PlatformFold._running,
    "session.status_idle": PlatformFold._idle,
    "session.error": PlatformFold._failure,
    "user.interrupt": PlatformFold._interrupt,
}


def _question(item: Json) -> Question:
    """An item of the inbox.  `args_json` is JSON in a string, and what may be changed."""
    words = [str(item.get("title") or "Approval"), str(item.get("body") or "")]
    return Question(
        id=str(item["id"]),
        kind="approval",
        text="\n\n".join(filter(None, words)),
        tool_input=_arguments(item.get("args_json")),
    )


def _arguments(raw: Any) -> Json | None:
    try:
        value = json.loads(raw)
    except (TypeError, ValueError, RecursionError):
        return None
    return value if isinstance(value, Mapping) else None
