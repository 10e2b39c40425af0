"""PID 1 of a sandbox: speaks with the host, keeps a worker, and ends everything else.

One thread, one `epoll` loop, standard library only.  It trusts the host; it trusts neither
the worker nor anything in /mnt/data.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from lap_sandbox.runner import processes, wire
from lap_sandbox.runner.execution import REHEARSAL, Running
from lap_sandbox.runner.host import Host
from lap_sandbox.runner.outgoing import Outgoing
from lap_sandbox.runner.plain import is_plain
from lap_sandbox.runner.polling import Poller
from lap_sandbox.runner.requests import Requests
from lap_sandbox.runner.streams import READ, Streams
from lap_sandbox.runner.wire import Kind

HOST_READ = 256 * 1024
HIGH_WATER = 1024 * 1024
"""Bytes waiting for the host beyond which worker and file reads pause; streams are drained on."""
WARM_SECONDS = 0.25
"""Without code to run, after which a worker with everything imported is had."""
MAX_FAILURES = 5
"""Zygotes and workers in a row that end before they are ready."""


class Supervisor:
    """`idle_stop`: seconds without a request after which everything else is stopped."""

    def __init__(self, root: str, idle_stop: float, host: Host) -> None:
        self._host = host
        self._idle_stop = idle_stop
        self._poller = Poller()
        self._decoder = wire.Decoder()
        self._incoming = memoryview(bytearray(HOST_READ))
        self._out = Outgoing(host.writes, self._poller, self._pause_or_resume)
        self._requests = Requests(root, self._out.send)
        self._counters = processes.Counters()
        self._running: Running | None = None
        self._next: tuple[wire.Frame, bytearray] | None = None
        self._queued: tuple[wire.Frame, bytes] | None = None
        self._worker_pid = 0
        self._channel: socket.socket | None = None
        self._worker_decoder = wire.Decoder()
        self._streams: Streams | None = None
        self._asked: tuple[Mapping[str, Any], bytes] = ({}, b"")
        self._lost = ""
        self._still = False
        self._announced = False
        self._stopped = False
        self._failures = 0
        self._last = time.monotonic()
        self._wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        self._poller.watch(self._wake_read, self._on_children)
        host.watch(self._poller, self._on_host)
        self._zygote: processes.Zygote
        self._start_zygote()

    # -- the loop

    def serve(self) -> NoReturn:
        gc.freeze()
        while True:
            self._poller.wait(self._patience())
            if self._streams is not None:
                self._streams.wake()
            if self._requests.busy:
                self._requests.pump(HIGH_WATER - len(self._out))
            if self._out:
                self._out.flush()

    def _patience(self) -> float | None:
        if self._requests.busy and len(self._out) < HIGH_WATER:
            return 0
        if self._streams is not None and (rest := self._streams.rest()) is not None:
            return rest
        if self._running is not None or self._stopped or self._queued is not None:
            return None
        if self._channel is None and self._zygote.ready:
            left = self._last + WARM_SECONDS - time.monotonic()
            if left <= 0:
                self._have_worker(warm=True)
                return None
            return left
        left = self._last + self._idle_stop - time.monotonic()
        if left <= 0 and self._worker_pid:
            self._stopped = True
            processes.signal_all(signal.SIGSTOP)
            return None
        return max(left, 0.05)

    # -- the host

    def _pause_or_resume(self) -> None:
        """Stop reading rich outputs while the host does not keep up."""
        channel = self._channel
        if channel is None:
            return
        watched = self._poller.watches(channel.fileno())
        if len(self._out) > HIGH_WATER and watched:
            self._poller.unwatch(channel.fileno())
        elif len(self._out) <= HIGH_WATER and not watched:
            self._poller.watch(channel.fileno(), self._on_worker)

    def _on_host(self) -> None:
        try:
            size = os.readv(self._host.reads, (self._incoming,))
        except BlockingIOError:
            return
        if not size:  # the host is gone: so is everything here
            os._exit(0)
        try:
            frames = self._decoder.feed(self._incoming[:size])
        except wire.WireError as error:
            print(f"supervisor: {error}", file=sys.stderr)  # noqa: T201
            os._exit(65)
        for frame in frames:
            self._on_frame(frame)

    def _on_frame(self, frame: wire.Frame) -> None:
        self._last = time.monotonic()
        if self._stopped:
            self._stopped = False
            processes.signal_all(signal.SIGCONT)
        if frame.kind == Kind.EXECUTE and frame.header.get("more") is True:
            self._next = (frame, bytearray(frame.body))
        elif frame.kind == Kind.EXECUTE:
            self._queued = (frame, frame.body)
            self._begin()
        elif frame.kind == Kind.INTERRUPT:
            self._interrupt()
        elif frame.kind == Kind.WARM_UP:
            self._have_worker(warm=True)
        elif frame.kind == Kind.KILL:
            self._replace_worker("killed")
            self._out.send(Kind.REPLY, frame.id)
        elif self._next is not None and frame.id == self._next[0].id:
            self._on_code(frame)
        else:
            self._still = False
            self._requests.handle(frame)

    def _on_code(self, frame: wire.Frame) -> None:
        assert self._next is not None
        if frame.kind == Kind.DATA:
            self._next[1].extend(frame.body)
        elif frame.kind == Kind.END:
            self._queued = (self._next[0], bytes(self._next[1]))
            self._next = None
            self._begin()

    # -- executions

    def _begin(self) -> None:
        """Hand the waiting code to the worker, if there is one and it does nothing else."""
        if self._queued is None or self._running is not None:
            return
        if not self._worker_pid or self._channel is None:
            self._have_worker(warm=not is_plain(self._queued[1]))
            return
        frame, code = self._queued
        self._queued = None
        if frame.header is not self._asked[0]:
            self._asked = frame.header, wire.header_bytes(frame.header)
        data = wire.frame(Kind.EXECUTE, frame.id, self._asked[1], code[: wire.CHUNK])
        if "more" in frame.header:
            for start in range(wire.CHUNK, len(code), wire.CHUNK):
                data += wire.frame(Kind.DATA, frame.id, b"", code[start : start + wire.CHUNK])
            data += wire.frame(Kind.END, frame.id)
        told = self._tell_worker(self._channel, data)
        self._running = Running(
            frame, self._counters, self._requests.printed, lost=self._lost, still=self._still
        )
        self._lost, self._still = "", False
        if not told:
            self._replace_worker("died")

    @staticmethod
    def _tell_worker(channel: socket.socket, data: bytes) -> bool:
        """The worker waits for exactly this, so that blocking is short where it happens at all."""
        try:
            sent = channel.send(data)
            if sent < len(data):
                channel.settimeout(2.0)
                channel.sendall(data[sent:])
                channel.setblocking(False)
        except OSError:
            return False
        return True

    def _interrupt(self) -> None:
        if self._queued is not None:
            frame, _ = self._queued
            self._queued = None
            self._out.send(Kind.DONE, frame.id, {"status": "interrupted", "interrupted": True})
        elif self._running is not None and self._running.id and self._worker_pid:
            self._running.interrupted = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._worker_pid, signal.SIGINT)

    def _on_output(self, kind: int, data: bytes) -> None:
        running = self._running
        if running is not None and (head := running.feed(kind, data)):
            self._out.send(kind, running.id, None, head)

    def _on_worker(self) -> None:
        if self._channel is None:  # dropped in this round of the loop
            return
        try:
            data = self._channel.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._on_worker_gone()
            return
        try:
            for frame in self._worker_decoder.feed(data):
                self._on_worker_frame(frame)
        except wire.WireError:
            self._replace_worker("died")

    def _on_worker_gone(self) -> None:
        """Its channel is closed.  A worker that was ready is reported by its exit status."""
        assert self._channel is not None
        self._poller.unwatch(self._channel.fileno())
        if self._worker_pid:
            return
        self._count_failure(True)
        self._replace_worker("died")

    def _count_failure(self, failed: bool) -> None:
        self._failures += failed
        if self._failures > MAX_FAILURES:
            os._exit(70)  # the host replaces the container

    def _on_worker_frame(self, frame: wire.Frame) -> None:
        if frame.kind == Kind.READY and not self._worker_pid:
            self._on_worker_ready(frame)
            return
        running = self._running
        if running is None or frame.id != running.id:
            return  # a cell's thread talks out of turn: nobody waits for it
        if frame.id == REHEARSAL.id:
            if frame.kind == Kind.DONE:
                self._rehearsed(running)
        elif frame.kind == Kind.DONE:
            self._finish(running, frame.header)
        elif running.admit(frame):
            self._out.send(frame.kind, frame.id, frame.header, frame.body)

    def _on_worker_ready(self, frame: wire.Frame) -> None:
        # Its first frame, sent before it saw any of the user's code.
        self._worker_pid = int(frame.header["pid"])
        if self._zygote.warm and self._queued is None and self._channel is not None:
            # Once through everything that an execution goes through, here and in the worker:
            # what is done for the first time takes several times as long.
            self._tell_worker(self._channel, wire.encode(*REHEARSAL))
            self._running = Running(REHEARSAL, self._counters, self._requests.printed)
            return
        self._failures = 0
        if self._zygote.warm:
            self._out.send(Kind.WARM, 0)
        self._begin()

    def _rehearsed(self, running: Running) -> None:
        self._counters.tasks()
        running.summary({}, [], False)
        self._running = None
        self._failures = 0
        self._out.send(Kind.WARM, 0)
        self._begin()

    def _finish(self, running: Running, header: Mapping[str, object]) -> None:
        # This process, the zygote and the worker: nobody else is there to be looked for.
        alone = self._counters.tasks() == 3
        if self._worker_pid and not alone:
            processes.sweep(self._zygote.pid, self._worker_pid)
        if self._streams is not None:
            self._streams.drain()
        for kind, tail in running.tails():
            for start in range(0, len(tail), wire.CHUNK):
                self._out.send(kind, running.id, {"tail": True}, tail[start : start + wire.CHUNK])
        files, more = self._requests.changed(running.files)
        summary = running.summary(header, files, more)
        self._out.add(wire.frame(Kind.DONE, running.id, summary))
        self._running = None
        self._still = alone
        self._last = time.monotonic()

    # -- processes

    def _start_zygote(self) -> None:
        self._zygote = processes.Zygote()
        self._poller.watch(self._zygote.control.fileno(), self._on_zygote)

    def _on_zygote(self) -> None:
        try:
            data = self._zygote.control.recv(16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._poller.unwatch(self._zygote.control.fileno())
            return
        self._zygote.ready = True
        self._zygote.warm = processes.WARM in data
        self._last = time.monotonic()
        if not self._announced:
            self._announced = True
            self._host.announce(self._out)
        if self._zygote.warm:
            self._have_worker(warm=True)
        else:
            self._begin()

    def _have_worker(self, *, warm: bool) -> None:
        """Order a worker where there is none; `warm`: not before everything is imported."""
        if not self._zygote.ready or self._channel is not None:
            return
        if warm and not self._zygote.warm:
            with contextlib.suppress(OSError):  # it died: noticed as a child that ended
                self._zygote.warm_up()
            return
        try:
            channel, out, error = self._zygote.order_worker()
        except OSError:  # it died: noticed as a child that ended
            return
        self._channel = channel
        self._worker_decoder = wire.Decoder()
        self._streams = Streams(self._poller, out, error, self._on_output)
        self._poller.watch(channel.fileno(), self._on_worker)

    def _replace_worker(self, status: str, how: dict[str, object] | None = None) -> None:
        """End every process but this and the zygote, tell the host, have a fresh worker."""
        self._worker_pid = 0
        processes.kill_tree([self._zygote.pid])
        running = self._running
        if running is not None and running.id == REHEARSAL.id:
            self._running = None
            self._count_failure(status == "died")
        elif running is not None:
            self._finish(running, {"status": status, "state_lost": True, **(how or {})})
        elif status == "died":
            self._lost = "died"
        self._drop_worker()
        self._on_children()
        self._have_worker(warm=self._zygote.warm)

    def _drop_worker(self) -> None:
        if self._channel is not None:
            self._poller.unwatch(self._channel.fileno())
            self._channel.close()
            self._channel = None
        if self._streams is not None:
            self._streams.close()
            self._streams = None

    def _on_children(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        ended = processes.reap_all()
        if self._zygote.pid in ended:
            self._count_failure(not self._zygote.ready)
            self._poller.unwatch(self._zygote.control.fileno())
            self._zygote.end()
            self._start_zygote()
            if not self._worker_pid:
                self._drop_worker()
        if self._worker_pid in ended:
            status = ended[self._worker_pid]
            code = os.waitstatus_to_exitcode(status)
            self._replace_worker("died", {"exit": code})


def main() -> NoReturn:
    """Be PID 1 of a sandbox.  Arguments: `idle_stop`, and where the host may listen."""
    if os.getpid() != 1:
        sys.exit("this is only for PID 1 of a sandbox: it signals every process that it sees")
    processes.make_dumpable(False)
    os.environ.setdefault("MPLCONFIGDIR", "/tmp/.matplotlib")
    host = Host(sys.argv[2] if len(sys.argv) > 2 else None)
    Supervisor("/mnt/data", float(sys.argv[1]), host).serve()
