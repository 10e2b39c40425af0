"""The process that runs cells.  It shares its memory with the user's code: nothing that it sends
is trusted by the supervisor, and nothing that it does can hurt more than its own sandbox."""

from __future__ import annotations

import builtins
import faulthandler
import inspect
import io
import os
import resource
import signal
import socket
import sys
import types
from pathlib import Path
from typing import Any, NoReturn

from lap_sandbox.runner import cells, display, wheels, wire
from lap_sandbox.runner.processes import make_dumpable

LIBRARY = "/opt/lap/lib"
DATA = "/mnt/data"
_READ = 64 * 1024

# What `signal.signal` wraps: it makes enum members of numbers, at 10 µs a cell.
_handle = inspect.unwrap(signal.signal)
_SIGINT = int(signal.SIGINT)


def _no_input(prompt: object = "") -> NoReturn:
    raise EOFError("input() is not available here: nobody can type. Put the value into the code.")


def _ignore_interrupt(number: int, frame: object) -> None:
    """Between cells.  A handler, not SIG_IGN, because child processes inherit the latter."""


class Channel:
    """Frames to and from the supervisor, blocking."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._decoder = wire.Decoder()
        self._frames: list[wire.Frame] = []
        self._held = b""

    def send(
        self, kind: int, id: int, header: dict[str, Any] | None = None, body: bytes = b""
    ) -> None:
        data, self._held = self._held + wire.encode(kind, id, header, body), b""
        self._end.sendall(data)

    def hold(self, kind: int, id: int, body: bytes) -> None:
        """Send it together with what comes next, so that the supervisor, the engine and the host
        are woken once.  Only where no code of the user comes before that."""
        self._held += wire.encode(kind, id, None, body)

    def release(self) -> None:
        """Send what is held."""
        data, self._held = self._held, b""
        if data:
            self._end.sendall(data)

    def receive(self) -> wire.Frame:
        while not self._frames:
            data = self._end.recv(_READ)
            if not data:
                os._exit(0)
            self._frames = self._decoder.feed(data)
        return self._frames.pop(0)


class Outputs:
    """Rich outputs of the running cell, cut into frames, within its limits."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._id = 0
        self._left = 0
        self._size = 0
        self.dropped = 0

    def begin(self, id: int, count: int, size: int) -> None:
        self._id, self._left, self._size, self.dropped = id, count, size, 0

    def room(self) -> bool:
        self._channel.release()  # what is drawn next may take long, or never end
        if self._left > 0:
            return True
        self.dropped += 1
        return False

    def emit(self, mime: str, data: bytes) -> None:
        if len(data) > self._size or self._left <= 0:
            self.dropped += 1
            return
        self._left -= 1
        header: dict[str, Any] | None = {"mime": mime, "size": len(data)}
        for start in range(0, max(len(data), 1), wire.CHUNK):
            part = data[start : start + wire.CHUNK]
            self._channel.send(wire.Kind.OUTPUT, self._id, header, part)
            header = None


class Worker:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._outputs = Outputs(channel)
        self._shower = display.Shower(self._outputs)
        self._cells = cells.Cells(self._fresh_namespace())
        self._pid = os.getpid()

    def _fresh_namespace(self) -> dict[str, Any]:
        # A real module, so that classes of cells can be pickled.
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        builtins.display = self._shower.display  # type: ignore[attr-defined]
        builtins.input = _no_input
        builtins.__pip__ = wheels.pip  # type: ignore[attr-defined]
        main.__dict__["__builtins__"] = builtins
        return main.__dict__

    def serve(self) -> NoReturn:
        display.show_hooks.append(self._shower.figures)
        self._channel.send(wire.Kind.READY, 0, {"pid": self._pid})
        while True:
            frame = self._channel.receive()
            if frame.kind != wire.Kind.EXECUTE:
                continue
            parts = [frame.body]
            more = frame.header.get("more")
            while more and (part := self._channel.receive()).kind == wire.Kind.DATA:
                parts.append(part.body)
            code = b"".join(parts).decode("utf-8", "replace")
            if frame.id:
                self._execute(frame, code)
            else:
                self._rehearse(frame, code)

    def _rehearse(self, frame: wire.Frame, code: str) -> None:
        """Run what the supervisor sends before any code of the user; it leaves no name and does
        not count as a cell."""
        kept = self._cells
        self._cells = cells.Cells(dict(kept.namespace))
        self._execute(frame, code)
        self._cells = kept

    def _execute(self, frame: wire.Frame, code: str) -> None:
        limits = frame.header
        self._outputs.begin(frame.id, int(limits["outputs"]), int(limits["output_size"]))
        raised: cells.Raised | None
        try:
            raised = self._interruptible(frame.id, code)
        except KeyboardInterrupt as error:  # it came just as the cell ended
            _handle(_SIGINT, _ignore_interrupt)
            raised = cells.raised_by(error)
        if os.getpid() != self._pid:  # a child that the cell forked came out of it
            cells.flush_streams()
            os._exit(0)
        self._shower.end_cell()
        if raised is not None:
            text = {"name": raised.name, "value": raised.value}
            self._channel.send(
                wire.Kind.ERROR, frame.id, text, raised.traceback.encode("utf-8", "replace")
            )
        cells.flush_streams()
        dropped = self._outputs.dropped
        self._channel.send(
            wire.Kind.DONE, frame.id, {"outputs_dropped": dropped} if dropped else None
        )

    def _interruptible(self, id: int, code: str) -> cells.Raised | None:
        stdin = getattr(sys, "stdin", None)
        if getattr(stdin, "closed", True):  # `exit()` closes it
            sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
        _handle(_SIGINT, signal.default_int_handler)
        try:
            return self._run(id, code)
        finally:
            _handle(_SIGINT, _ignore_interrupt)

    def _run(self, id: int, code: str) -> cells.Raised | None:
        raised: cells.Raised | None = None
        try:
            value = self._cells.run(code)
            if value is not cells.NO_VALUE:
                text = display.bounded_repr(value).encode("utf-8", "backslashreplace")
                self._channel.hold(wire.Kind.VALUE, id, text)
                if type(value) not in display.PLAIN:
                    self._channel.release()
                    self._shower.show(value)
        except KeyboardInterrupt as error:
            self._shower.close_figures()
            return cells.raised_by(error)
        except BaseException as error:  # the boundary of the user's code: all of it is reported
            raised = cells.raised_by(error)
        try:
            self._shower.figures()
        except BaseException as error:  # drawing runs the user's code too
            raised = raised or cells.raised_by(error)
        return raised


def _streams() -> None:
    """Text streams over the pipes to the supervisor, a line at a time."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        raw = io.FileIO(number, "w", closefd=False)
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw), "utf-8", errors="backslashreplace", line_buffering=True
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _reseed() -> None:
    """Otherwise every worker of this zygote would draw the same numbers."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def run(channel: int, stdout: int, stderr: int) -> NoReturn:
    """Become the worker: called in the child that the zygote forked, with its three ends."""
    make_dumpable(True)
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (stdout, 1), (stderr, 2)):
        os.dup2(source, target)
        os.close(source)
    os.set_inheritable(channel, False)
    _streams()
    _reseed()
    faulthandler.enable()
    signal.signal(signal.SIGINT, _ignore_interrupt)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # The kernel is to choose this one, not the supervisor, when memory runs out.
    Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.path[:] = [DATA, *(entry for entry in sys.path if entry not in (LIBRARY, DATA))]
    sys.argv = [""]
    os.chdir(DATA)
    Worker(Channel(socket.socket(fileno=channel))).serve()
