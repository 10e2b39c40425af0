"""Registered agents as tools: one each, or `find_agents` and `call_agent` where they are many."""

from __future__ import annotations

import difflib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import mcp.types as t
from lap_runtimes.base import Capabilities

from lap_mcp.control.services import NewPrompt, Services
from lap_mcp.errors import Invalid
from lap_mcp.model import Agent

from . import fan_out
from . import files as file_arguments
from .arguments import Checker
from .held import Held
from .long_turn import hold, resume
from .options import LONG_WAIT, FaceOptions
from .results import both
from .text import one_line
from .toolset import ALWAYS_LOAD, READ_ONLY, Call, Caller, ToolResult, Toolset, tool

MAX_TOOL: Final = 1000
"""Bytes of JSON of one agent's definition."""
_SMALL_SCHEMA: Final = 240
_ANNOTATIONS: Final = t.ToolAnnotations(read_only_hint=False)
"""The other hints have the right defaults; each would be repeated in every agent's tool."""

_PROPERTIES: Final[Mapping[str, Any]] = {
    "prompt": {"type": "string", "description": "All the agent needs: it sees nothing else."},
    "session": {"type": "string", "description": "Session to continue."},
    "from_session": {"type": "string", "description": "Session to hand over."},
    "files": file_arguments.SCHEMA,
    "wait_s": {
        "type": "number",
        "minimum": 0,
        "maximum": LONG_WAIT,
        "description": "Seconds to wait; default 45, 0 returns at once.",
    },
}


class AgentTools(Toolset):
    """The toolset `agents`."""

    name = "agents"

    def __init__(self, options: FaceOptions) -> None:
        self._options = options
        self._checkers: dict[str, tuple[Mapping[str, Any], Checker]] = {}

    async def tools(
        self, caller: Caller, services: Callable[[], Awaitable[Services]]
    ) -> Sequence[t.Tool]:
        registry = (await services()).registry
        agents = usable(registry.agents())
        shown = as_tools(agents, self._options.max_agent_tools)
        definitions = [definition(agent, await registry.capabilities(agent)) for agent in shown]
        if len(shown) < len(agents):
            definitions += [_FIND, _CALL]
        if len(agents) > 1:
            definitions.append(fan_out.DEFINITION)
        return definitions

    async def call(self, call: Call, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        services = await call.services()
        if name == "find_agents":
            return await find(services, arguments)
        if name == fan_out.DEFINITION.name:
            return await fan_out.ask(call, services, arguments)
        agent_name = arguments["agent"] if name == "call_agent" else name
        agent = services.registry.agent(agent_name)
        return await self._prompt(call, services, agent, arguments)

    async def _prompt(
        self, call: Call, services: Services, agent: Agent, arguments: Mapping[str, Any]
    ) -> ToolResult:
        wait_s = arguments.get("wait_s")
        call.progress.idle = f"Agent {agent.name} is working."
        if call.request_state is not None:
            return await resume(call, agent, wait_s)
        structured = arguments.get("input")
        if structured is not None:
            self._check_input(agent, structured)
        prompt = NewPrompt(
            text=arguments["prompt"],
            input=structured,
            files=file_arguments.file_inputs(call.caller, arguments.get("files") or ()),
            from_session=arguments.get("from_session") or "",
        )
        accepted = await services.sessions.prompt(
            call.origin, agent.name, prompt, session_id=arguments.get("session") or None
        )
        held = Held(
            services=services,
            principal=call.principal,
            agent=agent,
            agent_name=agent.name,
            session_id=accepted.session.id,
            turn_id=accepted.turn.id,
        )
        return await hold(call, held, wait_s)

    def _check_input(self, agent: Agent, structured: Mapping[str, Any]) -> None:
        """Raises: Invalid where the input is not what the agent declares."""
        schema = agent.input_schema
        if schema is None:
            raise Invalid(
                f"Agent `{agent.name}` takes no structured input.",
                remedy="Leave `input` out and say it in `prompt`.",
            )
        known = self._checkers.get(agent.name)
        if known is None or known[0] is not schema:
            known = self._checkers[agent.name] = (schema, Checker(schema))
        problem = known[1].problem(structured)
        if problem:
            raise Invalid(
                f"`input` does not fit agent `{agent.name}`: {problem}",
                remedy=f"Its schema is in the resource lap://agents/{agent.name}.",
            )


def usable(agents: Sequence[Agent]) -> list[Agent]:
    return [agent for agent in agents if agent.enabled]


def as_tools(agents: Sequence[Agent], most: int) -> list[Agent]:
    """Which agents are tools of their own: all, or the pinned ones where there are too many."""
    if len(agents) <= most:
        return list(agents)
    return [agent for agent in agents if agent.pinned]


def definition(agent: Agent, able: Capabilities | None) -> t.Tool:
    """An agent's tool, at most `MAX_TOOL` bytes of JSON.  No `outputSchema` is declared, though
    structured output is sent: a turn that still runs could not comply with it.

    `able`: what is not among it is said, and not offered.
    """
    properties: dict[str, Any] = dict(_PROPERTIES)
    for name in _unable(able):
        del properties[name]
    if agent.input_schema is not None:
        small = len(json.dumps(agent.input_schema)) <= _SMALL_SCHEMA
        given = {key: value for key, value in agent.input_schema.items() if key != "title"}
        is_object = given.get("type") == "object"
        properties["input"] = (
            given
            if small and is_object and "$" not in json.dumps(given)
            else {"type": "object", "description": f"Schema: lap://agents/{agent.name}"}
        )
    own = one_line(agent.description, 700) or f"Agent {agent.name} on {agent.runtime}."
    limits = "".join(f" {words}" for words in _limits(able))
    made = _tool(agent.name, own + limits, properties)
    excess = size(made) - MAX_TOOL
    if excess > 0:
        made = _tool(agent.name, _cut(own, len(own.encode()) - excess) + limits, properties)
    return made


def _unable(able: Capabilities | None) -> list[str]:
    """Properties that would be refused."""
    if able is None:
        return []
    alone = able.conversation == "none"
    return ["session"] * alone + ["files"] * (not able.files_in)


def _limits(able: Capabilities | None) -> list[str]:
    """What the agent's runtime cannot do, in words for a model."""
    if able is None:
        return []
    words = {
        "Each call stands alone: sessions cannot be continued.": able.conversation == "none",
        "It takes no files.": not able.files_in,
        "It may work on when it is cancelled.": able.cancel == "none",
        "If its connection breaks, its answer is lost.": able.attach == "none",
    }
    return [said for said, so in words.items() if so]


def _tool(name: str, description: str, properties: Mapping[str, Any]) -> t.Tool:
    return tool(name, description, properties, required=["prompt"], annotations=_ANNOTATIONS)


def _cut(text: str, limit: int) -> str:
    return text.encode()[: max(limit - 4, 60)].decode(errors="ignore").rstrip() + "…"


def size(definition: t.Tool) -> int:
    """Bytes of the definition on the wire."""
    return len(definition.model_dump_json(by_alias=True, exclude_none=True).encode())


_FIND = tool(
    "find_agents",
    "Find registered agents by what they do. Use it before call_agent; "
    "returns names, descriptions and how each is called.",
    {
        "query": {"type": "string", "description": "Words; omit to list all."},
        "limit": {"type": "integer", "minimum": 1, "maximum": 50},
    },
    annotations=READ_ONLY,
    meta=ALWAYS_LOAD,
)
_CALL = tool(
    "call_agent",
    "Run a registered agent by name, as found with find_agents. "
    "Starts a session, or continues one, and returns its answer.",
    {
        "agent": {"type": "string", "description": "Name from find_agents."},
        **_PROPERTIES,
        "input": {"type": "object", "description": "Schema: lap://agents/NAME."},
    },
    required=["agent", "prompt"],
    annotations=_ANNOTATIONS,
    meta=ALWAYS_LOAD,
)


async def find(services: Services, arguments: Mapping[str, Any]) -> t.CallToolResult:
    """Agents that fit the query best first; all by name where there is none."""
    agents = usable(services.registry.agents())
    query = str(arguments.get("query") or "").strip()
    limit = int(arguments.get("limit") or 10)
    ranked = _ranked(agents, query) if query else agents
    shown = ranked[:limit]
    entries = [
        {
            "name": agent.name,
            "runtime": agent.runtime,
            "description": one_line(agent.description, 300),
            "takes_input": agent.input_schema is not None,
            "limits": " ".join(_limits(await services.registry.capabilities(agent))),
        }
        for agent in shown
    ]
    lines = [
        f"- {entry['name']}: {entry['description']} {entry['limits']}".rstrip() for entry in entries
    ]
    head = f"{len(shown)} of {len(agents)} agents" + (f" for “{one_line(query, 80)}”" * bool(query))
    text = "\n".join([f"{head}:", *lines]) if shown else f"No agent fits. {len(agents)} exist."
    return both(text, {"agents": entries, "total": len(agents)})


def _ranked(agents: Sequence[Agent], query: str) -> list[Agent]:
    words = query.lower().split()

    def score(agent: Agent) -> float:
        name, text = agent.name.lower(), agent.description.lower()
        hits = sum(3.0 * (word in name) + 1.0 * (word in text) for word in words)
        return hits + difflib.SequenceMatcher(None, query.lower(), name).ratio()

    ranked = sorted(agents, key=lambda agent: (-score(agent), agent.name))
    return [agent for agent in ranked if score(agent) >= 0.5]
