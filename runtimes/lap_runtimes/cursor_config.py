"""How a Cursor account is configured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lap_runtimes.config import HTTPRuntimeConfig, Secret

_OURS = ("prompt", "agentId", "repos", "model", "mode", "env", "envVars", "autoCreatePR")


class Repository(BaseModel):
    """What an agent works on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(min_length=1)
    ref: str = ""
    """Branch or commit to start from; empty: the default branch."""
    pull_request: str = ""
    """Address of a pull request to work on instead."""

    def sent(self) -> dict[str, str]:
        named = {"url": self.url, "startingRef": self.ref, "prUrl": self.pull_request}
        return {key: value for key, value in named.items() if value}


class CursorConfig(HTTPRuntimeConfig):
    """`url` is mostly `https://api.cursor.com`."""

    repos: tuple[Repository, ...] | None = Field(None, max_length=20)
    """What agents work on; none (`[]`): nothing but their own machine.  Not given: each repository
    that the key can reach is an agent."""
    model: str = ""
    """Empty: the account's default."""
    mode: Literal["agent", "plan"] = "agent"
    auto_create_pr: bool = False
    environment: Mapping[str, str] = Field(default_factory=dict)
    """`type` (`cloud`, `pool`, `machine`) and `name` of where agents run."""
    env_vars: Mapping[str, Secret] = Field(default_factory=dict)
    """Secrets for the agent's shell.  With any, the id of the agent is Cursor's."""
    artifacts: bool = True
    """Files in `artifacts/` of an agent's workspace are fetched when a run ends.  They are served
    from another origin, which `allow_origins` has to name."""
    usage: bool = False
    """Ask for the tokens of each run: in early access, refused to accounts without it."""
    poll_interval: float = Field(2.0, gt=0)
    """Seconds between two looks at a run whose stream is not to be had."""
    body: Mapping[str, Any] = Field(default_factory=dict)
    """More fields of the request that makes an agent (`mcpServers`, `customSubagents`, …)."""

    @model_validator(mode="after")
    def _fits_together(self) -> CursorConfig:
        taken = sorted(set(self.body) & set(_OURS))
        if taken:
            raise ValueError(f"body: {', '.join(taken)} is set by the adapter; remove it there")
        if self.repos and self.environment.get("name"):
            raise ValueError("repos: a named environment has its own repositories; take one away")
        return self
