"""Finds the adapter of a kind among the installed entry points; imports it when it is needed."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

GROUP = "lap_mcp.runtimes"
EXTRAS = {
    "a2a": "a2a",
    "acp": "acp",
    "bedrock_agentcore": "bedrock",
    "databricks": "databricks",
    "litellm": "a2a",
}
"""Kinds of ours of which a part needs an extra, and its name; that part says so when it is used."""


def known() -> dict[str, EntryPoint]:
    """Every installed kind.  Of two distributions with the same kind, the first found counts."""
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        found.setdefault(point.name, point)
    return found


def load(kind: str) -> type[Any]:
    """The adapter class: constructed as `Class(Class.Config.model_validate(…))`.

    Raises:
        LookupError: there is no such kind; the words list those that there are.
        ImportError: it cannot be imported; the words say what to install.
    """
    kinds = known()
    if kind not in kinds:
        raise LookupError(f"There is no runtime kind {kind!r}; known are {', '.join(kinds)}.")
    try:
        adapter: type[Any] = kinds[kind].load()
    except ModuleNotFoundError as exc:
        if kind in EXTRAS and not (exc.name or "").startswith("lap_runtimes"):
            raise ImportError(
                f"Runtime kind {kind!r} needs an extra: pip install 'lap-mcp[{EXTRAS[kind]}]'"
            ) from exc
        raise ImportError(f"Runtime kind {kind!r} cannot be imported: {exc}") from exc
    except (ImportError, AttributeError) as exc:
        raise ImportError(f"Runtime kind {kind!r} cannot be imported: {exc}") from exc
    return adapter
