"""The seam for tools: what a toolset is, who calls it, and what a call may use.

Built-in tools, agents and the tools of the conformance suite all come through it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import mcp.types as t

from lap_mcp.control.services import Services
from lap_mcp.model import LOCAL, Origin, Principal

from .options import FaceOptions, longest_wait

if TYPE_CHECKING:
    from .progress import Progress
    from .sdk import Ctx
    from .tasks import Tasks

ToolResult = t.CallToolResult | t.InputRequiredResult | dict[str, Any]
"""A `dict` is the result of an extension (a task), already in wire form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls, and what the client can do; one per request."""

    principal: Principal = LOCAL
    client: str = ""
    """`clientInfo.name`; empty where the client does not say."""
    modern: bool = True
    """2026-07-28 or later; else the handshake era."""
    transport: Literal["stdio", "http"] = "stdio"
    scope: str | None = None
    """Owner of the default sandbox; `None`: a new sandbox for each call."""
    tasks: bool = False
    """The client declared the tasks extension."""
    elicit_form: bool = False
    elicit_url: bool = False

    @property
    def longest_wait(self) -> float:
        return longest_wait(self.client)


@dataclass(slots=True, kw_only=True)
class Call:
    """One `tools/call`, as a toolset sees it."""

    ctx: Ctx
    caller: Caller
    options: FaceOptions
    began: float
    """`anyio.current_time()` when the request arrived."""
    progress: Progress
    tasks: Tasks
    open_services: Callable[[], Awaitable[Services]]
    background: Callable[[Callable[[], Awaitable[object]]], None]
    """Run something that must not end with this call; the face owns it."""
    stopping: Callable[[], bool]
    """The server is shutting down: answer what there is."""
    input_responses: Mapping[str, Any] = field(default_factory=dict)
    request_state: str | None = None

    async def services(self) -> Services:
        return await self.open_services()

    @property
    def chain(self) -> tuple[str, ...]:
        """Agents through whose sessions this call comes."""
        return self.options.chain or self.caller.principal.chain

    @property
    def origin(self) -> Origin:
        return Origin(principal=self.caller.principal, chain=self.chain, client=self.caller.client)

    @property
    def principal(self) -> Principal:
        return self.caller.principal


class Toolset(Protocol):
    """Some tools.  `tools` is quick and never waits for a runtime; it is asked again after every
    change of the catalogue.  Arguments are checked against `input_schema` before `call`."""

    name: str

    async def tools(
        self, caller: Caller, services: Callable[[], Awaitable[Services]]
    ) -> Sequence[t.Tool]: ...

    async def call(self, call: Call, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Raises `LapError` for what the caller can mend: it becomes an error result in words."""
        ...


def tool(
    name: str,
    description: str,
    properties: Mapping[str, Any],
    *,
    required: Sequence[str] = (),
    annotations: t.ToolAnnotations | None = None,
    meta: Mapping[str, Any] | None = None,
) -> t.Tool:
    """A tool with a portable schema: an object, closed, without a title."""
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    if required:
        schema["required"] = list(required)
    schema["additionalProperties"] = False
    return t.Tool(
        name=name,
        description=description,
        input_schema=schema,
        annotations=annotations,
        _meta=dict(meta) if meta else None,
    )


READ_ONLY = t.ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
ALWAYS_LOAD: Mapping[str, Any] = {"anthropic/alwaysLoad": True}
"""Claude Code defers tools behind a search unless they ask to be loaded."""


def is_read_only(definition: t.Tool) -> bool:
    return bool(definition.annotations and definition.annotations.read_only_hint)
