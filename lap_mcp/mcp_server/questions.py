"""Questions of an agent to a person: as an elicitation, and back from what the person did.

Only an explicit accept decides anything; decline and cancel leave the question open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import mcp.types as t
from pydantic import BaseModel

from lap_mcp.control.cleaning import clean_schema
from lap_mcp.control.services import NewAnswer
from lap_mcp.model import Agent, Question

from .text import clean, one_line
from .toolset import Caller

_WEB: Final = re.compile(r"https?://[^/?#@\\]+(?:[/?#]|$)", re.IGNORECASE)
_NO_ADDRESS: Final = frozenset(' "<>\\^`{|}')
_PRIMITIVE: Final = frozenset({"string", "number", "integer", "boolean"})
_KEYWORDS: Final = frozenset(
    {
        "type",
        "description",
        "enum",
        "default",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "format",
    }
)


def askable(caller: Caller, question: Question) -> bool:
    """Whether this client can put this question to a person."""
    if question.kind == "auth":
        return caller.elicit_url and bool(web_address(question))
    return caller.elicit_form


def elicitation(question: Question, agent: str) -> t.ElicitRequest:
    """The question as a form, or as an address to visit for `auth`.  The agent's words are
    cleaned and marked as its own; the schema has no root `title` (Codex refuses one)."""
    message = message_of(question, agent)
    url = web_address(question)
    if question.kind == "auth" and url:
        return t.ElicitRequest(
            params=t.ElicitRequestURLParams(message=message, url=url, elicitation_id=question.id)
        )
    return t.ElicitRequest(
        params=t.ElicitRequestFormParams(message=message, requested_schema=_form(question))
    )


def web_address(question: Question) -> str:
    """Where the agent wants the person to sign in: a plain http(s) address, which a browser opens
    and nothing else; empty, if it is anything else."""
    url = question.url or ""
    plain = url.isascii() and url.isprintable() and not set(url) & _NO_ADDRESS
    return url if plain and _WEB.match(url) and len(url) <= 2000 else ""


def message_of(question: Question, agent: str) -> str:
    """The question in words, at most about 2 kB."""
    lines = [f"Agent `{agent}` {_VERBS[question.kind]}: {clean(question.text)[:1200]}"]
    if question.tool:
        lines.append(f"Tool: {one_line(question.tool, 100)}")
    if question.tool_input:
        shown = json.dumps(question.tool_input, ensure_ascii=False, default=str)
        lines.append(f"Input: {one_line(shown, 700)}")
    return "\n".join(lines)


_VERBS: Final = {
    "approval": "asks for approval",
    "input": "asks",
    "tool_result": "wants the result of a tool",
    "auth": "needs you to sign in",
}


def _form(question: Question) -> dict[str, Any]:
    options = [clean(option) for option in question.options]
    choice = {"option": {"type": "string", "enum": options}} if options else {}
    if question.kind == "approval":
        decision = {"decision": {"type": "string", "enum": ["allow", "deny"]}}
        reason = {"reason": {"type": "string", "description": "For a denial, if you like."}}
        return _object({**decision, **choice, **reason}, ["decision"])
    if options:
        return _object(choice, ["option"])
    fields = _flat(question.schema) if question.kind == "input" else None
    if fields is not None:
        return fields
    return _object({"answer": {"type": "string"}}, ["answer"])


def _object(properties: dict[str, Any], required: Sequence[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _flat(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The question's schema where a form can show it: one level of plain values.  Cleaned; with
    a field whose name is no plain one, it is no form."""
    given = (schema or {}).get("properties")
    schema = clean_schema(schema) or {}
    properties = schema.get("properties")
    if not isinstance(given, Mapping) or not properties or len(properties) != len(given):
        return None
    fields: dict[str, Any] = {}
    for name, field in properties.items():
        if not isinstance(field, Mapping) or field.get("type") not in _PRIMITIVE:
            return None
        fields[name] = {key: value for key, value in field.items() if key in _KEYWORDS}
    return _object(fields, schema.get("required", ()))


def answer_of(question: Question, response: Any) -> NewAnswer | None:
    """What the person decided; `None`: nothing, the question stays open.

    `response` is an `ElicitResult`, as the SDK's type or as JSON from the wire."""
    if isinstance(response, BaseModel):
        response = response.model_dump(by_alias=True, mode="json")
    if not isinstance(response, Mapping) or response.get("action") != "accept":
        return None
    if question.kind == "auth":
        return NewAnswer(text="The person says that they have signed in.")
    content = response.get("content")
    return _from_form(question, content) if isinstance(content, Mapping) else None


def _from_form(question: Question, content: Mapping[str, Any]) -> NewAnswer | None:
    chosen = content.get("option")
    option = next((o for o in question.options if chosen in (o, clean(o))), None)
    if question.kind == "approval":
        decision = content.get("decision")
        reason = str(content.get("reason") or "")
        if decision == "allow" or decision == "deny":
            return NewAnswer(decision=decision, option=option, text=reason)
        return None
    if question.options:
        return NewAnswer(option=option) if option is not None else None
    if question.kind == "input" and _flat(question.schema) is not None:
        return NewAnswer(data=dict(content), text=json.dumps(dict(content), ensure_ascii=False))
    answer = content.get("answer")
    return NewAnswer(text=str(answer)) if answer not in (None, "") else None


def how_to_answer(question: Question, agent: Agent | None) -> str:
    """The question and what to do about it, for a client that cannot ask a person."""
    name = agent.name if agent else "?"
    lines = [f"Open question {question.id} ({question.kind}). {message_of(question, name)}"]
    if question.options:
        lines.append(f"Options: {' | '.join(one_line(option, 100) for option in question.options)}")
    if question.kind == "auth":
        url = web_address(question)
        where = f" at {url}" if url else ""
        then = f'lap-mcp questions answer {question.id} "done"'
        lines.append(f"A person has to sign in{where}, then: {then}")
    elif model_may_answer(question, agent):
        lines.append(f'Answer with answer_question (question "{question.id}").')
    else:
        verbs = f"lap-mcp questions allow {question.id} (or: deny)"
        lines.append(f"Only a person may decide this, in a terminal: {verbs}")
    return "\n".join(lines)


def model_may_answer(question: Question, agent: Agent | None) -> bool:
    """Inputs and tool results always; approvals where the agent's configuration says so; signing
    in never."""
    if question.kind in ("input", "tool_result"):
        return True
    return question.kind == "approval" and agent is not None and agent.model_may_answer
