"""What an n8n execution waits for, as our questions; answers, as its waits take them.  No I/O.

Captured from n8n 2.40.7: a Wait node that goes on "on webhook call" or "on form submission" has an
address made of the execution's id, with its `resumeToken` as signature; fields of a form are called
`field-0`, `field-1`, … in the order of its definition, and the workflow gets them by their labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lap_runtimes.base import Answer, Question
from lap_runtimes.errors import Rejected
from lap_runtimes.vendor_http import Json, mapping, mappings

_WAIT = "n8n-nodes-base.wait"
_TYPES = {"number": "number", "checkbox": "array"}


@dataclass(frozen=True, slots=True)
class Reply:
    """How an answer is sent: `path` below n8n's address, and its fields, as JSON or as a form."""

    method: str
    path: str
    fields: dict[str, Any]
    form: bool


def runs_of(found: Json) -> int:
    """How many runs of nodes an execution has had: tells one wait from the next."""
    results = mapping(mapping(found.get("data") or {}).get("resultData") or {})
    return sum(len(mappings(runs)) for runs in mapping(results.get("runData") or {}).values())


def waiting_node(found: Json) -> Json:
    results = mapping(mapping(found.get("data") or {}).get("resultData") or {})
    nodes = mappings(mapping(found.get("workflowData") or {}).get("nodes"))
    named = [node for node in nodes if node.get("name") == results.get("lastNodeExecuted")]
    return named[-1] if named else {}


def question(found: Json) -> tuple[Question, dict[str, Any]] | None:
    """What a waiting execution asks, and what its answer needs to know.  None: it waits for time to
    pass, or for somebody whom it asked elsewhere."""
    node = waiting_node(found)
    given = node.get("parameters")
    parameters = given if isinstance(given, Mapping) else {}
    resume = parameters.get("resume")
    if node.get("type") != _WAIT or resume not in ("webhook", "form"):
        return None
    options = parameters.get("options")
    suffix = options.get("webhookSuffix") if isinstance(options, Mapping) else None
    opened: dict[str, Any] = {"execution": str(found.get("id")), "runs": runs_of(found)}
    opened["suffix"] = str(suffix or "")
    question_id = f"{opened['execution']}/{opened['runs']}"
    if resume == "webhook":
        text = f"The workflow waits at {node.get('name')}."
        opened |= {"kind": "webhook", "method": str(parameters.get("httpMethod") or "GET")}
        return Question(id=question_id, kind="input", text=text), opened
    values = parameters.get("formFields")
    fields = mappings(values.get("values") if isinstance(values, Mapping) else None)
    words = [str(parameters[k]) for k in ("formTitle", "formDescription") if parameters.get(k)]
    opened |= {"kind": "form", "labels": [str(f.get("fieldLabel") or "") for f in fields]}
    choices = _choices(fields[0]) if len(fields) == 1 else []
    asked = Question(
        id=question_id,
        kind="input",
        text="\n".join(words) or f"The workflow waits for a form at {node.get('name')}.",
        options=choices,
        schema=_schema(fields),
    )
    return asked, opened


def _choices(field: Json) -> list[str]:
    values = field.get("fieldOptions")
    listed = mappings(values.get("values") if isinstance(values, Mapping) else None)
    return [str(each["option"]) for each in listed if each.get("option")]


def _schema(fields: list[Json]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for field in fields:
        label = str(field.get("fieldLabel") or "")
        if not label:
            continue
        kind = _TYPES.get(str(field.get("fieldType")), "string")
        properties[label] = {"type": kind}
        if _choices(field) and kind == "string":
            properties[label]["enum"] = _choices(field)
    required = [str(f["fieldLabel"]) for f in fields if f.get("requiredField")]
    return {"type": "object", "properties": properties, "required": required}


def reply(opened: Json, answer: Answer) -> Reply:
    """Raises `Rejected` for what a form cannot take."""
    suffix = f"/{opened['suffix']}" if opened.get("suffix") else ""
    if opened.get("kind") != "form":
        said = {"text": answer.option or answer.text, "decision": answer.decision}
        fields = {key: value for key, value in said.items() if value} | dict(answer.data or {})
        path = f"webhook-waiting/{opened['execution']}{suffix}"
        return Reply(str(opened["method"]), path, fields, form=False)
    labels = [str(label) for label in opened.get("labels") or ()]
    if answer.decision == "deny":
        raise Rejected("a form cannot be declined; cancel instead", kind="invalid", sent=False)
    values = dict(answer.data or {})
    if not values and labels and (answer.option or answer.text):
        values = {labels[0]: answer.option or answer.text}
    unknown = sorted(values.keys() - set(labels))
    if unknown or not values:
        words = f"the form has the fields {', '.join(labels)}"
        raise Rejected(f"{words}, not {', '.join(unknown) or 'none'}", kind="invalid", sent=False)
    fields = {f"field-{labels.index(label)}": value for label, value in values.items()}
    return Reply("POST", f"form-waiting/{opened['execution']}{suffix}", fields, form=True)
