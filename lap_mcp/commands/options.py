"""Options of the stdio server, read without a library: the server must not wait for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_VALUES = {"--config": "config", "--toolsets": "toolsets"}
_FLAGS = {"--read-only": "read_only"}


@dataclass(slots=True)
class StdioOptions:
    """Options of the server itself; the same ones stand before a command."""

    config: str | None = None
    overrides: dict[tuple[str, ...], tuple[str, Any]] = field(default_factory=dict)


def stdio_options(arguments: Sequence[str]) -> StdioOptions | None:
    """The options of the stdio server; `None` if the arguments are those of a command."""
    options = StdioOptions()
    left = list(arguments)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if name in _FLAGS and not equals:
            options.overrides[("mcp", _FLAGS[name])] = (name, True)
        elif name in _VALUES and (equals or left):
            take(options, name, value if equals else left.pop(0))
        else:
            return None
    return options


def take(options: StdioOptions, name: str, value: str) -> None:
    if name == "--config":
        options.config = value
    else:
        options.overrides[("mcp", _VALUES[name])] = (name, value)
