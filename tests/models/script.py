"""What the scripted model is to say: a list of steps, and which of them is next.  No wire formats.

A script stands in the prompt, so one server plays any number of conversations and needs no state:

    do as told %%[{"tool": "code_interpreter", "args": {"code": "1+1"}}, {"text": "it is two"}]%%

A step has `text` and/or `tool` with `args`.  In `args` and `text`, `<<REGEX>>` is replaced by the
last match in what earlier tools answered, so that a step can go on with an id it was told.  A step
with `until` repeats its call until what the tool answered matches that regular expression.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

MARKED = re.compile(r"%%(\[.*?\])%%", re.DOTALL)
HOLE = re.compile(r"<<(.+?)>>")
CALL_ID = re.compile(r"^call_(\d+)_")
MOST_REPEATS = 100


class ScriptError(Exception):
    """The script cannot be played; the message says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool that the harness offered to the model."""

    name: str
    """As the model sees it, without a namespace."""
    namespace: str = ""
    description: str = ""
    schema: Mapping[str, Any] = field(default_factory=dict)

    def is_called(self, name: str) -> bool:
        """`name` is its whole name, or its name without the harness's prefix for our server."""
        return name in (self.name, f"{self.namespace}__{self.name}") or self.name.endswith(
            f"__{name}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What the harness told the model that a call answered."""

    call_id: str
    text: str
    images: Sequence[bytes] = ()
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One request as a model sees it."""

    system: str
    prompts: Sequence[str]
    """What people (and the harness in their name) said, in order."""
    tools: Sequence[Tool]
    results: Sequence[ToolResult]
    """Of every call so far, in order."""

    def tool(self, name: str) -> Tool | None:
        return next((tool for tool in self.tools if tool.is_called(name)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    id: str
    tool: Tool
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """What the model answers to one request."""

    text: str = ""
    calls: Sequence[Call] = ()
    repeats: bool = False
    """It said the same before and did not hear yet what it waits for."""


def answer(shown: Shown) -> Say:
    """The next step of the script that the newest prompt carries; a request without tools or
    without a script (a title, a quota check) gets two words.

    Raises:
        ScriptError
    """
    steps = _steps(shown.prompts)
    if not steps or not shown.tools:
        return Say(text="A title")
    position, repeats = _position(steps, shown.results)
    if position >= len(steps):
        raise ScriptError(f"the script has {len(steps)} steps and the harness asks for more")
    return replace(_say(steps[position], position, shown), repeats=repeats)


def _steps(prompts: Sequence[str]) -> Sequence[Mapping[str, Any]]:
    for prompt in reversed(prompts):
        if found := MARKED.findall(prompt):
            try:
                steps: list[Mapping[str, Any]] = json.loads(found[-1])
            except ValueError as error:
                raise ScriptError(f"the script is not JSON: {error}: {found[-1]}") from None
            return steps
    return ()


def _position(
    steps: Sequence[Mapping[str, Any]], results: Sequence[ToolResult]
) -> tuple[int, bool]:
    """Which step is next, and whether it was played before.  The ids of our calls tell."""
    ours = [r for r in results if CALL_ID.match(r.call_id)]
    if not ours:
        return 0, False
    last = ours[-1]
    number = _number(last)
    until = steps[number].get("until")
    if until is None or re.search(until, last.text):
        return number + 1, False
    if sum(_number(r) == number for r in ours) >= MOST_REPEATS:
        raise ScriptError(f"{MOST_REPEATS} answers and none matches {until!r}: {last.text}")
    return number, True


def _number(result: ToolResult) -> int:
    found = CALL_ID.match(result.call_id)
    assert found is not None
    return int(found[1])


def _say(step: Mapping[str, Any], position: int, shown: Shown) -> Say:
    heard = "\n".join(r.text for r in shown.results)
    calls: tuple[Call, ...] = ()
    if name := step.get("tool"):
        tool = shown.tool(name)
        if tool is None:
            offered = ", ".join(t.name for t in shown.tools)
            raise ScriptError(f"step {position} calls {name}, which is not offered: {offered}")
        args = _filled(step.get("args", {}), heard)
        calls = (Call(id=f"call_{position}_{uuid.uuid4().hex[:12]}", tool=tool, args=args),)
    return Say(text=_filled(step.get("text", ""), heard), calls=calls)


def _filled(value: Any, heard: str) -> Any:
    match value:
        case str():
            return HOLE.sub(lambda hole: _last(hole[1], heard), value)
        case dict():
            return {key: _filled(inner, heard) for key, inner in value.items()}
        case list():
            return [_filled(inner, heard) for inner in value]
        case _:
            return value


def _last(pattern: str, heard: str) -> str:
    found = list(re.finditer(pattern, heard))
    if not found:
        raise ScriptError(f"no tool answered anything that matches {pattern!r}")
    return found[-1][0]
