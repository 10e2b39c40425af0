"""Folds what an ACP agent sends during a prompt into our events.  No I/O.

The protocol has no end of a message, only chunks: a message is over when its id changes or
something else comes.  Agents name their tools in different places, and tell a tool's input late.
Wire format: Agent Client Protocol 1, `session/update` and the answer to `session/prompt`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lap_runtimes.base import (
    Done,
    Event,
    Heartbeat,
    Message,
    MessageDelta,
    Progress,
    Question,
    Thinking,
    ThinkingDelta,
    ToolResult,
    ToolUse,
    Usage,
)
from lap_runtimes.content import Json, file_of, items, mapping
from lap_runtimes.http_errors import clean

_TYPES: Mapping[str, tuple[type[Any], type[Any]]] = {
    "agent_message_chunk": (MessageDelta, Message),
    "agent_thought_chunk": (ThinkingDelta, Thinking),
}
_ENDED = ("completed", "failed")
_STOPS = {
    "max_tokens": "the agent stopped: it reached its limit of tokens",
    "max_turn_requests": "the agent stopped: it reached its limit of model requests",
    "refusal": "the agent refused to go on",
}
"""Reasons to stop that are failures, in words."""
_DECISIONS = {
    "allow": ("allow_once", "allow_always"),
    "deny": ("reject_once", "reject_always"),
}
"""What an option may be to mean a decision; the one that decides least comes first."""


class PromptFold:
    """One prompt.  `spent` is what the session had cost when it began, in US dollars."""

    def __init__(self, turn_id: str, spent: float) -> None:
        self.spent = spent
        """What the session has cost by now, where the agent says so."""
        self._turn = turn_id
        self._spent_before = spent
        self._count = 0
        self._open: tuple[str, str, list[str]] | None = None
        """The kind of update of the open message, the agent's id for it, its texts."""
        self._tools: dict[str, dict[str, Any]] = {}
        """What is known of the tool calls that have not ended."""

    def feed(self, update: Any) -> list[Event]:
        """Events of one `session/update`."""
        body = mapping(update)
        kind = str(body.get("sessionUpdate", ""))
        if kind in _TYPES:
            return list(self._chunk(kind, body)) or [Heartbeat()]
        if kind == "tool_call":
            return [*self._close(), *self._tool(body)] or [Heartbeat()]
        if kind == "tool_call_update":
            return [*self._tool(body)] or [Heartbeat()]
        if kind == "plan":
            return [_plan(body)]
        if kind == "usage_update":
            cost = mapping(body.get("cost"))
            amount = cost.get("amount")
            if isinstance(amount, (int, float)) and cost.get("currency", "USD") == "USD":
                self.spent = float(amount)
        return [Heartbeat()]

    def before_question(self, tool_call: Any) -> list[Event]:
        """What has to be said before a permission is asked for: the tool, whole."""
        return [*self._close(), *self._tool(mapping(tool_call), now=True)]

    def end(self, result: Any) -> list[Event]:
        """Events of the answer to `session/prompt`."""
        body = mapping(result)
        events = [*self._close(), *self._forgotten_tools(), *self._usage(body)]
        reason = str(body.get("stopReason", "end_turn"))
        done = f"{self._turn}/done"
        if reason == "cancelled":
            return [*events, Done(id=done, outcome="cancelled")]
        if reason in _STOPS:
            error = _STOPS[reason]
            return [*events, Done(id=done, outcome="failed", error=error, error_kind="failed")]
        return [*events, Done(id=done, outcome="completed")]

    def fail(self, words: str, kind: str) -> list[Event]:
        """The agent answered the prompt with an error."""
        done = Done(id=f"{self._turn}/done", outcome="failed", error=words, error_kind=kind)
        return [*self._close(), *self._forgotten_tools(), done]

    # Messages

    def _chunk(self, kind: str, body: Json) -> Iterator[Event]:
        content = mapping(body.get("content"))
        if content.get("type") != "text":
            yield from self._close()
            yield from self._content(content)
            return
        text = str(content.get("text", ""))
        given = str(body.get("messageId") or "")
        if self._open is not None and (self._open[0] != kind or self._open[1] != given):
            yield from self._close()
        if not text:
            return
        if self._open is None:
            self._count += 1
            self._open = (kind, given, [])
        self._open[2].append(text)
        yield _TYPES[kind][0](message_id=self._message, text=text)

    @property
    def _message(self) -> str:
        return f"{self._turn}/m{self._count}"

    def _close(self) -> Iterator[Event]:
        if self._open is not None:
            kind, _, texts = self._open
            self._open = None
            message = self._message
            yield _TYPES[kind][1](id=message, message_id=message, text="".join(texts))

    def _content(self, content: Json) -> Iterator[Event]:
        """A picture, a sound or a resource; a link stays a link, in words."""
        self._count += 1
        event_id = f"{self._turn}/m{self._count}"
        if content.get("type") == "resource_link":
            text = f"{content.get('name') or 'file'}: {content.get('uri', '')}"
            yield Message(id=event_id, message_id=event_id, text=text)
            return
        file = file_of(content, event_id)
        if file is not None:
            yield file

    # Tools

    def _tool(self, body: Json, *, now: bool = False) -> Iterator[Event]:
        tool_id = str(body.get("toolCallId") or "")[:256]
        known = self._tools.setdefault(tool_id, {})
        known.update({key: value for key, value in body.items() if value is not None})
        status = known.get("status")
        if not known.get("said") and (now or known.get("rawInput") or status in _ENDED):
            known["said"] = True
            yield self._use(tool_id, known)
        if status in _ENDED:
            del self._tools[tool_id]
            yield ToolResult(
                id=f"{self._turn}/{tool_id}/result",
                tool_use_id=f"{self._turn}/{tool_id}",
                text=_output(known),
                is_error=status == "failed",
            )
            for place, content in enumerate(items(known.get("content"))):
                inner = mapping(content.get("content"))
                file = file_of(inner, f"{self._turn}/{tool_id}/file{place}")
                if file is not None:
                    yield file

    def _use(self, tool_id: str, known: Json) -> ToolUse:
        return ToolUse(
            id=f"{self._turn}/{tool_id}",
            tool_use_id=f"{self._turn}/{tool_id}",
            name=tool_name(known),
            input=dict(mapping(known.get("rawInput"))),
        )

    def _forgotten_tools(self) -> Iterator[Event]:
        """Tools that were named, and of which nothing came any more."""
        for tool_id, known in self._tools.items():
            if not known.get("said"):
                yield self._use(tool_id, known)
        self._tools = {}

    def _usage(self, body: Json) -> Iterator[Event]:
        used = mapping(body.get("usage"))
        counts = {key: value for key, value in used.items() if type(value) is int}
        cost = self.spent - self._spent_before if self.spent else None
        if counts or cost:
            yield Usage(
                id=f"{self._turn}/usage",
                input_tokens=counts.pop("inputTokens", 0),
                output_tokens=counts.pop("outputTokens", 0),
                cost_usd=cost if cost is None else max(0.0, cost),
                detail=counts,
            )


def tool_name(call: Json) -> str:
    meta = mapping(call.get("_meta"))
    name = meta.get("toolName") or mapping(meta.get("claudeCode")).get("toolName")
    return clean(str(name or call.get("title") or call.get("kind") or "tool"))[:200]


def _output(call: Json) -> str:
    """What a tool answered: its texts, its changes by path, else its raw output."""
    lines = []
    for each in items(call.get("content")):
        inner = mapping(each.get("content"))
        if each.get("type") == "diff":
            lines.append(f"changed {each.get('path', 'a file')}")
        elif inner.get("type") == "text":
            lines.append(str(inner.get("text", "")))
        elif inner.get("type") == "resource_link":
            lines.append(str(inner.get("uri", "")))
    raw = call.get("rawOutput")
    if lines or raw is None:
        return "\n".join(lines)
    return raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)


def _plan(body: Json) -> Progress:
    entries = items(body.get("entries"))
    done = sum(entry.get("status") == "completed" for entry in entries)
    now = next((e for e in entries if e.get("status") == "in_progress"), None)
    words = f": {clean(str(now.get('content', '')))[:200]}" if now else ""
    return Progress(text=f"plan: {done} of {len(entries)} steps done{words}")


# Permissions


def permission(params: Any, question_id: str) -> Question:
    """The question that `session/request_permission` is."""
    body = mapping(params)
    call = mapping(body.get("toolCall"))
    title = clean(str(call.get("title") or call.get("kind") or "a tool"))
    return Question(
        id=question_id,
        kind="approval",
        text=f"May it run {title}?",
        options=tuple(option_names(items(body.get("options")))),
        tool=tool_name(call),
        tool_input=dict(mapping(call.get("rawInput"))) or None,
    )


def option_names(options: list[Json]) -> list[str]:
    """What each option is called, made unique by its id."""
    names: list[str] = []
    for option in options:
        name = clean(str(option.get("name") or option.get("optionId") or "option"))
        names.append(name if name not in names else f"{name} ({option.get('optionId')})")
    return names


def chosen(params: Any, option: str | None, decision: str | None) -> str | None:
    """The id of the option that an answer means.  Raises `LookupError`: none does."""
    options = items(mapping(params).get("options"))
    if option is not None:
        return str(options[_index(option_names(options), option)].get("optionId"))
    for wanted in _DECISIONS.get(decision or "", ()):
        for each in options:
            if each.get("kind") == wanted:
                return str(each.get("optionId"))
    if decision == "deny":
        return None
    raise LookupError("no option that means it")


def _index(names: list[str], name: str) -> int:
    try:
        return names.index(name)
    except ValueError as exc:
        raise LookupError(name) from exc
