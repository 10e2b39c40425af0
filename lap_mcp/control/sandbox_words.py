"""What is said of sandboxes that lost their container, and of what they refuse."""

from __future__ import annotations

from collections.abc import Mapping

from lap_sandbox.base import Execution, Status
from lap_sandbox.errors import (
    BadPath,
    LauncherUnavailable,
    SandboxError,
    SandboxGone,
)
from lap_sandbox.errors import (
    LimitReached as SandboxLimit,
)
from lap_sandbox.errors import (
    NotFound as NoSuchFile,
)
from lap_sandbox.session import GONE

from lap_mcp.errors import Invalid, LapError, LimitReached, NotFound, Unavailable

from .keeping import Restored
from .sandbox_entry import Entry


def restored_words(entry: Entry, restored: Restored, *, replay: bool) -> str:
    words = (
        f"This sandbox had given up its container: {files_back(restored.files)} in /mnt/data, "
        "variables and imports are gone"
    )
    if entry.cold and not replay:
        words += " (`replay: true` runs its recorded cells again)"
    if restored.left_out:
        words += f". Not put back: {some(restored.left_out)}"
    return f"{words}."


_ENDED: Mapping[Status, str] = {
    "timeout": "The code did not stop at its limit.",
    "interrupted": "The code did not stop when it was interrupted.",
    "out_of_memory": "The sandbox ran out of memory.",
}


def lost_words(execution: Execution, restored: Restored | None) -> str:
    """An execution ended its container.  `restored`: of the one in its place, if there is one."""
    words = [_ENDED.get(execution.status, "The sandbox ended under the code.")]
    if restored is None:
        words.append("Variables are lost; files are kept, and the next call opens it with them.")
        return " ".join(words)
    words.append(
        f"Variables are lost; {files_back(restored.files)} in /mnt/data as before the code ran. "
        "What it wrote itself is lost."
    )
    if restored.left_out:
        words.append(f"Not put back: {some(restored.left_out)}.")
    return " ".join(words)


def files_back(count: int) -> str:
    return "1 kept file is back" if count == 1 else f"{count} kept files are back"


def some(left_out: Mapping[str, str]) -> str:
    shown = [f"{path} ({why.rstrip('.')})" for path, why in list(left_out.items())[:3]]
    more = len(left_out) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def gone(entry: Entry, error: SandboxGone) -> Unavailable:
    why = str(error).removeprefix(GONE).strip(" ()")
    return Unavailable(
        f"The container of sandbox {entry.id} ended during this call{f': {why}' if why else '.'}",
        remedy=f"Call again with sandbox {entry.id}: it is opened with its files as the last "
        "answer named them; variables are gone, and `replay: true` runs its cells again.",
    )


_MAP: Mapping[type[SandboxError], type[LapError]] = {
    BadPath: Invalid,
    NoSuchFile: NotFound,
    SandboxLimit: LimitReached,
    LauncherUnavailable: Unavailable,
    SandboxGone: Unavailable,
}


def worded(error: SandboxError) -> LapError:
    """What a sandbox refuses, in the classes of the control plane."""
    theirs = next((ours for kind, ours in _MAP.items() if isinstance(error, kind)), Unavailable)
    return theirs(str(error))
