"""Folds the events of a Claude Managed Agents session into ours.  No I/O.

The stream does not replay: what was missed comes from the list of events, so events are recognised
by their ids, and those before the turn's own first event are passed over.
Wire format: the types of the official `anthropic` SDK, `types/beta/sessions`, beta
`managed-agents-2026-04-01`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lap_runtimes.base import (
    Asked,
    Done,
    Event,
    Message,
    MessageDelta,
    Progress,
    Question,
    Started,
    Thinking,
    ToolResult,
    ToolUse,
    Usage,
)
from lap_runtimes.errors import Kind, Unavailable
from lap_runtimes.files import FileLink, plain_name
from lap_runtimes.http_errors import clean, error_words
from lap_runtimes.managed import kept_open, objects, segment, whole
from lap_runtimes.responses_items import Json, mapping

_KINDS: dict[str, Kind] = {
    "model_overloaded_error": "overloaded",
    "model_rate_limited_error": "rate_limited",
    "billing_error": "rate_limited",
    "mcp_authentication_failed_error": "auth",
    "repository_authentication_error": "auth",
    "repository_forbidden_error": "auth",
}
_ENDINGS = {
    "retries_exhausted": "the session gave up after repeated errors",
    "budget_reached": "the budget of the session is used up",
    "refusal": "the model refused",
}
_MAX_FILES = 60
"""Ids of files with the newest time that are remembered."""


class SessionFold:
    """One turn.  `ref` holds `session`, `turn`, `from` (the first of the events that we sent),
    `used` (the session's counts when the turn began), `files` (which ones were given), after a stop
    `open` (id and kind of each question), and in the turn that answers them `asked`, the same."""

    def __init__(self, ref: Json) -> None:
        self.finished = False
        self.turn_id = str(ref.get("turn", ""))
        self._ref = {key: value for key, value in ref.items() if key != "open"}
        self._begun = not ref.get("from")
        self._asked_before: Json = ref.get("asked") or {}
        self._seen: set[str] = set()
        self._streamed: dict[str, list[str]] = {}
        self._calls: dict[str, Json] = {}
        self._open: dict[str, str] = {}
        self._error: tuple[str, Kind] | None = None
        self._interrupted = False
        self._outcome = "completed"
        self._gone = False

    def started(self) -> Started:
        return Started(id=f"{self.turn_id}/started", ref=dict(self._ref))

    def feed(self, body: Json) -> list[Event]:
        kind = str(body.get("type", ""))
        event_id = str(body.get("id") or "")
        if kind == "error":
            words = error_words(dict(body)) or "an error without words"
            raise Unavailable(f"the stream of the session broke: {words}")
        if not self._begun:
            self._begun = event_id == self._ref.get("from")
            # A server whose stream begins with all that was must not end this turn by an old rest.
            self._seen.add(event_id)
            return []
        handle = _HANDLERS.get(kind)
        if handle is None or self.finished or (event_id and event_id in self._seen):
            return []
        if event_id:
            self._seen.add(event_id)
        return list(handle(self, body))

    def end(self, session: Json, files: list[Json]) -> Iterator[Event]:
        """After the last event: what the session and its files say now.  `session` is empty where
        it could not be asked."""
        for message_id, texts in self._streamed.items():
            yield Message(id=message_id, message_id=message_id, text="".join(texts))
        for file in self._new_files(files):
            yield _link(file)
        usage = session.get("usage")
        if isinstance(usage, Mapping):
            yield self._usage(f"{self.turn_id}/usage", usage)
            self._ref["used"] = _counts(usage)
        error, kind = self._error or (None, None)
        failed = self._outcome == "failed"
        yield Done(
            id=f"{self.turn_id}/done",
            outcome=self._outcome,  # type: ignore[arg-type]
            error=(error or "it failed without a word") if failed else None,
            error_kind=(kind or "failed") if failed else None,
            session_gone=self._gone,
            ref=self._rest(),
        )

    def _rest(self) -> dict[str, Any]:
        """The ref of a session at rest."""
        made = {key: value for key, value in self._ref.items() if key != "asked"}
        return {**made, "open": kept_open(self._open)} if self._open else made

    # Events of the vendor

    def _preview(self, body: Json) -> Iterator[Event]:
        preview = mapping(body.get("event", {}))
        if preview.get("type") == "agent.thinking":
            yield Progress(text="thinking")

    def _delta(self, body: Json) -> Iterator[Event]:
        message_id = str(body.get("event_id") or "")
        text = str(mapping(mapping(body.get("delta", {})).get("content", {})).get("text", ""))
        if text and message_id not in self._seen:
            self._streamed.setdefault(message_id, []).append(text)
            yield MessageDelta(message_id=message_id, text=text)

    def _message(self, body: Json) -> Iterator[Event]:
        message_id = str(body.get("id") or f"{self.turn_id}/{len(self._seen)}")
        streamed = "".join(self._streamed.pop(message_id, []))
        text = blocks_text(body.get("content")) or streamed
        yield Message(id=message_id, message_id=message_id, text=text)

    def _thinking(self, body: Json) -> Iterator[Event]:
        text = blocks_text(body.get("content"))
        if text:
            event_id = str(body.get("id"))
            yield Thinking(id=event_id, message_id=event_id, text=text)
        else:
            yield Progress(text="thinking")

    def _tool_use(self, body: Json) -> Iterator[Event]:
        event_id = str(body.get("id"))
        self._calls[event_id] = body
        given = body.get("input")
        yield ToolUse(
            id=event_id,
            tool_use_id=event_id,
            name=_tool_name(body),
            input=given if isinstance(given, Mapping) else {"input": given},
        )

    def _custom_tool_use(self, body: Json) -> Iterator[Event]:
        self._calls[str(body.get("id"))] = body
        yield Progress(text=f"wants the result of {_tool_name(body)}")

    def _tool_result(self, body: Json) -> Iterator[Event]:
        yield ToolResult(
            id=str(body.get("id")),
            tool_use_id=str(body.get("tool_use_id") or body.get("mcp_tool_use_id") or ""),
            text=blocks_text(body.get("content")),
            is_error=bool(body.get("is_error")),
        )

    def _session_error(self, body: Json) -> Iterator[Event]:
        # Servers that speak this API, and are not it, say it beside the type.
        told = body.get("error")
        error = told if isinstance(told, Mapping) else body
        words = clean(error_words({**error, "error": None}) or str(error.get("type", "an error")))
        status = error.get("retry_status")
        if isinstance(status, Mapping) and status.get("type") == "retrying":
            yield Progress(text=f"retrying: {words}")
        else:
            self._error = (words, _KINDS.get(str(error.get("type")), "failed"))

    def _usage_snapshot(self, body: Json) -> Iterator[Event]:
        usage = body.get("usage")
        if isinstance(usage, Mapping):
            yield self._usage(str(body.get("id") or ""), usage)

    def _rescheduled(self, body: Json) -> Iterator[Event]:
        yield Progress(text="rescheduled after a passing error")

    def _interrupt(self, body: Json) -> Iterator[Event]:
        self._interrupted = self._interrupted or not body.get("session_thread_id")
        yield from ()

    def _idle(self, body: Json) -> Iterator[Event]:
        reason = body.get("stop_reason")
        stop = mapping(reason) if isinstance(reason, Mapping) else {}
        kind = str(stop.get("type", "end_turn"))
        listed = stop.get("event_ids")
        waits_for = [str(event_id) for event_id in listed] if isinstance(listed, list) else []
        if waits_for and set(waits_for) <= self._asked_before.keys():
            return  # Between two of our answers, which arrive one by one.
        self.finished = True
        if kind == "requires_action":
            self._outcome = "requires_action"
            for event_id in waits_for:
                yield self._question(event_id)
        elif self._interrupted or kind == "interrupted":
            self._outcome = "cancelled"
        elif kind != "end_turn":
            self._outcome = "failed"
            words = _ENDINGS.get(kind, f"the session stopped: {clean(kind)}")
            detail = _explained(body)
            if self._error is None:
                self._error = (f"{words}: {detail}" if detail else words, "failed")

    def _terminated(self, body: Json) -> Iterator[Event]:
        self.finished = self._gone = True
        if self._interrupted:
            self._outcome = "cancelled"
        elif self._error is not None or body.get("type") == "session.deleted":
            self._outcome = "failed"
            self._error = self._error or ("the session was deleted", "gone")
        yield from ()

    # What they amount to

    def _question(self, event_id: str) -> Asked:
        body = self._calls.get(event_id) or {}
        kind = str(body.get("type") or self._asked_before.get(event_id) or "agent.tool_use")
        name = _tool_name(body) if body else ""
        given = body.get("input")
        permission = body.get("evaluated_permission")
        approval = kind != "agent.custom_tool_use" and permission in (None, "ask")
        if kind == "agent.tool_use" and permission == "allow":
            kind = "self_hosted"
        self._open[event_id] = kind
        shown = name or "a tool"
        if approval:
            where = str(body.get("mcp_server_name") or "")
            text = f"May the agent use {shown}{f' of the MCP server {where}' if where else ''}?"
        else:
            text = f"The agent asks for the result of {shown}."
        return Asked(
            id=f"{event_id}/asked",
            question=Question(
                id=event_id,
                kind="approval" if approval else "tool_result",
                text=text,
                tool=name or None,
                tool_input=given if isinstance(given, Mapping) else None,
            ),
        )

    def _usage(self, event_id: str, usage: Json) -> Usage:
        """What this turn used: the session's count, less what it was when the turn began."""
        now, before = _counts(usage), self._ref.get("used") or {}
        cost = now.get("cents")
        return Usage(
            id=event_id or f"{self.turn_id}/usage{len(self._seen)}",
            input_tokens=max(0, now["input"] - before.get("input", 0)),
            output_tokens=max(0, now["output"] - before.get("output", 0)),
            cost_usd=None if cost is None else max(0, cost - before.get("cents", 0)) / 100,
            detail={"session": dict(usage)},
        )

    def _new_files(self, files: list[Json]) -> list[Json]:
        """Those made since the turn before, oldest first; remembers the newest time."""
        known = self._ref.get("files") or {}
        since, ids = str(known.get("since", "")), set(known.get("ids", []))
        made = [f for f in files if f.get("id") and f.get("downloadable") is not False]
        made.sort(key=_made_at)
        new = [f for f in made if _made_at(f) >= since and str(f["id"]) not in ids]
        if made:
            newest = max(since, _made_at(made[-1]))
            same = [str(f["id"]) for f in made if _made_at(f) == newest]
            self._ref["files"] = {"since": newest, "ids": same[-_MAX_FILES:]}
        return new


_HANDLERS: dict[str, Callable[[SessionFold, Json], Iterator[Event]]] = {
    "event_start": SessionFold._preview,
    "event_delta": SessionFold._delta,
    "agent.message": SessionFold._message,
    "agent.thinking": SessionFold._thinking,
    "agent.tool_use": SessionFold._tool_use,
    "agent.mcp_tool_use": SessionFold._tool_use,
    "agent.custom_tool_use": SessionFold._custom_tool_use,
    "agent.tool_result": SessionFold._tool_result,
    "agent.mcp_tool_result": SessionFold._tool_result,
    "session.error": SessionFold._session_error,
    "session.usage": SessionFold._usage_snapshot,
    "user.interrupt": SessionFold._interrupt,
    "session.status_rescheduled": SessionFold._rescheduled,
    "session.status_idle": SessionFold._idle,
    "session.status_terminated": SessionFold._terminated,
    "session.deleted": SessionFold._terminated,
}


def blocks_text(content: Any) -> str:
    """The text of content blocks; what is none is named."""
    if isinstance(content, str):
        return content
    return "".join(map(_block_text, objects(content)))


def _block_text(block: Json) -> str:
    if block.get("type") == "text":
        return str(block.get("text", ""))
    if block.get("type") == "search_result":
        source = f"{block.get('title', '')} {block.get('source', '')}".strip()
        return f"[{source}]\n{blocks_text(block.get('content'))}"
    return f"[{block.get('type', 'content')}]"


def _tool_name(body: Json) -> str:
    return str(body.get("name") or "a tool")


def _explained(body: Json) -> str:
    details = body.get("stop_details")
    return clean(str(details.get("explanation") or "")) if isinstance(details, Mapping) else ""


def _made_at(file: Json) -> str:
    return str(file.get("created_at", ""))


def _link(file: Json) -> FileLink:
    file_id = str(file["id"])
    return FileLink(
        id=f"file/{file_id}",
        file_id=file_id,
        name=plain_name(str(file.get("filename", "")), fallback=file_id),
        media_type=str(file.get("mime_type") or ""),
        url=f"v1/files/{segment(file_id, 'file')}/content",
    )


def _counts(usage: Json) -> dict[str, int]:
    """Counts of a session that only grow.  `list_cost` is in minor units of its currency, as a
    decimal string."""
    counts = {
        "input": whole(usage.get("input_tokens")),
        "output": whole(usage.get("output_tokens")),
    }
    cost = usage.get("list_cost")
    if isinstance(cost, Mapping) and cost.get("currency", "USD") == "USD":
        counts["cents"] = whole(cost.get("amount"))
    return counts
