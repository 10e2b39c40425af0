"""What a LangGraph graph asks by `interrupt(value)`, and what it is resumed with.  No I/O.

The value is the graph's own affair.  Two shapes are known: that of LangChain 1's human-in-the-loop
middleware (`action_requests`), and that of its forerunner (`action_request`), both of which ask for
approvals; anything else asks for input.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lap_runtimes.base import MAX_REF_BYTES, Answer, Answers, Question, Ref
from lap_runtimes.errors import ProtocolError, Rejected

MAX_OPEN = 32
_MAX_TEXT = 128
_MAX_KEPT = MAX_REF_BYTES - 1024
_WORDS = ("question", "message", "text", "description", "prompt", "query", "title")
Json = Mapping[str, Any]


def questions(interrupt_id: str, value: Any, schema: Any) -> tuple[list[Question], list[Any]]:
    """The questions of one interrupt, and its entry in the ref: `[id, shape, names]`."""
    actions = _actions(value)
    if actions is not None:
        shape, requests = actions
        asked = [
            Question(
                id=f"{interrupt_id}/{number}",
                kind="approval",
                text=str(each.get("description") or f"May the agent use {_name(each)}?"),
                tool=_name(each),
                tool_input=_arguments(each),
            )
            for number, each in enumerate(requests)
        ]
        return asked, [interrupt_id, shape, [_name(each) for each in requests]]
    offered = value.get("options") if isinstance(value, Mapping) else None
    known = isinstance(offered, list) and all(isinstance(each, str) for each in offered)
    question = Question(
        id=interrupt_id,
        kind="input",
        text=_words(value),
        options=tuple(offered) if known and offered else (),
        schema=schema if isinstance(schema, Mapping) else None,
    )
    return [question], [interrupt_id, "input", []]


def _actions(value: Any) -> tuple[str, list[Json]] | None:
    if isinstance(value, Mapping) and isinstance(value.get("action_requests"), list):
        return "decisions", [each for each in value["action_requests"] if isinstance(each, Mapping)]
    listed = value if isinstance(value, list) else [value]
    if listed and all(
        isinstance(each, Mapping) and isinstance(each.get("action_request"), Mapping)
        for each in listed
    ):
        about: list[Json] = [
            {"description": each.get("description"), **each["action_request"]} for each in listed
        ]
        return "responses", about
    return None


def _name(action: Json) -> str:
    return str(action.get("name") or action.get("action") or "a tool")[:_MAX_TEXT]


def _arguments(action: Json) -> Json:
    found = action.get("args", action.get("arguments"))
    return found if isinstance(found, Mapping) else {}


def _words(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        for name in _WORDS:
            if isinstance(value.get(name), str) and value[name]:
                return str(value[name])
    return json.dumps(value, ensure_ascii=False)


def checked(opened: list[list[Any]]) -> list[list[Any]]:
    """Raises `ProtocolError` for more than fits into a ref."""
    if len(opened) > MAX_OPEN or len(json.dumps(opened)) > _MAX_KEPT:
        raise ProtocolError("the graph asks more at once than can be answered")
    return opened


def resumed(answers: Answers, ref: Ref) -> Any:
    """What `command.resume` is for these answers.  Raises `Rejected` where one is missing."""
    opened = [list(each) for each in ref.get("open", ())]
    given = {answer.question_id: answer for answer in answers.answers}
    asked = {name for each in opened for name in _asked(each)}
    if not opened or asked != set(given):
        listed = ", ".join(sorted(asked)) or "none"
        raise Rejected(
            f"all open questions are answered at once; open are: {listed}",
            kind="invalid",
            sent=False,
        )
    values = {str(each[0]): _value(each, given) for each in opened}
    # Several are told apart by their ids; servers of before 2025 know one value only.
    return values if len(values) > 1 else next(iter(values.values()))


def _asked(entry: list[Any]) -> Iterator[str]:
    interrupt_id, shape, names = entry
    if shape == "input":
        yield str(interrupt_id)
    else:
        yield from (f"{interrupt_id}/{number}" for number in range(len(names)))


def _value(entry: list[Any], given: Mapping[str, Answer]) -> Any:
    answers = [given[each] for each in _asked(entry)]
    _, shape, names = entry
    if shape == "decisions":
        made = [_decision(answer, name) for answer, name in zip(answers, names, strict=True)]
        return {"decisions": made}
    if shape == "responses":
        return [_response(answer, name) for answer, name in zip(answers, names, strict=True)]
    (answer,) = answers
    if answer.decision == "deny":
        return f"The question was declined. {answer.text}".strip()
    if answer.data is not None:
        return dict(answer.data)
    return answer.option or answer.text or answer.decision or ""


def _decision(answer: Answer, name: str) -> dict[str, Any]:
    """LangChain 1, `HumanInTheLoopMiddleware`.  Data with an approval are the arguments to use."""
    if answer.decision != "allow":
        return {"type": "reject", **({"message": answer.text} if answer.text else {})}
    if answer.data is not None:
        return {"type": "edit", "edited_action": {"name": name, "args": dict(answer.data)}}
    return {"type": "approve"}


def _response(answer: Answer, name: str) -> dict[str, Any]:
    """Its forerunner, `HumanInterrupt`."""
    if answer.decision != "allow":
        if answer.text:
            return {"type": "response", "args": answer.text}
        return {"type": "ignore", "args": None}
    if answer.data is not None:
        return {"type": "edit", "args": {"action": name, "args": dict(answer.data)}}
    return {"type": "accept", "args": None}
