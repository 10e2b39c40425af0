"""What the operator may choose about the MCP face, and the face's fixed limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from lap_mcp.errors import ConfigError

TOOLSETS: Final = ("agents", "code", "sessions")
"""Toolsets that exist; `lap_status` is always there."""

TEXT_LIMIT: Final = 8 * 1024
"""Bytes of text in one result; the rest is paged with `get_session`."""
GRACE: Final = 5.0
"""Seconds that an agent call waits before it becomes a task."""
DEFAULT_WAIT: Final = 45.0
SHORT_WAIT: Final = 50.0
"""Longest `wait_s` of a client about which nothing is known: several cut a call after 60 s."""
LONG_WAIT: Final = 240.0
HEARTBEAT: Final = 8.0
"""Seconds without progress after which a word is sent; clients want one every 10."""
MAX_FILE_BYTES: Final = 5 * 1024 * 1024
"""A file inside a call, decoded."""
MAX_FILES: Final = 16

LONG_WAITING_CLIENTS: Final = (
    "claude-code",
    "codex-mcp-client",
    "gemini-cli-mcp-client",
    "qwen-cli-mcp-client",
)
"""Beginnings of `clientInfo.name` of clients that were measured to bear a silent call of 240 s."""


def longest_wait(client: str) -> float:
    """Seconds that a call of this client may be held open."""
    return LONG_WAIT if client.startswith(LONG_WAITING_CLIENTS) else SHORT_WAIT


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceOptions:
    """Choices for one face.  Raises `ConfigError` for a toolset that does not exist."""

    version: str = "0"
    toolsets: tuple[str, ...] = TOOLSETS
    read_only: bool = False
    """Only tools that change nothing: no agent is called, no code is run."""
    max_agent_tools: int = 24
    """Above it only pinned agents are tools of their own."""
    transport: Literal["stdio", "http"] = "stdio"
    grace: float = GRACE
    heartbeat: float = HEARTBEAT
    chain: tuple[str, ...] = ()
    """Agents through whose sessions this face is called; not empty: it never answers questions."""
    state_key: bytes | None = None
    """At least 32 bytes that seal `requestState`; the same on every replica.  `None`: made at
    start, for one process."""
    link: Callable[[str, str], str] | None = None
    """From a kept file's SHA-256 and name to a link that a person can open, for a while."""
    services_deadline: float = 30.0
    """Seconds for the store and the registry to open."""

    def __post_init__(self) -> None:
        for name in self.toolsets:
            if name not in TOOLSETS:
                raise ConfigError(
                    f"There is no toolset `{name}`.",
                    key="toolsets",
                    remedy=f"Use some of: {', '.join(TOOLSETS)}.",
                )
        if self.max_agent_tools < 1:
            raise ConfigError(
                f"`max_agent_tools` is {self.max_agent_tools}.",
                key="max_agent_tools",
                remedy="Give a number from 1 on.",
            )
