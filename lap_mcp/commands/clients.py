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

from .json_text import parse, remove_member, set_member
from .members import value_at
from .toml_text import remove_table, set_table, table_at

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
    remove: Callable[[str], str]
    """The file's text without it.  Raises: Invalid."""
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


def _kept(old: Any, new: Mapping[str, Any], environ: str) -> dict[str, Any]:
    """Our entry, with what a person added to the one that was there: variables, lists of tools.

    `environ`: the key of the variables.  An entry of another kind, such as one with an address, is
    replaced."""
    if not (isinstance(old, Mapping) and "command" in old):
        return {**new}
    entry = {**old, **new}
    had = old.get(environ)
    if isinstance(had, Mapping):
        others = {name: value for name, value in had.items() if name != "LAP_HOME"}
        entry[environ] = {**others, **new.get(environ, {})}
        if not entry[environ]:
            del entry[environ]
    return entry


def _in_json(path: Sequence[str], text: str, new: Mapping[str, Any], environ: str) -> str:
    old = value_at(parse(text), path)
    entry = _kept(old, new, environ)
    return text if entry == old else set_member(text, path, entry)


def _stdio(table: str) -> Callable[[str, Launch], str]:
    def edit(text: str, launch: Launch) -> str:
        entry: dict[str, Any] = {
            "type": "stdio",
            "command": launch.command,
            "args": list(launch.arguments),
        }
        if launch.environ:
            entry["env"] = dict(launch.environ)
        return _in_json((table, SERVER), text, entry, "env")

    return edit


def _without(table: str) -> Callable[[str], str]:
    return lambda text: remove_member(text, (table, SERVER))


_CODEX = ("mcp_servers", SERVER)


def _in_codex(text: str, launch: Launch) -> str:
    new: dict[str, Any] = {
        "command": launch.command,
        "args": list(launch.arguments),
        # Without it the tools of a server that is late are missing from the turn.
        "required": True,
        "startup_timeout_sec": 30,
    }
    if launch.environ:
        new["env"] = dict(launch.environ)
    old = table_at(text, _CODEX)
    entry = _kept(old, new, "env")
    return text if entry == old else set_table(text, _CODEX, entry)


def _in_opencode(text: str, launch: Launch) -> str:
    entry: dict[str, Any] = {
        "type": "local",
        "command": [launch.command, *launch.arguments],
        "enabled": True,
        "timeout": 30000,
    }
    if launch.environ:
        entry["environment"] = dict(launch.environ)
    return _in_json(("mcp", SERVER), text, entry, "environment")


CLIENTS: Mapping[str, Client] = {
    "claude-code": Client(
        title="Claude Code",
        user_file=_claude_code,
        project_file=".mcp.json",
        edit=_stdio("mcpServers"),
        remove=_without("mcpServers"),
    ),
    "cursor": Client(
        title="Cursor",
        user_file=lambda here: here.home / ".cursor/mcp.json",
        project_file=".cursor/mcp.json",
        edit=_stdio("mcpServers"),
        remove=_without("mcpServers"),
    ),
    "codex": Client(
        title="Codex",
        user_file=_codex,
        project_file=None,
        edit=_in_codex,
        remove=lambda text: remove_table(text, _CODEX),
        note="Codex starts servers with HOME, LANG, PATH and TERM only.  Secrets that lap.toml "
        'takes from the environment ("env:NAME") do not reach it: use "file:PATH".',
    ),
    "vscode": Client(
        title="VS Code",
        user_file=_vscode,
        project_file=".vscode/mcp.json",
        edit=_stdio("servers"),
        remove=_without("servers"),
    ),
    "opencode": Client(
        title="OpenCode",
        user_file=_opencode,
        project_file="opencode.json",
        edit=_in_opencode,
        remove=_without("mcp"),
    ),
}
