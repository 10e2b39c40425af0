"""The configuration of the `databricks` kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from lap_runtimes.config import HTTPRuntimeConfig
from lap_runtimes.databricks_auth import DatabricksOAuth
from lap_runtimes.origin import origin_of

_OURS = {
    *("messages", "resume"),
    *("input", "stream", "context", "background", "store", "previous_response_id", "conversation"),
}


class DatabricksConfig(HTTPRuntimeConfig):
    """`url` is the workspace's (`serving`), or the App's.  Apps take OAuth tokens only."""

    surface: Literal["serving", "app", "durable"] = "serving"
    """`serving`: agents behind Model Serving endpoints.  `app`: an App made with MLflow's
    AgentServer.  `durable`: an App made with DurableAgentServer (Agent Bricks)."""
    oauth: DatabricksOAuth | None = None
    """Sign in with the Databricks SDK, in place of a token in `auth`."""
    conversation: Literal["resend", "context"] = "resend"
    """Who keeps it (`serving`, `app`): nobody, so that each turn sends everything again; or the
    agent, by `context.conversation_id`."""
    endpoint: str = ""
    """The serving endpoint that is called where none is named (`serving`)."""
    body: Mapping[str, Any] = Field(default_factory=dict)
    """More fields of each request: `custom_inputs`, `databricks_options`, …; of the agent's input
    for `durable`."""

    @model_validator(mode="after")
    def _fits_together(self) -> DatabricksConfig:
        fixed = self.auth.bearer is not None or bool(self.auth.header)
        if self.oauth is not None and fixed:
            raise ValueError("oauth: with auth set, nobody signs in; remove one of the two")
        if self.surface != "serving" and self.oauth is not None and not self.oauth.workspace:
            raise ValueError("oauth.host: name the workspace that the App belongs to")
        if self.endpoint and self.surface != "serving":
            raise ValueError("endpoint: an App is one agent and has no endpoints")
        taken = sorted(set(self.body) & _OURS)
        if taken:
            raise ValueError(f"body: {', '.join(taken)} is set by the adapter; remove it there")
        return self

    def signed_in(self) -> DatabricksOAuth | None:
        """The OAuth configuration with its workspace."""
        if self.oauth is None or self.oauth.workspace:
            return self.oauth
        return self.oauth.model_copy(update={"host": origin_of(self.url)})
