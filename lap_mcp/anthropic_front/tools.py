"""The code execution tool of a request: what the client asked for, and what the upstream gets in
its place.  Pure.

`code_execution_20250522` is Python; `…_20250825` bash and a text editor; later ones all three, with
an interpreter that keeps its state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lap_mcp.front_parts.wire import Json, bad, mapping, sequence

from .wire import BASH, EDITOR, OURS, PYTHON

_WHERE: Final = (
    "It runs in an isolated sandbox without network: nothing can be downloaded or installed. Files "
    "of the user are in /mnt/data; write files for the user there too. Files stay between calls."
)
DESCRIPTIONS: Final = {
    PYTHON: "Runs Python and shows standard output, standard error and the value of the last "
    "expression. Variables and imports stay between calls. numpy, pandas and matplotlib are "
    f"installed; show a figure with plt.show(). {_WHERE}",
    BASH: f"Runs a command with bash in /mnt/data. Python is `python3`. {_WHERE}",
    EDITOR: "Views, creates and changes text files. `view`: a file (view_range: first and last "
    "line, -1 for the end) or a folder. `create`: file_text. `str_replace`: old_str, which has to "
    f"occur exactly once, by new_str. `insert`: insert_text after line insert_line. {_WHERE}",
}
_TEXT: Final[Json] = {"type": "string"}
SCHEMAS: Final[Mapping[str, Json]] = {
    PYTHON: {"type": "object", "properties": {"code": _TEXT}, "required": ["code"]},
    BASH: {"type": "object", "properties": {"command": _TEXT}, "required": ["command"]},
    EDITOR: {
        "type": "object",
        "properties": {
            "command": {"type": "string", "enum": ["view", "create", "str_replace", "insert"]},
            "path": _TEXT,
            "view_range": {"type": "array", "items": {"type": "integer"}},
            "file_text": _TEXT,
            "old_str": _TEXT,
            "new_str": _TEXT,
            "insert_line": {"type": "integer"},
            "insert_text": _TEXT,
        },
        "required": ["command", "path"],
    },
}
_PREFIX: Final = "code_execution_"
_PARTS: Final = {"code_execution_20250522": (PYTHON,), "code_execution_20250825": (BASH, EDITOR)}
_KEPT: Final = ("cache_control", "defer_loading", "strict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a request asks of us."""

    body: Json
    names: Sequence[str]
    """Our tools that the model may call; empty: it may run nothing."""
    tools: Sequence[Any]
    """As the upstream gets them."""
    container_id: str | None
    stream: bool
    replays: bool
    """Its messages hold blocks of ours, which no upstream knows."""

    @property
    def ours(self) -> bool:
        return bool(self.names) or self.replays or self.container_id is not None

    def asked(self, messages: Sequence[Any], model: str, *, first: bool) -> Json:
        """The body of one question."""
        body = {key: value for key, value in self.body.items() if key != "container"}
        body |= {"model": model, "messages": list(messages)}
        tools, choice = list(self.tools), body.get("tool_choice")
        if self.replays and not tools:
            # Calls in the messages need their tools beside them.
            tools = [definition(name) for name in OURS]
            choice = {"type": "none"}
        if tools:
            body["tools"] = tools
        if (choice := self._choice(mapping(choice), first=first)) is not None:
            body["tool_choice"] = choice
        return body

    def _choice(self, choice: Json, *, first: bool) -> Json | None:
        if not choice:
            return None
        forced = choice.get("type") in ("any", "tool")
        if forced and not first:
            # What forces a call would force one for ever.
            kept = choice.get("disable_parallel_tool_use")
            return {"type": "auto"} if kept is None else _auto(kept)
        if choice.get("name") == PYTHON and self.names and PYTHON not in self.names:
            return {**choice, "name": BASH}
        return choice


def _auto(parallel: Any) -> Json:
    return {"type": "auto", "disable_parallel_tool_use": parallel}


def plan_of(body: Json) -> Plan:
    """Raises: ApiError."""
    names: list[str] = []
    tools: list[Any] = []
    for number, tool in enumerate(sequence(body.get("tools"))):
        found = mapping(tool)
        _refuse_programs(found, number)
        kind = found.get("type")
        if not (isinstance(kind, str) and kind.startswith(_PREFIX)):
            tools.append(tool)
            continue
        parts = [name for name in _PARTS.get(kind, OURS) if name not in names]
        names += parts
        made = [definition(name) for name in parts]
        for each in made:
            each |= {key: found[key] for key in _KEPT[1:] if key in found}
        if made and "cache_control" in found:
            made[-1]["cache_control"] = found["cache_control"]
        tools += made
    return Plan(
        body=body,
        names=names,
        tools=tools,
        container_id=_container(body.get("container")),
        stream=body.get("stream") is True,
        replays=_replays(body),
    )


def definition(name: str) -> Json:
    return {"name": name, "description": DESCRIPTIONS[name], "input_schema": SCHEMAS[name]}


def _refuse_programs(tool: Json, number: int) -> None:
    callers = tool.get("allowed_callers")
    if callers is not None and callers != ["direct"]:
        raise bad(
            f"tools.{number}.allowed_callers: code in the sandbox cannot call tools here; only "
            '["direct"] is served.'
        )


def _container(given: Any) -> str | None:
    value = given
    if isinstance(given, dict):
        if given.get("skills"):
            raise bad("container.skills: skills are not served here.")
        value = given.get("id")
    if value is not None and not isinstance(value, str):
        raise bad("container has to be the id of a container.")
    return value or None


def _replays(body: Json) -> bool:
    return any(
        mapping(block).get("type") == "container_upload"
        or (mapping(block).get("type") == "server_tool_use" and mapping(block).get("name") in OURS)
        for message in sequence(body.get("messages"))
        for block in sequence(mapping(message).get("content"))
    )
