"""Folds the events and items of an OpenAI Agents session into ours.  No I/O.

The stream is live only: what was missed comes from the list of items, which have the same ids.
Wire format: the types of the official `openai` SDK, `types/beta/agent_session_*`, `agents=v1`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

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
    ThinkingDelta,
    Usage,
)
from lap_runtimes.errors import Kind, Unavailable
from lap_runtimes.http_errors import clean, error_words
from lap_runtimes.managed import MAX_ID, kept_open, objects, whole
from lap_runtimes.openai_agents_items import item_events
from lap_runtimes.responses_items import Json, mapping

RESTS = ("idle", "requires_action", "failed", "budget_reached")
"""States in which a session waits for somebody."""
_ENDS: dict[str, Literal["completed", "failed", "cancelled"]] = {
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}
_KINDS: dict[str, Kind] = {
    "session_budget_exceeded": "rate_limited",
    "usage_limit_exceeded": "rate_limited",
    "project_spend_limit_exceeded": "rate_limited",
    "organization_spend_limit_exceeded": "rate_limited",
    "organization_usage_limit_exceeded": "rate_limited",
    "billing_not_active": "rate_limited",
    "credit_balance_exhausted": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "flex_unavailable": "overloaded",
    "server_overloaded": "overloaded",
    "authentication_error": "auth",
    "invalid_request": "invalid",
    "context_length_exceeded": "invalid",
    "resource_not_found": "not_found",
}


class AgentFold:
    """One turn of ours, which is one of the vendor's, or its part up to or after a question.

    `ref` holds `session`, `environment`, `turn` (ours), `vendor_turn` (theirs), `item` and
    `artifact` (the last ones given in earlier turns), `cents` (what the session had cost), after a
    stop `open` (id, kind and vendor's turn of each question), and in the turn that answers them
    `asked`, the same."""

    def __init__(self, ref: Json) -> None:
        self.finished = False
        self.turn_id = str(ref.get("turn", ""))
        self._ref = {key: value for key, value in ref.items() if key != "open"}
        self._before = "" if "asked" in ref else str(ref.get("vendor_turn") or "")
        """The vendor's turn that was over when this one began."""
        self._asked: Json = ref.get("asked") or {}
        self._started = bool(ref.get("session"))
        self._turn: Json = {}
        self._usage: Any = None
        self._given: set[str] = set()
        self._last_item = ""
        self._others: set[str] = set()
        """Turns of subagents."""
        self._open: dict[str, list[str]] = {}
        self._thoughts: dict[str, list[str]] = {}
        self._questions: dict[str, Any] = {}
        self._session: Json = {}

    @property
    def session_id(self) -> str:
        return str(self._ref.get("session") or "")

    @property
    def artifacts_after(self) -> str:
        return str(self._ref.get("artifact") or "")

    def started(self) -> Started:
        return Started(id=f"{self.turn_id}/started", ref=dict(self._ref))

    def feed(self, body: Json) -> list[Event]:
        kind = str(body.get("type", ""))
        if kind == "error":
            words = error_words(dict(body)) or "an error without words"
            raise Unavailable(f"the stream of the session broke: {words}", sent=True)
        handle = _HANDLERS.get(kind)
        if handle is None or self.finished or str(body.get("turn_id") or "") in self._others:
            return []
        return [*self._begun(body), *handle(self, body)]

    def feed_past(self, items: list[Json], session: Json, turn: Json) -> list[Event]:
        """What the lists say: items since the turn began, the session, its newest turn."""
        events = [event for item in items for event in self._item(item, whole=True)]
        if turn.get("id") and turn.get("id") != self._before:
            self._turn = turn
            self._usage = turn.get("usage")
        if session.get("status") in RESTS:
            events += self._rest({"session": session})
        return events

    def _begun(self, body: Json) -> Iterator[Event]:
        if self._started:
            return
        session = body.get("session")
        found = session.get("id") if isinstance(session, Mapping) else body.get("session_id")
        if not found:
            return
        self._started = True
        self._ref["session"] = str(found)[:MAX_ID]
        environment = session.get("environment") if isinstance(session, Mapping) else None
        if isinstance(environment, Mapping) and environment.get("id"):
            self._ref["environment"] = str(environment["id"])[:MAX_ID]
        yield self.started()

    # Events of the vendor

    def _created(self, body: Json) -> Iterator[Event]:
        yield from ()

    def _turn_event(self, body: Json) -> Iterator[Event]:
        turn = mapping(body.get("turn") or {})
        turn_id = str(turn.get("id") or body.get("turn_id") or "")
        if turn.get("subagent_id"):
            self._others.add(turn_id)
        elif turn_id and turn_id != self._before:
            self._turn = {"status": str(body["type"]).rpartition(".")[2], **turn}
            self._usage = body.get("usage") or turn.get("usage") or self._usage
        yield from ()

    def _text(self, body: Json) -> Iterator[Event]:
        item_id, text = str(body.get("item_id") or ""), str(body.get("delta") or "")
        if text and item_id not in self._given:
            self._open.setdefault(item_id, []).append(text)
            yield MessageDelta(message_id=item_id, text=text)

    def _reasoning(self, body: Json) -> Iterator[Event]:
        item_id, text = str(body.get("item_id") or ""), str(body.get("delta") or "")
        if text and item_id not in self._given:
            self._thoughts.setdefault(item_id, []).append(text)
            yield ThinkingDelta(message_id=item_id, text=text)

    def _item_done(self, body: Json) -> Iterator[Event]:
        yield from self._item(mapping(body.get("item") or {}))

    def _environment(self, body: Json) -> Iterator[Event]:
        yield Progress(text=f"environment {str(body['type']).rpartition('.')[2]}")

    def _rest(self, body: Json) -> Iterator[Event]:
        """The session waits: for an answer, for a prompt, or for good."""
        session = mapping(body.get("session") or {})
        status = str(session.get("status") or str(body.get("type", "")).rpartition(".")[2])
        if status == "requires_action":
            waits = list(_actions(session))
            if not waits:
                yield from _elsewhere(session)
                return
            if {question.id for question, _ in waits} <= self._asked.keys():
                return  # Between two of our answers, which arrive one by one.
            self._session, self.finished = session, True
            for question, kept in waits:
                self._questions[question.id] = kept
                yield Asked(id=f"{question.id}/asked", question=question)
        elif status != "idle" or self._turn.get("status") in _ENDS:
            self._session, self.finished = session, True

    # What they amount to

    def _item(self, item: Json, *, whole: bool = False) -> Iterator[Event]:
        item_id = str(item.get("id") or "")
        unfinished = whole and item.get("status") == "in_progress"
        earlier = self._before and item.get("turn_id") == self._before
        if not item_id or item_id in self._given or unfinished or earlier:
            return
        self._given.add(item_id)
        self._last_item = item_id
        thought = self._thoughts.pop(item_id, [])
        streamed = "".join(self._open.pop(item_id, thought))
        yield from item_events(item, item_id, streamed)

    def end(self, artifacts: list[Json], links: list[Event]) -> Iterator[Event]:
        """After the last event; `links` are the files that the artifacts name."""
        for message_id, texts in self._open.items():
            yield Message(id=message_id, message_id=message_id, text="".join(texts))
        for message_id, texts in self._thoughts.items():
            yield Thinking(id=message_id, message_id=message_id, text="".join(texts))
        yield from links
        if artifacts:
            self._ref["artifact"] = str(artifacts[-1].get("id"))[:MAX_ID]
        cents = _cents(self._session)
        if isinstance(self._usage, Mapping):
            before = whole(self._ref.get("cents"))
            counts = {k: v for k, v in self._usage.items() if not k.endswith("put_tokens")}
            yield Usage(
                id=f"{self.turn_id}/usage",
                input_tokens=whole(self._usage.get("input_tokens")),
                output_tokens=whole(self._usage.get("output_tokens")),
                cost_usd=None if cents is None else max(0, cents - before) / 100,
                detail=counts,
            )
        if cents is not None:
            self._ref["cents"] = cents
        yield self._done()

    def _done(self) -> Done:
        status = str(self._session.get("status") or "idle")
        ref = {key: value for key, value in self._ref.items() if key != "asked"}
        turn = str(self._turn.get("id") or self._ref.get("vendor_turn") or "")
        ref["vendor_turn"] = turn[:MAX_ID]
        ref["item"] = (self._last_item or str(self._ref.get("item") or ""))[:MAX_ID]
        done = f"{self.turn_id}/done"
        if self._questions:
            ref["open"] = kept_open(self._questions)
            return Done(id=done, outcome="requires_action", ref=ref)
        gone = status == "failed"
        outcome = _ENDS.get(str(self._turn.get("status")), "failed")
        if status in ("failed", "budget_reached") and outcome != "cancelled":
            outcome = "failed"
        if outcome != "failed":
            return Done(id=done, outcome=outcome, ref=ref, session_gone=gone)
        words, kind = self._failure(status)
        return Done(
            id=done, outcome="failed", error=words, error_kind=kind, session_gone=gone, ref=ref
        )

    def _failure(self, status: str) -> tuple[str, Kind]:
        error = self._turn.get("error")
        if isinstance(error, Mapping):
            words = clean(error_words(dict(error)) or str(error.get("code", "")))
            return words or "it failed", _KINDS.get(str(error.get("code")), "failed")
        if status == "budget_reached":
            return "the spending limit of the session is reached", "rate_limited"
        return clean(str(self._session.get("error") or "it failed without a word")), "failed"


_ENVIRONMENT = ("pending", "ready", "connected", "disconnected", "failed", "suspended", "reset")
_TURN = ("created", "in_progress", "completed", "failed", "cancelled")
_HANDLERS: dict[str, Callable[[AgentFold, Json], Iterator[Event]]] = {
    "agent.session.created": AgentFold._created,
    "agent.session.in_progress": AgentFold._created,
    "agent.session.turn.output_text.delta": AgentFold._text,
    "agent.session.turn.reasoning_summary_text.delta": AgentFold._reasoning,
    "agent.session.turn.item.done": AgentFold._item_done,
    **{f"agent.session.{name}": AgentFold._rest for name in RESTS},
    **{f"agent.session.turn.{name}": AgentFold._turn_event for name in _TURN},
    **{f"agent.session.environment.{name}": AgentFold._environment for name in _ENVIRONMENT},
}


def _actions(session: Json) -> Iterator[tuple[Question, list[str]]]:
    """Each thing that the session waits for: as a question, and what its answer needs."""
    for action in objects(session.get("required_actions")):
        kind, turn = str(action.get("type", "")), str(action.get("turn_id") or "")
        asked = action.get("request")
        request = asked if isinstance(asked, Mapping) else {}
        if kind == "function_call":
            name = str(action.get("name") or "a tool")
            text = f"The agent asks for the result of {name}."
            call = str(action.get("call_id") or "")
            given = _arguments(action.get("arguments"))
            question = Question(id=call, kind="tool_result", text=text, tool=name, tool_input=given)
            yield question, [kind, turn]
        elif kind == "mcp_approval_request":
            yield _approval(action, request), [kind, turn]
        elif kind == "computer_use_approval_request":
            yield _browser(action, request), [str(request.get("type", kind)), turn]


def _elsewhere(session: Json) -> Iterator[Event]:
    """What the session waits for and no answer gives: that its environment is connected."""
    waits = [str(a.get("type", "")) for a in objects(session.get("required_actions"))]
    if waits:
        yield Progress(text=f"waits for {', '.join(waits)}".replace("_", " "))


def _approval(action: Json, request: Json) -> Question:
    name = str(request.get("name") or "a tool")
    label = str(request.get("server_label") or "")
    where = f" of the MCP server {label}" if label else ""
    return Question(
        id=str(action.get("request_id") or ""),
        kind="approval",
        text=str(request.get("message") or f"May the agent use {name}{where}?"),
        tool=name,
        tool_input=_arguments(request.get("arguments")),
    )


def _browser(action: Json, request: Json) -> Question:
    reason = str(request.get("reason") or "")
    if request.get("type") == "browser_origin_access":
        kind: Literal["approval", "auth"] = "approval"
        text = f"May the agent's browser go to {request.get('origin')}?"
    else:
        kind = "auth"
        text = f"The agent's browser wants to sign in at {request.get('credential_origin')}."
    return Question(
        id=str(action.get("request_id") or ""), kind=kind, text=f"{text} {reason}".strip()
    )


def _arguments(value: Any) -> Json | None:
    return value if isinstance(value, Mapping) else None if value is None else {"input": value}


def _cents(session: Json) -> int | None:
    control = session.get("spend_control")
    consumed = control.get("consumed") if isinstance(control, Mapping) else None
    return consumed if isinstance(consumed, int) else None
