"""Agents on Databricks: Model Serving endpoints and Apps that speak the Responses API
(`databricks_responses.py`), and Apps made with DurableAgentServer (`databricks_durable.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lap_runtimes.base import (
    AgentInfo,
    Answer,
    Capabilities,
    EventStream,
    Prompt,
    Ref,
    Runtime,
    Turn,
)
from lap_runtimes.databricks_auth import DatabricksToken
from lap_runtimes.databricks_config import DatabricksConfig
from lap_runtimes.databricks_durable import DurableAgents
from lap_runtimes.databricks_responses import AppAgent, ServedAgents
from lap_runtimes.http import HTTP


class DatabricksRuntime:
    """`Turn.agent` is the name of a serving endpoint; an App is one agent, without a name."""

    kind: ClassVar[str] = "databricks"
    Config: ClassVar[type[DatabricksConfig]] = DatabricksConfig

    def __init__(self, config: DatabricksConfig) -> None:
        oauth = config.signed_in()
        token = DatabricksToken(oauth) if oauth is not None else None
        self._agents: Runtime
        if config.surface == "serving":
            below = {"url": f"{config.url.rstrip('/')}/serving-endpoints"}
            self._agents = ServedAgents(config, HTTP(config.model_copy(update=below), token))
        elif config.surface == "app":
            self._agents = AppAgent(config, HTTP(config, token))
        else:
            self._agents = DurableAgents(config, HTTP(config, token))

    @property
    def capabilities(self) -> Capabilities:
        return self._agents.capabilities

    async def check(self) -> str:
        return await self._agents.check()

    async def agents(self) -> Sequence[AgentInfo]:
        return await self._agents.agents()

    def start(self, turn: Turn) -> EventStream:
        return self._agents.start(turn)

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        return self._agents.attach(ref, cursor)

    async def answer(self, ref: Ref, answer: Answer) -> None:
        await self._agents.answer(ref, answer)

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        await self._agents.steer(ref, prompt)

    async def cancel(self, ref: Ref) -> None:
        await self._agents.cancel(ref)

    async def aclose(self) -> None:
        await self._agents.aclose()
