"""Names of MCP tools: which are ours, and how a discovered name becomes one.

Pure functions; the registry stores what `slug` returns and never reassigns it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container
from typing import Final

BUILT_IN: Final = (
    "answer_question",
    "ask_agents",
    "call_agent",
    "cancel_session",
    "code_interpreter",
    "find_agents",
    "get_session",
    "lap_status",
    "list_sessions",
    "save_files",
)
LATER: Final = (
    "approve_agent",
    "cancel_schedule",
    "forget",
    "get_audit",
    "get_budget",
    "list_memory",
    "list_schedules",
    "recall",
    "remember",
    "schedule_agent",
)
"""Announced in the design: an agent must not take them today and lose them tomorrow."""

RESERVED_NAMES: Final[frozenset[str]] = frozenset(BUILT_IN + LATER)
"""No name here is a prefix of another: a client that repairs a name it does not know by the
longest common prefix (Hermes does) must not end up in another tool."""

MAX_LENGTH: Final = 48
_VALID: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")


def is_valid(name: str) -> bool:
    """Whether `name` may be an agent's name: `[a-z][a-z0-9_]{0,47}` and not reserved."""
    return _VALID.fullmatch(name) is not None and not shadows(name)


def shadows(name: str) -> bool:
    """Whether an agent of this name would be taken for a built-in tool: it is one, or is the
    beginning of one, or begins with one."""
    return any(
        name == ours or ours.startswith(name + "_") or name.startswith(ours + "_")
        for ours in RESERVED_NAMES
    )


def plain(text: str) -> str:
    """`text` in `[a-z0-9_]`, starting with a letter, at most 48 long; `agent` if nothing is left.

    `Código Review (v2)` becomes `codigo_review_v2`; camel case is split.
    """
    folded = unicodedata.normalize("NFKD", text)
    ascii_only = folded.encode("ascii", "ignore").decode()
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", ascii_only)
    name = re.sub(r"[^a-z0-9]+", "_", split.lower()).strip("_")
    if not name:
        return "agent"
    if not name[0].isalpha():
        name = f"agent_{name}"
    return name[:MAX_LENGTH].rstrip("_")


def slug(name: str, taken: Container[str], runtime: str) -> str:
    """The tool name for an agent that its runtime calls `name`.

    Where `plain(name)` is taken or would shadow a built-in, `_<runtime>` is appended, then a
    number.  The caller stores the result: asked again with other `taken`, it may differ.
    """

    def free(candidate: str) -> bool:
        return candidate not in taken and is_valid(candidate)

    base = plain(name)
    if shadows(base):
        base = _joined("agent", base)
    if free(base):
        return base
    qualified = _joined(base, plain(runtime))
    if free(qualified):
        return qualified
    number = 2
    while not free(candidate := _joined(qualified, str(number))):
        number += 1
    return candidate


def _joined(name: str, suffix: str) -> str:
    """`name_suffix`, the first part shortened so that the whole fits."""
    suffix = suffix[: MAX_LENGTH // 2]
    return f"{name[: MAX_LENGTH - 1 - len(suffix)].rstrip('_')}_{suffix}"
