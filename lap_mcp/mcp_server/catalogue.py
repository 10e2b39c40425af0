"""Which tools there are for a caller: all toolsets together, sorted, paged, found by name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import mcp.types as t

from lap_mcp.control.services import Services
from lap_mcp.errors import LapError

from .arguments import Checker, load
from .options import FaceOptions
from .toolset import Caller, Toolset, is_read_only

PAGE: Final = 50
OpenServices = Callable[[], Awaitable[Services]]


@dataclass(slots=True)
class Entry:
    """A tool, the toolset that serves it, and its compiled schema (made at the first call)."""

    definition: t.Tool
    toolset: Toolset
    _checker: Checker | None = field(default=None)
    _in_headers: bool | None = field(default=None)

    @property
    def in_headers(self) -> bool:
        """Some of its parameters travel in headers of HTTP as well."""
        if self._in_headers is None:
            self._in_headers = "x-mcp-header" in json.dumps(self.definition.input_schema)
        return self._in_headers

    @property
    def checker(self) -> Checker:
        if self._checker is None:
            self._checker = Checker(self.definition.input_schema)
        return self._checker


class Catalogue:
    """The tools of one face.  Kept until `forget` says that something changed."""

    def __init__(
        self, toolsets: Sequence[Toolset], options: FaceOptions, services: OpenServices
    ) -> None:
        self._toolsets = toolsets
        self._options = options
        self._services = services
        self._entries: dict[str, Entry] | None = None
        self._loaded = False

    def forget(self) -> None:
        self._entries = None

    async def entries(self, caller: Caller) -> dict[str, Entry]:
        """By name, sorted.  Where the services cannot be opened, the tools that need none: the
        server is there all the same, and its tools say what is wrong."""
        if self._entries is not None:
            return self._entries
        found: list[Entry] = []
        complete = True
        for toolset in self._toolsets:
            try:
                definitions = await toolset.tools(caller, self._services)
            except LapError:
                complete = False
                continue
            found += [Entry(definition, toolset) for definition in definitions]
        if self._options.read_only:
            found = [entry for entry in found if is_read_only(entry.definition)]
        entries = {e.definition.name: e for e in sorted(found, key=lambda e: e.definition.name)}
        if complete:
            self._entries = entries
        return entries

    async def find(self, caller: Caller, name: str) -> Entry | None:
        if not self._loaded:
            await load()
            self._loaded = True
        return (await self.entries(caller)).get(name)

    def header_schema(self, name: str) -> dict[str, Any] | None:
        """The input schema of a tool that was listed or called before; never waits.  Asked for at
        each call over HTTP, for parameters in headers, and walked twice: `None` where it has none.
        """
        entry = (self._entries or {}).get(name)
        return entry.definition.input_schema if entry and entry.in_headers else None

    async def nearest(self, caller: Caller, name: str) -> list[str]:
        return difflib.get_close_matches(name, list(await self.entries(caller)), n=3, cutoff=0.5)

    async def page(self, caller: Caller, cursor: str | None) -> t.ListToolsResult:
        """At most `PAGE` tools after the one that `cursor` names."""
        entries = await self.entries(caller)
        names = [name for name in entries if cursor is None or name > cursor]
        shown = names[:PAGE]
        result = t.ListToolsResult(
            tools=[entries[name].definition for name in shown],
            next_cursor=shown[-1] if len(names) > PAGE else None,
        )
        if self._entries is None:
            result.ttl_ms = 0  # incomplete: nobody should keep it
        return result
