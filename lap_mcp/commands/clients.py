"""Where each client keeps its MCP servers, and how an entry of ours looks there.

Formats: Claude Code `mcpServers` (`~/.claude.json`, project `.mcp.json`), Cursor `mcpServers`,
Codex `[mcp_servers.NAME]`, VS Code `servers`, OpenCode `mcp`; each as its own documentation says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lap_mcp.config import Surroundings

from .json_text import set_member
from .toml_text import set_table

SERVER = "lap"
"""The key of our entry.  Short: clients put it before every tool's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a client starts us."""

    command: str
    """Absolute path."""
    arguments: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    title: str
    user_file: Callable[[Surroundings], Path]
    project_file: str | None
    """Relative to the project folder; `None`: it has no such file."""
    edit: Callable[[str, Launch], str]
    """The file's text with our entry.  Raises: Invalid."""
    note: str = ""


def _claude_code(here: Surroundings) -> Path:
    folder = here.environ.get("CLAUDE_CONFIG_DIR", "")
    return (Path(folder) if Path(folder).is_absolute() else here.home) / ".claude.json"


def _codex(here: Surroundings) -> Path:
    folder = Path(here.environ.get("CODEX_HOME", ""))
    return (folder if folder.is_absolute() else here.home / ".codex") / "config.toml"


def _vscode(here: Surroundings) -> Path:
    if here.platform == "darwin":
        return here.home / "Library/Application Support/Code/User/mcp.json"
    return _config_home(here) / "Code/User/mcp.json"


def _opencode(here: Surroundings) -> Path:
    folder = _config_home(here) / "opencode"
    commented = folder / "opencode.jsonc"
    return commented if commented.exists() else folder / "opencode.json"


def _config_home(here: Surroundings) -> Path:
    folder = Path(here.environ.get("XDG_CONFIG_HOME", ""))
    return folder if folder.is_absolute() else here.home / ".config"


def _stdio_entry(launch: Launch) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "stdio",
        "command": launch.command,
        "args": list(launch.arguments),
    }
    return {**entry, "env": dict(launch.environ)} if launch.environ else entry


def _in_json(table: str) -> Callable[[str, Launch], str]:
    def edit(text: str, launch: Launch) -> str:
        return set_member(text, (table, SERVER), _stdio_entry(launch))

    return edit


def _in_codex(text: str, launch: Launch) -> str:
    values: dict[str, Any] = {
        "command": launch.command,
        "args": list(launch.arguments),
        # Without it the tools of a server that is late are missing from the turn.
        "required": True,
        "startup_timeout_sec": 30,
    }
    if launch.environ:
        values["env"] = dict(launch.environ)
    return set_table(text, ("mcp_servers", SERVER), values)


def _in_opencode(text: str, launch: Launch) -> str:
    entry: dict[str, Any] = {
        "type": "local",
        "command": [launch.command, *launch.arguments],
        "enabled": True,
        "timeout": 30000,
    }
    if launch.environ:
        entry["environment"] = dict(launch.environ)
    return set_member(text, ("mcp", SERVER), entry)


CLIENTS: Mapping[str, Client] = {
    "claude-code": Client(
        title="Claude Code",
        user_file=_claude_code,
        project_file=".mcp.json",
        edit=_in_json("mcpServers"),
    ),
    "cursor": Client(
        title="Cursor",
        user_file=lambda here: here.home / ".cursor/mcp.json",
        project_file=".cursor/mcp.json",
        edit=_in_json("mcpServers"),
    ),
    "codex": Client(
        title="Codex",
        user_file=_codex,
        project_file=None,
        edit=_in_codex,
        note="Codex starts servers with HOME, LANG, PATH and TERM only.  Secrets that lap.toml "
        'takes from the environment ("env:NAME") do not reach it: use "file:PATH".',
    ),
    "vscode": Client(
        title="VS Code",
        user_file=_vscode,
        project_file=".vscode/mcp.json",
        edit=_in_json("servers"),
    ),
    "opencode": Client(
        title="OpenCode",
        user_file=_opencode,
        project_file="opencode.json",
        edit=_in_opencode,
    ),
}
