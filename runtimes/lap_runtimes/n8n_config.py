"""How an n8n is configured, and which of its workflows can be called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator

from lap_runtimes.config import Auth, HTTPRuntimeConfig
from lap_runtimes.errors import Rejected
from lap_runtimes.vendor_http import Json, mappings, segment

API_KEY = "X-N8N-API-KEY"
_CHAT = "@n8n/n8n-nodes-langchain.chatTrigger"
_WEBHOOK = "n8n-nodes-base.webhook"
_OURS = ("action", "sessionId", "chatInput", "prompt", "input", "turnId")
_WORKFLOW = re.compile(r"[A-Za-z0-9_-]{1,64}")


class N8nConfig(HTTPRuntimeConfig):
    """`url` is where n8n's editor is.  `auth.bearer` is a key of its management API, which finds
    workflows, cancels and looks at executions; workflows never see it."""

    trigger_auth: Auth = Auth()
    """What the chat triggers and webhooks themselves ask for (`header = { Authorization = … }` for
    a basic one)."""
    trigger_url: str = ""
    """Where they are, if not below `url`."""
    agent: str = ""
    """The agent of a turn that names none: `chat/ID` or `webhook/PATH`."""
    stream: bool = True
    """The chat triggers stream.  False: an answer comes whole, and can be a file."""
    remembers: bool = True
    """The workflow keeps what was said, by `sessionId` (a memory node does).  False: every turn
    stands alone, and a second one is refused."""
    waits: bool = False
    """After each answer, look whether the workflow waits for a call or a form, and ask for it.
    Needs the key, and takes a few requests more for each turn."""
    poll_interval: float = Field(1.0, gt=0)
    """Seconds between two looks at an execution."""
    body: Mapping[str, Any] = Field(default_factory=dict)
    """More fields of each request."""

    @model_validator(mode="after")
    def _fits_together(self) -> N8nConfig:
        taken = sorted(set(self.body) & set(_OURS))
        if taken:
            raise ValueError(f"body: {', '.join(taken)} is set by the adapter; remove it there")
        if self.waits and not self.manages:
            raise ValueError("waits: only a key of the management API (auth) shows what waits")
        return self

    @property
    def manages(self) -> bool:
        return self.auth.bearer is not None or bool(self.auth.header)

    def api(self) -> HTTPRuntimeConfig:
        """The management API, its key in its header."""
        bearer = self.auth.bearer
        named = {API_KEY: SecretStr(bearer.get_secret_value())} if bearer is not None else {}
        auth = Auth.model_construct(bearer=None, header={**named, **self.auth.header})
        return self.model_copy(update={"auth": auth})

    def triggers(self) -> HTTPRuntimeConfig:
        update = {"auth": self.trigger_auth, "url": self.trigger_url or self.url}
        return self.model_copy(update=update)


@dataclass(frozen=True, slots=True)
class Trigger:
    """`KIND/PATH`, and `@WORKFLOW` where its workflow is known."""

    kind: Literal["chat", "webhook"]
    path: str
    workflow: str = ""

    @classmethod
    def parse(cls, agent: str) -> Trigger:
        """Raises `Rejected`."""
        kind, _, rest = agent.partition("/")
        path, at, workflow = rest.rpartition("@")
        if not at or not _WORKFLOW.fullmatch(workflow):
            path, workflow = rest, ""
        if path and kind == "chat":
            return cls("chat", path, workflow)
        if path and kind == "webhook":
            return cls("webhook", path, workflow)
        words = f"{agent!r} is no agent of n8n: write chat/ID or webhook/PATH"
        raise Rejected(words, kind="invalid", sent=False)

    def __str__(self) -> str:
        return f"{self.kind}/{self.path}" + (f"@{self.workflow}" if self.workflow else "")

    @property
    def address(self) -> str:
        parts = [segment(part, what="webhook") for part in self.path.strip("/").split("/")]
        return "/".join(["webhook", *parts, *(["chat"] if self.kind == "chat" else [])])


def triggers_of(workflow: Json) -> Iterator[Trigger]:
    """How an active workflow can be called: public chat triggers, and webhooks that take a POST."""
    for node in mappings(workflow.get("nodes")):
        given = node.get("parameters")
        parameters = given if isinstance(given, Mapping) else {}
        if node.get("disabled"):
            continue
        name = str(workflow.get("id") or "")
        if node.get("type") == _CHAT and parameters.get("public") and node.get("webhookId"):
            yield Trigger("chat", str(node["webhookId"]), name)
        elif node.get("type") == _WEBHOOK and parameters.get("httpMethod") == "POST":
            path = str(parameters.get("path") or node.get("webhookId") or "")
            if path and ":" not in path:
                yield Trigger("webhook", path, name)
