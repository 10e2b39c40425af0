"""Agents as MCP prompts, so that a person can start one as a slash command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mcp.types as t

from lap_mcp.errors import Invalid, LapError

from .agent_tools import as_tools, usable
from .options import FaceOptions
from .providers import PromptProvider, Request
from .text import one_line


class AgentPrompts(PromptProvider):
    """One prompt per usable agent: what a person types becomes a request to call its tool."""

    def __init__(self, options: FaceOptions) -> None:
        self._options = options

    async def prompts(self, request: Request) -> Sequence[t.Prompt]:
        try:
            services = await request.services()
        except LapError:
            return []  # lap_status says why
        return [
            t.Prompt(
                name=agent.name,
                description=one_line(agent.description, 300) or f"Agent {agent.name}",
                arguments=[
                    t.PromptArgument(name="prompt", description="What to do", required=True),
                    t.PromptArgument(
                        name="session", description="Session id to continue", required=False
                    ),
                ],
            )
            for agent in usable(services.registry.agents())
        ]

    async def get(
        self, request: Request, name: str, arguments: Mapping[str, str]
    ) -> t.GetPromptResult | None:
        services = await request.services()
        agents = usable(services.registry.agents())
        agent = next((agent for agent in agents if agent.name == name), None)
        if agent is None:
            return None
        prompt = arguments.get("prompt", "").strip()
        if not prompt:
            raise Invalid("`prompt` is missing.", remedy=f"Say what {name} is to do.")
        session = arguments.get("session", "").strip()
        direct = agent in as_tools(agents, self._options.max_agent_tools)
        tool = f"the tool `{name}`" if direct else f'the tool `call_agent` with agent "{name}"'
        going_on = f' and session "{one_line(session, 60)}"' if session else ""
        text = (
            f"Call {tool}{going_on}, with this as its prompt, word for word, "
            f"and tell me what it answers:\n\n{prompt}"
        )
        message = t.PromptMessage(role="user", content=t.TextContent(text=text))
        return t.GetPromptResult(
            description=one_line(agent.description, 300) or None, messages=[message]
        )

    async def complete(
        self, request: Request, name: str, argument: str, value: str
    ) -> Sequence[str] | None:
        services = await request.services()
        if all(agent.name != name for agent in usable(services.registry.agents())):
            return None
        if argument != "session":
            return []
        found = await services.sessions.list(request.caller.principal, agent=name, limit=100)
        return [session.id for session in found]
