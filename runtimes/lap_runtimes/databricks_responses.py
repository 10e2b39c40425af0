"""Databricks agents that speak the Responses API: behind Model Serving endpoints, and MLflow's
AgentServer in an App.  Both answer without ids, and keep nothing unless the agent does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from lap_runtimes.base import AgentInfo, Answers, Capabilities, Turn
from lap_runtimes.databricks_config import DatabricksConfig
from lap_runtimes.errors import ProtocolError, Unsupported
from lap_runtimes.http import HTTP
from lap_runtimes.openai_responses import OpenAIResponsesConfig, OpenAIResponsesRuntime

_TASKS = ("agent/v1/responses", "agent/v2/responses")
"""What an endpoint says it is for; chat agents speak another protocol."""


class _Responses(OpenAIResponsesRuntime):
    kind: ClassVar[str] = "databricks"

    def __init__(self, config: DatabricksConfig, http: HTTP) -> None:
        self._keeps = config.conversation == "context"
        # Its address and credential are those of `http`.
        settings = {"url": http.base, "model": config.endpoint, "state": "resend"}
        made = OpenAIResponsesConfig.model_validate({**settings, "body": config.body})
        super().__init__(made, http)

    @property
    def capabilities(self) -> Capabilities:
        return replace(
            super().capabilities,
            answer="resume" if self._keeps else "none",
            conversation="runtime" if self._keeps else "caller",
            files_in=False,
            files_out=False,
            usage=False,
        )

    async def _request(self, turn: Turn) -> tuple[dict[str, Any], dict[str, Any]]:
        body, ref = await super()._request(turn)
        return {**body, "context": {"conversation_id": turn.session_id}}, ref

    async def _input(self, turn: Turn) -> list[dict[str, Any]]:
        if isinstance(turn.input, Answers):
            if not self._keeps:
                words = 'an agent that keeps nothing cannot be answered; conversation = "context"'
                raise Unsupported(words)
            return self.answers(turn.input, turn.ref)
        if turn.input.files:
            raise Unsupported(
                "agents on Databricks take no files; put what they need into the input"
            )
        # An agent that keeps the conversation is sent what is new.
        return await super()._input(replace(turn, ref={}) if self._keeps else turn)


class ServedAgents(_Responses):
    """Serving endpoints of a workspace; `http` is for the addresses below `/serving-endpoints`."""

    async def check(self) -> str:
        return f"Databricks workspace with {len(await self._endpoints())} agent endpoints"

    async def agents(self) -> Sequence[AgentInfo]:
        found = await self._endpoints()
        return [
            AgentInfo(
                ref=str(each["name"]),
                name=str(each["name"]),
                description=str(each.get("description") or ""),
            )
            for each in found
        ]

    async def _endpoints(self) -> list[Mapping[str, Any]]:
        home = self._http.base.removesuffix("/serving-endpoints")
        found = await self._http.json("GET", f"{home}/api/2.0/serving-endpoints")
        listed = found.get("endpoints", []) if isinstance(found, Mapping) else None
        if not isinstance(listed, list):
            raise ProtocolError(f"{home} answered no list of serving endpoints")
        return [each for each in listed if isinstance(each, Mapping) and _is_agent(each)]


class AppAgent(_Responses):
    """The one agent of an App."""

    async def check(self) -> str:
        info = await self._info()
        return f"{info.get('name', 'an agent')}, MLflow {info.get('mlflow_version', '?')}"

    async def agents(self) -> Sequence[AgentInfo]:
        return [AgentInfo(ref="", name=str((await self._info()).get("name") or "agent"))]

    async def _info(self) -> Mapping[str, Any]:
        found = await self._http.json("GET", self._http.url("agent/info"))
        if not isinstance(found, Mapping) or found.get("agent_api") != "responses":
            raise ProtocolError("this App has no agent that speaks the Responses API")
        return found


def _is_agent(endpoint: Mapping[str, Any]) -> bool:
    state = endpoint.get("state")
    ready = state.get("ready") if isinstance(state, Mapping) else None
    return bool(endpoint.get("name")) and endpoint.get("task") in _TASKS and ready != "NOT_READY"
