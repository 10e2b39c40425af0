"""MCP's elicitation, which ACP shares, as questions and back: forms are questions of kind `input`,
addresses where a person signs in of kind `auth`.  No I/O.

Wire format: MCP 2025-11-25 and 2026-07-28, `elicitation/create`; ACP 1, the same method.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lap_runtimes.base import Answer, Question
from lap_runtimes.errors import Rejected

_TRUE = ("true", "yes", "y", "1", "on")
_FALSE = ("false", "no", "n", "0", "off")


def question_of(params: Mapping[str, Any], question_id: str) -> Question:
    text = str(params.get("message") or "The agent asks for something.")
    url = params.get("url")
    if params.get("mode") == "url" or isinstance(url, str):
        return Question(id=question_id, kind="auth", text=text, url=str(url or ""))
    schema = params.get("requestedSchema")
    return Question(
        id=question_id,
        kind="input",
        text=text,
        schema=dict(schema) if isinstance(schema, Mapping) else None,
    )


def result_of(question: Question, answer: Answer) -> dict[str, Any]:
    """The answer on the wire.  Raises `Rejected`, unsent, where it does not fit the form."""
    if answer.decision == "deny":
        return {"action": "decline"}
    if question.kind == "auth":
        return {"action": "accept"}
    if answer.data is not None:
        return {"action": "accept", "content": dict(answer.data)}
    return {"action": "accept", "content": _content(question, answer.option or answer.text)}


def _content(question: Question, text: str) -> dict[str, Any]:
    """A text as the one field that the form has, or that it must have."""
    schema = question.schema or {}
    properties = schema.get("properties")
    fields = list(properties) if isinstance(properties, Mapping) else []
    if not fields:
        return {}
    needed = [name for name in schema.get("required") or () if name in fields]
    name = fields[0] if len(fields) == 1 else needed[0] if len(needed) == 1 else None
    if name is None:
        raise Rejected(
            f"the form has several fields: answer with data for {', '.join(fields)}",
            kind="invalid",
            sent=False,
        )
    shape = properties[name] if isinstance(properties, Mapping) else {}
    return {name: _typed(text, name, shape.get("type") if isinstance(shape, Mapping) else None)}


def _typed(text: str, name: str, type_: Any) -> Any:
    word = text.strip()
    try:
        if type_ == "integer":
            return int(word)
        if type_ == "number":
            return float(word)
        if type_ == "boolean":
            if word.lower() not in (*_TRUE, *_FALSE):
                raise ValueError
            return word.lower() in _TRUE
    except ValueError as exc:
        words = f"{name} has to be of type {type_}, which {word[:80]!r} is not"
        raise Rejected(words, kind="invalid", sent=False) from exc
    return text
