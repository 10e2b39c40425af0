"""The `lap://` addresses: what each names, taken apart and put together in one place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from lap_mcp.errors import NotFound

Kind = Literal[
    "status",
    "agents",
    "agent",
    "runtimes",
    "session",
    "events",
    "session_file",
    "sandbox_files",
    "sandbox_file",
]

_MAX_DIGITS: Final = 18
_WITH_QUERY: Final = ("events", "sandbox_files", "sandbox_file")
_PATHS: Final[tuple[tuple[Kind, re.Pattern[str]], ...]] = (
    ("status", re.compile(r"status")),
    ("agents", re.compile(r"agents")),
    ("agent", re.compile(r"agents/(?P<id>[a-z][a-z0-9_]{0,47})")),
    ("runtimes", re.compile(r"runtimes")),
    ("session", re.compile(r"sessions/(?P<id>ses_[0-9a-f]{32})")),
    ("events", re.compile(r"sessions/(?P<id>ses_[0-9a-f]{32})/events")),
    ("session_file", re.compile(r"sessions/(?P<id>ses_[0-9a-f]{32})/files/(?P<path>[^/]+)")),
    ("sandbox_files", re.compile(r"sandboxes/(?P<id>sbx_[0-9a-f]{32})/files")),
    ("sandbox_file", re.compile(r"sandboxes/(?P<id>sbx_[0-9a-f]{32})/files/(?P<path>.+)")),
)


@dataclass(frozen=True, slots=True)
class LapUri:
    kind: Kind
    id: str = ""
    path: str = ""
    """File name or path, decoded."""
    after: int = 0
    """For `events`: the last `seq` that is known already."""
    after_path: str = ""
    """For `sandbox_files`: the last path that is known already."""
    offset: int | None = None
    """For `sandbox_file`: the first byte of the part that is read."""


def parse(uri: str) -> LapUri:
    """Raises: NotFound for what is no `lap://` address of ours."""
    parts = _split(uri)
    whole = f"{parts.netloc}{parts.path}"
    for kind, pattern in _PATHS:
        match = pattern.fullmatch(whole) if uri.startswith("lap://") else None
        if match is None:
            continue
        if parts.fragment or (parts.query and kind not in _WITH_QUERY):
            break
        groups = match.groupdict()
        path, query = unquote(groups.get("path") or ""), parts.query
        return LapUri(
            kind,
            groups.get("id") or "",
            path,
            _number(query, "after") or 0 if kind == "events" else 0,
            parse_qs(query).get("after", [""])[-1] if kind == "sandbox_files" else "",
            _number(query, "offset") if kind == "sandbox_file" else None,
        )
    raise NotFound(f"There is no resource `{uri[:200]}`.")


def _split(uri: str) -> SplitResult:
    """Raises: NotFound, where `urlsplit` raises, or takes out characters without a word."""
    try:
        if uri.isprintable():
            return urlsplit(uri)
    except ValueError:
        pass  # brackets without an address in them, letters that stand for `/`
    raise NotFound(f"There is no resource {uri[:200]!r}.")


def _number(query: str, name: str) -> int | None:
    """A number that the store cannot hold is after everything."""
    value = parse_qs(query).get(name, [""])[-1]
    if not value.isdecimal():
        return None
    return int(value) if len(value) <= _MAX_DIGITS else 10**_MAX_DIGITS


def session(session_id: str) -> str:
    return f"lap://sessions/{session_id}"


def events(session_id: str) -> str:
    return f"lap://sessions/{session_id}/events"


def sandbox_file(sandbox_id: str, path: str) -> str:
    return f"lap://sandboxes/{sandbox_id}/files/{quote(path)}"


def sandbox_files(sandbox_id: str) -> str:
    return f"lap://sandboxes/{sandbox_id}/files"
