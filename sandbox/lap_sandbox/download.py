"""A file out of a container piece by piece, for whoever writes it on as it comes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from lap_sandbox.base import Limits
from lap_sandbox.errors import FrameError, SandboxGone
from lap_sandbox.link import Link
from lap_sandbox.paths import check_path
from lap_sandbox.runner import wire
from lap_sandbox.runner.wire import Frame, Kind
from lap_sandbox.transfer import SILENCE_SECONDS, refusal

Write = Callable[[bytes], Awaitable[None]]


class _Pieces:
    """What came and was not taken yet.  All that waits goes out as one piece, so that a slow
    writer is called less often, not for longer."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._parts: list[bytes] = []
        self.news = anyio.Event()
        self.last: Frame | None = None

    def on_frame(self, frame: Frame) -> None:
        if frame.kind == Kind.DATA and self.last is None:
            # An empty part still costs memory here.
            self._room -= max(len(frame.body), 64)
            if self._room < 0:
                raise FrameError("a longer answer than was asked for")
            self._parts.append(frame.body)
        elif frame.kind in (Kind.REPLY, Kind.FAIL):
            self.last = frame
        else:
            raise FrameError(f"frame type {frame.kind} in an answer")
        self.news.set()

    def on_end(self) -> None:
        self.news.set()

    def take(self) -> bytes:
        taken = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        return taken


async def copy(link: Link, limits: Limits, path: str, write: Write) -> int:
    """Give the bytes of a file to `write`; see `Sandbox.copy`."""
    check_path(path)
    pieces = _Pieces(limits.file_size + 64)
    id = link.expect(pieces.on_frame)
    link.on_end(pieces.on_end)
    size = 0
    try:
        await link.send(wire.encode(Kind.GET, id, {"path": path, "limit": limits.file_size}))
        while True:
            data, last = pieces.take(), pieces.last
            if data:
                await write(data)
                size += len(data)
            elif last is not None:
                if last.kind == Kind.FAIL:
                    raise refusal(last)
                return size
            elif not link.open:
                raise SandboxGone("The sandbox ended before it answered.")
            else:
                await _news(pieces)
    finally:
        link.off_end(pieces.on_end)
        link.forget(id)


async def _news(pieces: _Pieces) -> None:
    """Raises: SandboxGone, after silence."""
    pieces.news = anyio.Event()
    with anyio.move_on_after(SILENCE_SECONDS) as scope:
        await pieces.news.wait()
    if scope.cancelled_caught:
        raise SandboxGone("The sandbox does not answer.")
