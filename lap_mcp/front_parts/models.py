"""Which upstream serves a model's name."""

from __future__ import annotations

import fnmatch
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio

from lap_mcp.config import ModelTable

from .upstream import Upstream
from .wire import ApiError, Json

AGENT: Final = "agent/"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes, and under which name."""

    upstream: Upstream
    model: str

    @property
    def table(self) -> ModelTable:
        return self.upstream.table

    @property
    def images(self) -> bool:
        """The model is shown figures."""
        wanted = self.table.images
        return self.table.api == "responses" if wanted is None else wanted


class Models:
    """An exact name counts before a pattern, a pattern before the default."""

    def __init__(self, tables: Mapping[str, ModelTable]) -> None:
        self._upstreams = {
            name: Upstream(name, table, proxied=is_proxied(table.base_url))
            for name, table in tables.items()
        }
        self._exact: dict[str, Upstream] = {}
        self._patterns: list[tuple[str, Upstream]] = []
        self._default: Upstream | None = None
        for name, upstream in self._upstreams.items():
            for known in (name, *upstream.table.aliases):
                if "*" in known:
                    self._patterns.append((known, upstream))
                else:
                    self._exact.setdefault(known, upstream)
            if upstream.table.default:
                self._default = upstream
        self._patterns.sort(key=lambda entry: -len(entry[0]))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Leaving closes the connections."""
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                for upstream in self._upstreams.values():
                    await upstream.aclose()

    def find(self, name: object) -> Target:
        """Raises: ApiError."""
        if not isinstance(name, str) or not name:
            raise ApiError(400, "You must provide a model parameter.", param="model")
        upstream = self._exact.get(name) or self._by_pattern(name) or self._default
        if upstream is None:
            raise ApiError(
                404,
                f"The model `{name[:100]}` does not exist here. `GET /v1/models` lists those that "
                "do; [models.NAME] in lap.toml adds one.",
                param="model",
                code="model_not_found",
            )
        return Target(upstream, upstream.table.model or name)

    def only(self) -> Upstream | None:
        """The upstream that an id without a model is looked up at."""
        if self._default is not None:
            return self._default
        known = list(self._upstreams.values())
        return known[0] if len(known) == 1 else None

    def listed(self, agents: Mapping[str, float]) -> list[Json]:
        names = [*self._exact, *(f"{AGENT}{name}" for name in agents)]
        return [
            {"id": name, "object": "model", "created": 0, "owned_by": _owner(name)}
            for name in sorted(names)
        ]

    def _by_pattern(self, name: str) -> Upstream | None:
        for pattern, upstream in self._patterns:
            if fnmatch.fnmatchcase(name, pattern):
                return upstream
        return None


def _owner(name: str) -> str:
    return "lap-agents" if name.startswith(AGENT) else "lap-mcp"


def is_proxied(url: str) -> bool:
    """Whether the environment names a proxy for this address."""
    parts = urlsplit(url)
    return parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")
