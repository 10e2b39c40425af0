"""Structured logs on stderr: JSON lines, or text on a terminal.  Stdout belongs to the protocol.

Secrets are scrubbed by value from whatever is logged, tracebacks included.  That no prompt and no
code is logged is up to whoever logs: ids, names, counts and durations only.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, TextIO

from lap_mcp.scrub import Scrubber

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",  # uvicorn, for its own terminal
}
_CHATTY = ("httpx", "httpx2", "httpcore", "mcp", "docker", "urllib3", "asyncio", "alembic", "a2a")
"""Libraries whose own records may hold what they carry: addresses, headers, bodies."""


def set_up_logs(
    scrubber: Scrubber,
    *,
    level: str = "info",
    style: Literal["auto", "json", "text"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Log to `stream` (stderr) through the scrubber.  May be called again."""
    target = stream or sys.stderr
    as_text = style == "text" or (style == "auto" and target.isatty())
    handler = logging.StreamHandler(target)
    handler.setFormatter(_Formatter(scrubber, as_text=as_text))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def log_what_ends_us() -> None:
    """An error that nobody caught is a record like any other, where Python would print it with
    the secrets that it may hold."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, Exception):
            logging.getLogger("lap_mcp").critical("broken", exc_info=(kind, error, trace))
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook


class _Formatter(logging.Formatter):
    def __init__(self, scrubber: Scrubber, *, as_text: bool) -> None:
        super().__init__()
        self._scrubber = scrubber
        self._as_text = as_text

    def format(self, record: logging.LogRecord) -> str:
        extra = {
            name: value
            for name, value in vars(record).items()
            if name not in _STANDARD and not name.startswith("_")
        }
        error = self.formatException(record.exc_info) if record.exc_info else ""
        line = self._text(record, extra, error) if self._as_text else None
        return self._scrubber.text(line or self._json(record, extra, error))

    def _json(self, record: logging.LogRecord, extra: dict[str, object], error: str) -> str:
        fields: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **extra,
        }
        if error:
            fields["error"] = error
        return json.dumps(fields, default=str, ensure_ascii=False)

    def _text(self, record: logging.LogRecord, extra: dict[str, object], error: str) -> str:
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        pairs = "".join(f" {name}={value}" for name, value in extra.items())
        line = f"{at} {record.levelname.lower():7} {record.getMessage()}{pairs}"
        return f"{line}\n{error}" if error else line
