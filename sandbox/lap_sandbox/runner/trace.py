"""Tracebacks of cells: the user's frames, with their source lines, in bounded size."""

from __future__ import annotations

import asyncio
import linecache
import traceback
from types import TracebackType

MAX_TRACE = 24 * 1024
"""Characters of a traceback; the middle is left out."""
MAX_MESSAGE = 8 * 1024
_KEPT_CELLS = 500

_cells: list[str] = []


def remember(name: str, code: str) -> None:
    """Let tracebacks and `inspect.getsource` find the source of the cell called `name`."""
    # Every line ends in a newline, as in files: carets are placed by it.
    lines = [line + "\n" for line in code.split("\n")]
    linecache.cache[name] = (len(code), None, lines, name)
    _cells.append(name)
    if len(_cells) > _KEPT_CELLS:
        linecache.cache.pop(_cells.pop(0), None)


def _is_users(filename: str) -> bool:
    return filename.startswith(("Cell ", "/mnt/data/", "/tmp/", "<string>"))


def _keep_users(trace: traceback.TracebackException, depth: int = 0) -> None:
    frames = [frame for frame in trace.stack if _is_users(frame.filename)]
    trace.stack = traceback.StackSummary.from_list(frames)
    _drop_echo(trace)
    if depth > 20:
        return
    for other in (trace.__cause__, trace.__context__, *(trace.exceptions or ())):
        if other is not None:
            _keep_users(other, depth + 1)


def _drop_echo(trace: traceback.TracebackException) -> None:
    """Forget a cause inside a library that says the same again, as pandas' KeyErrors have."""
    for name in ("__cause__", "__context__"):
        other = getattr(trace, name)
        if other is None or str(other) != str(trace):
            continue
        if not any(_is_users(frame.filename) for frame in other.stack):
            setattr(trace, name, None)


def shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def _hint(error: BaseException) -> str:
    if not isinstance(error, SyntaxError) or not isinstance(error.text, str):
        return ""
    if error.text.lstrip().startswith(("!", "%")):
        return (
            "\nThis is plain Python, not a notebook: run commands with "
            'subprocess.run(["ls", "-l"]). There is no network, so nothing can be installed.'
        )
    return ""


def describe(error: BaseException, trace: TracebackType | None) -> tuple[str, str, str]:
    """Class name, message and traceback of `error`, whatever its own methods do."""
    name = shorten(type(error).__name__, 200)
    cancelled = error.__context__
    if isinstance(error, KeyboardInterrupt) and isinstance(cancelled, asyncio.CancelledError):
        # How an event loop passes an interrupt on; where it struck is in the latter.
        error.__context__, trace = None, cancelled.__traceback__
    try:
        full = traceback.TracebackException(type(error), error, trace, compact=True)
        _keep_users(full)
        text = shorten("".join(full.format()).rstrip("\n"), MAX_TRACE) + _hint(error)
        value = shorten(str(error), MAX_MESSAGE)
    except KeyboardInterrupt:
        raise
    except BaseException as second:  # a `__str__` that raises, runs out of memory or of stack
        value = f"(its message cannot be shown: {type(second).__name__})"
        text = f"{name}: {value}"
    return name, value, text
