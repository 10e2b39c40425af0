"""Settings of `kind = "mcp"`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lap_runtimes.config import HTTPRuntimeConfig, one_origin
from lap_runtimes.process import ProcessConfig

_OF_BOTH = {"start_seconds"}


class MCPConfig(HTTPRuntimeConfig, ProcessConfig):
    """`url` of a server's MCP endpoint, or the `command` that is one: one of the two."""

    url: Annotated[str, AfterValidator(lambda url: one_origin(url) if url else url)] = ""
    tool: str = ""
    """For agents that name none."""
    argument: str = ""
    """The tool's argument that takes the prompt's text; unset: found in its schema."""
    protocol: Literal["auto", "handshake", "2026-07-28"] = "auto"
    tasks: bool = False
    """Take tasks, where the server makes them: they go on without us, and can be attached to."""
    poll_interval: float = Field(1.0, gt=0)
    """Seconds between two looks at a task of a server that proposes none."""

    @model_validator(mode="after")
    def _one_of_two(self) -> MCPConfig:
        if bool(self.url) == bool(self.command):
            raise ValueError("give the url of an MCP server, or the command that is one")
        other = HTTPRuntimeConfig if self.command else ProcessConfig
        strange = sorted(self.model_fields_set & other.model_fields.keys() - {"url", *_OF_BOTH})
        if strange:
            kind = "a command" if self.command else "a url"
            raise ValueError(f"{', '.join(strange)}: means nothing for {kind}; remove it")
        if self.tasks and self.nests:
            raise ValueError("tasks: a task outlives its turn, and with it the key of ${nested}")
        if self.tasks and self.protocol == "handshake":
            raise ValueError('tasks: there are none in protocol = "handshake"')
        return self
