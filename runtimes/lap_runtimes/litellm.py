"""The agents behind a LiteLLM proxy: discovered by its list, called over A2A with its keys, so that
its budgets, rate limits and logs hold.  What an agent can do is what A2A gives (`a2a.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote

from pydantic import Field

from lap_runtimes.a2a import A2AConfig, A2ARuntime
from lap_runtimes.base import (
    AgentInfo,
    Answer,
    Capabilities,
    EventStream,
    Prompt,
    Ref,
    Turn,
)
from lap_runtimes.config import HTTPRuntimeConfig
from lap_runtimes.errors import ProtocolError, Rejected
from lap_runtimes.http import HTTP

_ID = re.compile(r"[A-Za-z0-9][\w.~ -]{0,127}")


class LiteLLMConfig(HTTPRuntimeConfig):
    """`url` is the proxy's, `auth` one of its keys.  A proxy that does not know its own address, as
    behind a load balancer that ends TLS, is told it by its variable PROXY_BASE_URL."""

    agent: str = ""
    """The agent that is called where none is named."""
    poll_interval: float = Field(1.0, gt=0)
    """Seconds between two looks at a task of an agent that does not stream."""


class LiteLLMRuntime:
    """`Turn.agent` is an agent's id at the proxy, or its name."""

    kind: ClassVar[str] = "litellm"
    Config: ClassVar[type[LiteLLMConfig]] = LiteLLMConfig

    def __init__(self, config: LiteLLMConfig) -> None:
        self._http = HTTP(config)
        self._config = config
        common = (*HTTPRuntimeConfig.model_fields, "poll_interval")
        shared = {name: getattr(config, name) for name in common}
        self._a2a = A2ARuntime(A2AConfig(**shared))

    @property
    def capabilities(self) -> Capabilities:
        return self._a2a.capabilities

    async def check(self) -> str:
        return f"LiteLLM proxy with {len(await self._listed())} agents for this key"

    async def agents(self) -> Sequence[AgentInfo]:
        return [_info(each) for each in await self._listed() if each.get("enabled", True)]

    def start(self, turn: Turn) -> EventStream:
        return self._a2a.start(replace(turn, agent=_card(turn.agent or self._config.agent)))

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return self._a2a.attach(ref, cursor)

    async def answer(self, ref: Ref, answer: Answer) -> None:
        await self._a2a.answer(ref, answer)

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        await self._a2a.steer(ref, prompt)

    async def cancel(self, ref: Ref) -> None:
        await self._a2a.cancel(ref)

    async def aclose(self) -> None:
        await self._http.aclose()
        await self._a2a.aclose()

    async def _listed(self) -> list[Mapping[str, Any]]:
        """Those that the key may call.  Spend, keys and parameters in the answer are not read."""
        found = await self._http.json("GET", self._http.url("v1/agents"))
        if not isinstance(found, list):
            raise ProtocolError(f"{self._http.rules.home} answered no list of agents")
        return [each for each in found if isinstance(each, Mapping) and each.get("agent_id")]


def _card(agent: str) -> str:
    """Where the proxy has the agent's card, with its own address in it."""
    if not _ID.fullmatch(agent):
        words = f"{agent[:200]!r} is no agent of a LiteLLM proxy; name its id in ref"
        raise Rejected(words, kind="invalid", sent=False)
    return f"a2a/{quote(agent, safe='')}/.well-known/agent-card.json"


def _info(found: Mapping[str, Any]) -> AgentInfo:
    card = found.get("agent_card_params")
    card = card if isinstance(card, Mapping) else {}
    skills = card.get("skills")
    lines = [str(card.get("description") or "")]
    for skill in skills if isinstance(skills, list) else []:
        if isinstance(skill, Mapping):
            lines.append(f"- {skill.get('name', '')}: {skill.get('description', '')}".strip())
    if len(lines) > 1:
        lines.insert(1, "Skills:")
    return AgentInfo(
        ref=str(found["agent_id"]),
        name=str(found.get("agent_name") or card.get("name") or found["agent_id"]),
        description="\n".join(line for line in lines if line),
    )
