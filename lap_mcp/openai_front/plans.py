"""A client's request, read: what of it is ours, and what goes upstream in each round.  Pure.

What is not ours is neither looked at nor changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .tool import as_chat_tool, as_responses_tool, free_name, names_of
from .wire import INTERPRETER, Json, bad, mapping, sequence

MEMORY_TIERS: Final[Mapping[str, int]] = {
    tier: int(tier[:-1]) * 1024**3 for tier in ("1g", "4g", "16g", "64g")
}
OUTPUTS: Final = "code_interpreter_call.outputs"
ENCRYPTED: Final = "reasoning.encrypted_content"
_CONTAINER: Final = re.compile(r"cntr_[0-9A-Za-z]{1,80}")
_OURS: Final = frozenset({"background", "stream_options", "max_tool_calls"})
"""Fields of a Responses request that are kept here and not sent on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerWish:
    """What the client wants its code to run in."""

    id: str | None = None
    """A container by name; else one is found or made (`auto`)."""
    file_ids: tuple[str, ...] = ()
    memory: str = "1g"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A request, and what of it is ours."""

    body: Mapping[str, Any]
    """As the client wrote it."""
    tool: Mapping[str, Any] | None = None
    """The client's interpreter tool; `None`: it wants none."""
    name: str = ""
    """What the interpreter is called upstream."""
    container: ContainerWish = field(default_factory=ContainerWish)
    max_calls: int | None = None

    @property
    def include(self) -> Sequence[Any]:
        return sequence(self.body.get("include"))

    @property
    def stored(self) -> bool:
        return self.body.get("store") is not False

    @property
    def stream(self) -> bool:
        return self.body.get("stream") is True


def is_interpreter(tool: Any) -> bool:
    return isinstance(tool, Mapping) and tool.get("type") == INTERPRETER


def plan_of(body: Mapping[str, Any]) -> Plan:
    """Raises: ApiError, for an interpreter tool that is wrong or wants what is not to be had."""
    tools = sequence(body.get("tools"))
    ours = [tool for tool in tools if is_interpreter(tool)]
    if len(ours) > 1:
        raise bad("There may be one code_interpreter tool.", "tools")
    most = body.get("max_tool_calls")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise bad("max_tool_calls has to be a whole number of at least 1.", "max_tool_calls")
    if not ours:
        return Plan(body=body, max_calls=most)
    return Plan(
        body=body,
        tool=ours[0],
        name=free_name(names_of(tools)),
        container=container_wish(ours[0].get("container")),
        max_calls=most,
    )


def container_wish(container: Any, param: str = "tools[0].container") -> ContainerWish:
    """Raises: ApiError."""
    if isinstance(container, str):
        if not _CONTAINER.fullmatch(container):
            raise bad("A container id looks like cntr_… .", param)
        return ContainerWish(id=container)
    if container is None:
        return ContainerWish()
    if not isinstance(container, Mapping) or container.get("type", "auto") != "auto":
        raise bad('container has to be a container id or {"type": "auto"}.', param)
    refuse_network(container.get("network_policy"), f"{param}.network_policy")
    files = container.get("file_ids") or []
    if not isinstance(files, list) or not all(isinstance(each, str) for each in files):
        raise bad("file_ids has to be a list of file ids.", f"{param}.file_ids")
    if len(files) > 50:
        raise bad("file_ids may have at most 50 entries.", f"{param}.file_ids")
    memory = memory_tier(container.get("memory_limit"), f"{param}.memory_limit")
    return ContainerWish(file_ids=tuple(files), memory=memory)


def memory_tier(value: Any, param: str) -> str:
    """Raises: ApiError."""
    if value is None:
        return "1g"
    if not isinstance(value, str) or value not in MEMORY_TIERS:
        raise bad(f"memory_limit has to be one of {', '.join(MEMORY_TIERS)}.", param)
    return value


def refuse_network(policy: Any, param: str) -> None:
    """Raises: ApiError, for anything but no network."""
    if policy is None or mapping(policy).get("type") == "disabled":
        return
    raise bad(
        "Containers of this server have no network. Leave network_policy out, or send "
        '{"type": "disabled"}; give files with file_ids instead of downloading them.',
        param,
        "unsupported_network_policy",
    )


# What goes upstream ------------------------------------------------------------------------------


def responses_body(
    plan: Plan, given: Sequence[Any], *, first: bool, closed: bool = False, calls: int = 0
) -> Json:
    """A round's request to an upstream that speaks Responses.

    `closed`: the model may make no more calls; `calls`: how many of ours it made.
    """
    body = {key: value for key, value in plan.body.items() if key not in _OURS}
    body["input"] = list(given)
    body["stream"] = True
    if options := _stream_options(plan.body.get("stream_options")):
        body["stream_options"] = options
    if plan.tool is None:
        if plan.max_calls is not None:
            body["max_tool_calls"] = plan.max_calls
        return body
    body["tools"] = [
        as_responses_tool(plan.name) if is_interpreter(tool) else tool
        for tool in sequence(plan.body.get("tools"))
    ]
    if _has_hosted(plan) and plan.max_calls is not None and plan.max_calls > calls:
        body["max_tool_calls"] = plan.max_calls - calls
    _set(body, "tool_choice", tool_choice(plan, first=first, closed=closed))
    _set(body, "include", _include(plan))
    return body


def _stream_options(options: Any) -> Json:
    """Padding of deltas would be dropped here, where they become others."""
    return {k: v for k, v in mapping(options).items() if k != "include_obfuscation"}


def _has_hosted(plan: Plan) -> bool:
    kinds = {str(mapping(tool).get("type")) for tool in sequence(plan.body.get("tools"))}
    return bool(kinds - {INTERPRETER, "function", "custom"})


def _set(body: Json, key: str, value: Any) -> None:
    if value is None:
        body.pop(key, None)
    else:
        body[key] = value


def tool_choice(plan: Plan, *, first: bool, closed: bool) -> Any:
    """The client's choice with our name in it.  What was forced is forced once: a model that has
    to call something in each round never answers."""
    choice = plan.body.get("tool_choice")
    if closed:
        return "none"
    if choice is None or choice in ("auto", "none"):
        return choice
    kind = mapping(choice).get("type")
    if kind == "allowed_tools":
        mode = choice.get("mode") if first else "auto"
        tools = [_named(plan, tool) for tool in sequence(choice.get("tools"))]
        return {**choice, "mode": mode or "auto", "tools": tools}
    if not first:
        return "auto"
    return _named(plan, choice)


def _named(plan: Plan, choice: Any) -> Any:
    return {"type": "function", "name": plan.name} if is_interpreter(choice) else choice


def _include(plan: Plan) -> list[Any] | None:
    wanted = [each for each in plan.include if each != OUTPUTS]
    reasons = plan.body.get("reasoning") is not None
    if not plan.stored and reasons and ENCRYPTED not in wanted:
        # Nobody keeps the reasoning for the next round, so it has to travel.
        wanted.append(ENCRYPTED)
    return wanted or None


# Chat Completions --------------------------------------------------------------------------------


def chat_body(plan: Plan, messages: Sequence[Any], *, first: bool, closed: bool = False) -> Json:
    """A round's request to `/chat/completions`, for a client that speaks it too."""
    body = {key: value for key, value in plan.body.items() if key != "max_tool_calls"}
    body["messages"] = list(messages)
    body["stream"] = True
    body["stream_options"] = {**mapping(body.get("stream_options")), "include_usage": True}
    body["tools"] = [
        as_chat_tool(plan.name) if is_interpreter(tool) else tool
        for tool in sequence(plan.body.get("tools"))
    ]
    _set(body, "tool_choice", _chat_choice(plan, first=first, closed=closed))
    return body


def _chat_choice(plan: Plan, *, first: bool, closed: bool) -> Any:
    choice = plan.body.get("tool_choice")
    if closed:
        return "none"
    if choice is None or choice in ("auto", "none"):
        return choice
    if mapping(choice).get("type") == "allowed_tools":
        allowed = mapping(choice.get("allowed_tools"))
        tools = [_chat_named(plan, tool) for tool in sequence(allowed.get("tools"))]
        mode = (allowed.get("mode") if first else None) or "auto"
        return {**choice, "allowed_tools": {**allowed, "mode": mode, "tools": tools}}
    if not first:
        return "auto"
    return _chat_named(plan, choice)


def _chat_named(plan: Plan, choice: Any) -> Any:
    if not is_interpreter(choice):
        return choice
    return {"type": "function", "function": {"name": plan.name}}
