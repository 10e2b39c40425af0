"""The configuration of the `bedrock_agentcore` kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from lap_runtimes.aws_signing import AWSCredentials
from lap_runtimes.config import HTTPRuntimeConfig, one_origin

_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_DATA = "https://bedrock-agentcore.{}.amazonaws.com"
_CONTROL = "https://bedrock-agentcore-control.{}.amazonaws.com"
_OURS = ("messages",)


class AgentCoreConfig(HTTPRuntimeConfig):
    """With `auth`, agents are called with that token (OAuth inbound); without, requests are signed
    (SigV4) with `aws`.  The two addresses follow from `region`."""

    region: str = ""
    control_url: Annotated[str, AfterValidator(one_origin)] | None = None
    """Address of the control plane, which lists agents; unset: that of the region, or `url`, where
    that is not one of AWS.  It is only ever sent signed requests."""
    aws: AWSCredentials = AWSCredentials()
    surface: Literal["runtime", "harness"] = "runtime"
    """Agents of your own in AgentCore Runtime, or AgentCore's managed agents."""
    agent: str = ""
    """ARN of the agent that is called where none is named."""
    qualifier: str = "DEFAULT"
    """The endpoint (alias) of each agent that is called."""
    user_id: str | None = None
    """Sent as the runtime's user; needs the permission InvokeAgentRuntimeForUser."""
    prompt_key: str = "prompt"
    """Where in the payload the prompt goes (`runtime`)."""
    body: Mapping[str, Any] = Field(default_factory=dict)
    """More fields of each request: of the payload, or of InvokeHarness (`model`, `tools`, …)."""
    text: str | None = None
    """Path of the text in an answer or event (`result.text`); unset: the usual ones are tried."""
    stream: bool = True
    """Ask for a stream; an agent that answers whole is understood too.  False: it never streams,
    and works on while we wait, so that it can be cancelled before it answers (`runtime`)."""

    @model_validator(mode="before")
    @classmethod
    def _addresses(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        made = dict(given)
        host = urlsplit(str(made.get("url", ""))).hostname or ""
        parts = host.split(".")
        if not made.get("region") and len(parts) > 2 and _REGION.fullmatch(parts[1]):
            made["region"] = parts[1]
        region = str(made.get("region", ""))
        if not _REGION.fullmatch(region):
            raise ValueError('region: name the AWS region of the agents, e.g. region = "us-east-1"')
        made["url"] = made.get("url") or _DATA.format(region)
        ours = host.endswith(".amazonaws.com") or not host
        made["control_url"] = made.get("control_url") or (
            _CONTROL.format(region) if ours else made["url"]
        )
        return made

    @model_validator(mode="after")
    def _fits_together(self) -> AgentCoreConfig:
        given = self.aws != AWSCredentials()
        if given and not self.signed:
            raise ValueError("aws: with auth set, nothing is signed; remove one of the two")
        taken = sorted(set(self.body) & {*_OURS, self.prompt_key})
        if taken:
            raise ValueError(f"body: {', '.join(taken)} is set by the adapter; remove it there")
        if self.surface == "harness" and not self.stream:
            raise ValueError("stream: a harness always streams")
        return self

    @property
    def signed(self) -> bool:
        return self.auth.bearer is None and not self.auth.header
