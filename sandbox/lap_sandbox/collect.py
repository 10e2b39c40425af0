"""Puts an `Execution` together from hostile frames.  Sends nothing and waits for nothing."""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lap_sandbox.base import Execution, ExecutionError, FileInfo, Left, Limits, OnOutput, Output
from lap_sandbox.endings import Outcome
from lap_sandbox.errors import FrameError
from lap_sandbox.paths import show_name
from lap_sandbox.runner.wire import Frame, Kind

MAX_VALUE = 80 * 1024
MAX_TRACE = 160 * 1024
_MAGIC = {"image/png": (b"\x89PNG\r\n\x1a\n",), "image/jpeg": (b"\xff\xd8\xff",)}
MIMES = frozenset(
    {
        "image/png",
        "image/jpeg",
        "image/svg+xml",
        "text/html",
        "text/markdown",
        "text/latex",
        "application/json",
    }
)

Stream = Literal["stdout", "stderr"]
_STREAMS: dict[int, Stream] = {Kind.STDOUT: "stdout", Kind.STDERR: "stderr"}


def integer(header: Mapping[str, Any], name: str) -> int:
    """A count from a frame.

    Raises:
        FrameError: it is not a number from 0 to 2**53.
    """
    value = header.get(name, 0)
    if type(value) is not int or not 0 <= value <= 2**53:
        raise FrameError(f"`{name}` is not a count")
    return value


def number(header: Mapping[str, Any], name: str) -> float:
    """As `integer`, for seconds."""
    value = header.get(name, 0)
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value < 1e12:
        raise FrameError(f"`{name}` is not a duration or time")
    return float(value)


def text(header: Mapping[str, Any], name: str, limit: int) -> str:
    value = header.get(name, "")
    if not isinstance(value, str) or len(value) > limit:
        raise FrameError(f"`{name}` is not a text of at most {limit} characters")
    # Lone surrogates cannot be stored or sent on.
    return value.encode("utf-8", "replace").decode("utf-8")


def file_infos(header: Mapping[str, Any], limit: int) -> list[FileInfo]:
    """The `files` of a frame, with hostile names escaped.

    Raises:
        FrameError
    """
    entries = header.get("files", [])
    if not isinstance(entries, list) or len(entries) > limit:
        raise FrameError("`files` is not a list within its limit")
    return [file_info(entry) for entry in entries]


def file_info(entry: Any) -> FileInfo:
    """
    Raises:
        FrameError
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise FrameError("a file without a path")
    path = show_name(entry["path"][:4096])
    return FileInfo(path=path, size=integer(entry, "size"), modified=number(entry, "modified"))


def left(header: Mapping[str, Any], stream: Stream) -> Left | None:
    """Where all of a stream is, from the `left` of a frame.

    Raises:
        FrameError
    """
    entries = header.get("left", {})
    if not isinstance(entries, dict):
        raise FrameError("`left` is not an object")
    entry = entries.get(stream)
    if entry is None:
        return None
    if not isinstance(entry, dict):
        raise FrameError("what is left of a stream is not an object")
    path = show_name(text(entry, "path", 4096))
    return Left(path=path, missing=integer(entry, "missing")) if path else None


class Text:
    """One stream: decoded as it comes, its beginning and its end kept."""

    def __init__(self, head: int, tail: int) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._parts: list[str] = []
        self._tail = bytearray()
        self._head_left = head
        self._tail_left = tail

    def feed(self, data: bytes) -> str:
        self._head_left -= len(data)
        if self._head_left < 0:
            raise FrameError("more output than was asked for")
        part = self._decoder.decode(data)
        self._parts.append(part)
        return part

    def feed_tail(self, data: bytes) -> None:
        self._tail_left -= len(data)
        if self._tail_left < 0:
            raise FrameError("more output than was asked for")
        self._tail += data

    def whole(self, dropped: int) -> str:
        if not dropped:  # head and tail meet: a character may lie across the border
            rest = self._decoder.decode(bytes(self._tail), True)
            return "".join((*self._parts, rest))
        self._decoder.decode(b"", True)
        tail = self._tail.decode("utf-8", "ignore")
        gap = f"\n… {dropped} bytes left out …\n"
        return "".join((*self._parts, gap, tail))


@dataclass(slots=True)
class _Open:
    """A rich output that is still coming."""

    mime: str
    size: int
    data: bytearray


class Collector:
    """Takes the frames of one execution.  `on_done` is called once, with the last."""

    def __init__(
        self, limits: Limits, on_output: OnOutput | None, on_done: Callable[[], None]
    ) -> None:
        self._limits = limits
        self._on_output = on_output
        self._on_done = on_done
        self._texts: dict[Stream, Text] = {}
        self._outputs: list[Output] = []
        self._open: _Open | None = None
        self._bad_outputs = 0
        self._value: bytearray | None = None
        self._error: tuple[str, str, bytearray] | None = None
        self._cpu = 0.0
        self._dropped: Mapping[str, int] = {}
        self._left: Mapping[str, Left | None] = {}
        self._files: tuple[FileInfo, ...] = ()
        self._files_more = False
        self.done: Mapping[str, Any] | None = None
        """The header of `DONE`."""

    def on_frame(self, frame: Frame) -> None:
        """
        Raises:
            FrameError: what came is not what may come here.
        """
        if self.done is not None:
            raise FrameError("a frame after the end of its execution")
        if frame.kind in _STREAMS:
            self._on_stream(_STREAMS[frame.kind], frame)
        elif frame.kind == Kind.OUTPUT:
            self._on_rich(frame)
        elif frame.kind == Kind.VALUE:
            self._on_value(frame)
        elif frame.kind == Kind.ERROR:
            self._on_error(frame)
        elif frame.kind == Kind.DONE:
            self._on_end(frame.header)
        else:
            raise FrameError(f"frame type {frame.kind} in an execution")

    def _on_stream(self, stream: Stream, frame: Frame) -> None:
        text = self._texts.get(stream)
        if text is None:
            text = Text(self._limits.output_head, self._limits.output_tail)
            self._texts[stream] = text
        if frame.header.get("tail") is True:
            text.feed_tail(frame.body)
            return
        part = text.feed(frame.body)
        if part and self._on_output is not None:
            self._on_output(stream, part)

    def _on_rich(self, frame: Frame) -> None:
        if frame.header:
            mime, size = text(frame.header, "mime", 100), integer(frame.header, "size")
            if self._open is not None or size > self._limits.image_size:
                raise FrameError("a rich output that is too large, or inside another one")
            if len(self._outputs) + self._bad_outputs >= self._limits.images:
                raise FrameError("more rich outputs than were asked for")
            self._open = _Open(mime, size, bytearray())
        if self._open is None:
            raise FrameError("a part of no rich output")
        self._open.data += frame.body
        if len(self._open.data) > self._open.size:
            raise FrameError("a rich output that is longer than it said")
        if len(self._open.data) == self._open.size:
            self._close_rich(self._open)
            self._open = None

    def _close_rich(self, opened: _Open) -> None:
        """Keep it if its bytes are what its type says."""
        data = bytes(opened.data)
        magic = _MAGIC.get(opened.mime)
        if opened.mime not in MIMES or (magic and not data.startswith(magic)):
            self._bad_outputs += 1
            return
        self._outputs.append(Output(mime=opened.mime, data=data))

    def _on_value(self, frame: Frame) -> None:
        self._value = (self._value or bytearray()) + frame.body
        if len(self._value) > MAX_VALUE:
            raise FrameError("a value that is too long")

    def _on_error(self, frame: Frame) -> None:
        if self._error is None:
            name, value = text(frame.header, "name", 1000), text(frame.header, "value", 32 * 1024)
            self._error = (name, value, bytearray())
        self._error[2].extend(frame.body)
        if len(self._error[2]) > MAX_TRACE:
            raise FrameError("a traceback that is too long")

    @property
    def raised(self) -> bool:
        """The code ended in an error."""
        return self._error is not None

    def _on_end(self, header: Mapping[str, Any]) -> None:
        text(header, "status", 32)
        self._cpu = number(header, "cpu")
        # Nearly always there is no more: it went well, and wrote no files.
        if len(header) > 1 or "cpu" not in header:
            self._dropped = {
                name: integer(header, f"{name}_dropped") for name in ("stdout", "stderr", "outputs")
            }
            self._left = {stream: left(header, stream) for stream in _STREAMS.values()}
            self._files = tuple(file_infos(header, self._limits.reported_files))
            self._files_more = header.get("files_more") is True
        self.done = header
        self._on_done()

    def _whole(self, stream: Stream) -> str:
        text = self._texts.get(stream)
        return "" if text is None else text.whole(self._dropped.get(stream, 0))

    def execution(self, id: str, outcome: Outcome | None = None) -> Execution:
        """What was collected, with what its end meant."""
        outcome = outcome or Outcome(status="error" if self.raised else "ok")
        return Execution(
            id=id,
            status=outcome.status,
            stdout=self._whole("stdout"),
            stderr=self._whole("stderr"),
            stdout_dropped=self._dropped.get("stdout", 0),
            stderr_dropped=self._dropped.get("stderr", 0),
            stdout_left=self._left.get("stdout"),
            stderr_left=self._left.get("stderr"),
            value=None if self._value is None else self._value.decode("utf-8", "replace"),
            outputs=tuple(self._outputs),
            outputs_dropped=self._dropped.get("outputs", 0) + self._bad_outputs,
            error=None if self._error is None else _error(*self._error),
            files=self._files,
            files_more=self._files_more,
            state_lost=outcome.state_lost,
            files_lost=outcome.files_lost,
            notice=outcome.notice,
            duration=outcome.duration,
            cpu=self._cpu,
        )


def _error(name: str, value: str, traceback: bytearray) -> ExecutionError:
    return ExecutionError(name=name, value=value, traceback=traceback.decode("utf-8", "replace"))
