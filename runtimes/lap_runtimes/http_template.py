"""The small language of the `http` kind: `${variables}` in requests, dotted paths and predicates on
answers.  No I/O; what is written wrongly is found when the configuration is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

VARIABLES = (
    "prompt",
    "input",
    "messages",
    "agent",
    "session_id",
    "session_uuid",
    "turn_id",
    "turn_uuid",
    "nested",
)
"""`input` is the structured input (an object); `messages` the whole conversation as a list of
{role, content}; `nested` a key with which the agent may call our server while the turn runs;
`…_uuid` the same ids in the form of a UUID.  `ref.NAME` is what `answer.ref` kept.
Alone in its string, a variable stands for the value itself; else for its text."""

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_STEP = re.compile(r"@?[A-Za-z_][\w-]*|\d+")
_OF_A_FRAME = ("@event", "@id", "@data", "@header")


def variables_in(template: Any) -> Iterator[str]:
    """Every variable that a template of JSON values names."""
    if isinstance(template, str):
        yield from _VARIABLE.findall(template)
    elif isinstance(template, Mapping):
        for key, value in template.items():
            yield from _VARIABLE.findall(str(key))
            yield from variables_in(value)
    elif isinstance(template, (list, tuple)):
        for value in template:
            yield from variables_in(value)


def check_variables(where: str, template: Any, refs: Mapping[str, str]) -> None:
    """Raises `ValueError` naming the key, the variable and the known ones."""
    for name in variables_in(template):
        kind, dot, rest = name.partition(".")
        if name in VARIABLES or (dot and kind == "ref" and rest in refs):
            continue
        known = [*VARIABLES, *(f"ref.{each}" for each in refs)]
        listed = ", ".join(f"${{{each}}}" for each in known)
        raise ValueError(f"{where}: there is no variable ${{{name}}}; known are {listed}")


def filled(template: Any, values: Mapping[str, Any]) -> Any:
    """The template with its variables replaced."""
    if isinstance(template, str):
        alone = _VARIABLE.fullmatch(template)
        if alone:
            return values.get(alone.group(1))
        return _VARIABLE.sub(lambda found: as_text(values.get(found.group(1))), template)
    if isinstance(template, Mapping):
        return {
            _VARIABLE.sub(lambda found: as_text(values.get(found.group(1))), str(key)): filled(
                value, values
            )
            for key, value in template.items()
        }
    if isinstance(template, (list, tuple)):
        return [filled(value, values) for value in template]
    return template


def filled_path(template: str, values: Mapping[str, Any]) -> str:
    """An address with its variables percent-encoded, so that none adds a segment or a query."""
    return _VARIABLE.sub(
        lambda found: quote(as_text(values.get(found.group(1))), safe="").replace("..", "%2E%2E"),
        template,
    )


def as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Path:
    """`a.b.0.c`: steps into objects and lists.  `.` is the whole answer, `@data` its raw text,
    `@event` and `@id` those of a server-sent event, `@header.NAME` a response header."""

    steps: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Path:
        """Raises `ValueError`."""
        if text == ".":
            return cls(())
        steps = tuple(text.split("."))
        wrong = next((step for step in steps if not _STEP.fullmatch(step)), None)
        if wrong is not None:
            raise ValueError(f"{text!r} is not a path like data.items.0.text")
        if steps[0].startswith("@") and steps[0] not in _OF_A_FRAME:
            raise ValueError(f"{steps[0]} is none of {', '.join(_OF_A_FRAME)}")
        return cls(steps)

    def find(self, answer: Answer) -> Any:
        """The value, or None where there is none."""
        steps = self.steps
        if steps[:1] == ("@header",):
            return answer.headers.get(".".join(steps[1:]).lower())
        if steps and steps[0].startswith("@"):
            return {"@event": answer.event, "@id": answer.id, "@data": answer.data}[steps[0]]
        value = answer.value
        for step in steps:
            if isinstance(value, Mapping):
                value = value.get(step)
            elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
                value = value[int(step)]
            else:
                return None
        return value


@dataclass(frozen=True, slots=True)
class Predicate:
    """`path` holds where it finds something that is not false or empty; `path=value` where it finds
    that value; `path!=value` where it finds another, or none."""

    path: Path
    value: str | None = None
    negated: bool = False

    @classmethod
    def parse(cls, text: str) -> Predicate:
        """Raises `ValueError`."""
        path, sign, value = text.partition("=")
        negated = sign == "=" and path.endswith("!")
        return cls(Path.parse(path.rstrip("! ").strip()), value.strip() if sign else None, negated)

    def holds(self, answer: Answer) -> bool:
        found = self.path.find(answer)
        if self.value is None:
            return bool(found)
        return (as_text(found) == self.value) != self.negated


@dataclass(frozen=True, slots=True)
class Answer:
    """One JSON body or stream event, as paths look at it."""

    data: str
    event: str = ""
    id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    value: Any = None

    @classmethod
    def read(cls, data: str, headers: Mapping[str, str], event: str = "", id: str = "") -> Answer:
        """Text that is not JSON has no value, only `@data`."""
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        return cls(data, event, id, headers, value)
