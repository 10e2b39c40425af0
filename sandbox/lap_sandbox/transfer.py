"""Files in and out of a container over its link, in chunks, each wait with a deadline."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Sequence

import anyio

from lap_sandbox.base import FileInfo, Limits
from lap_sandbox.collect import file_info, file_infos, text
from lap_sandbox.errors import (
    BadPath,
    FrameError,
    LimitReached,
    NotFound,
    SandboxError,
    SandboxGone,
)
from lap_sandbox.link import Link
from lap_sandbox.paths import check_path, clean_path
from lap_sandbox.runner import wire
from lap_sandbox.runner.wire import Frame, Kind
from lap_sandbox.waiting import Signal

SILENCE_SECONDS = 20.0
"""Without a byte of an answer."""
LISTED = 20_000


def refusal(frame: Frame) -> SandboxError:
    words = text(frame.header, "words", 4096)
    kinds: dict[str, type[SandboxError]] = {
        "path": BadPath,
        "missing": NotFound,
        "limit": LimitReached,
    }
    return kinds.get(text(frame.header, "reason", 32), SandboxError)(words)


def _nothing(frame: Frame) -> None:
    """No part has any room."""


class _Answer:
    """The frames that come back for one request; `take` gets those before the last."""

    def __init__(self, link: Link, room: int, take: Callable[[Frame], object]) -> None:
        self._link = link
        self._room = room
        self._take = take
        self._news = Signal()
        self.last: Frame | None = None
        self.id = link.expect(self._on_frame)
        link.on_end(self._on_end)

    def _on_end(self) -> None:
        self._news.set()

    def _on_frame(self, frame: Frame) -> None:
        if frame.kind == Kind.DATA and self.last is None:
            # An empty part still costs memory here.
            self._room -= max(len(frame.body), 64)
            if self._room < 0:
                raise FrameError("a longer answer than was asked for")
            self._take(frame)
        elif frame.kind in (Kind.REPLY, Kind.FAIL):
            self.last = frame
        else:
            raise FrameError(f"frame type {frame.kind} in an answer")
        self._news.set()

    async def wait(self) -> Frame:
        """The last frame.

        Raises:
            SandboxGone: the link ended, or nothing came for `SILENCE_SECONDS`.
            BadPath, NotFound, LimitReached: as the supervisor says.
        """
        while self.last is None:
            if not self._link.open:
                raise SandboxGone("The sandbox ended before it answered.")
            self._news.clear()
            if not await self._news.wait(SILENCE_SECONDS):
                raise SandboxGone("The sandbox does not answer.")
        if self.last.kind == Kind.FAIL:
            raise refusal(self.last)
        return self.last

    def close(self) -> None:
        self._link.off_end(self._on_end)
        self._link.forget(self.id)


async def put(
    link: Link, limits: Limits, path: str, data: AsyncIterator[bytes] | bytes
) -> FileInfo:
    """Write a file; see `Sandbox.put`."""
    name = clean_path(path)
    answer = _Answer(link, 0, _nothing)
    try:
        await link.send(wire.encode(Kind.PUT, answer.id, {"path": name}))
        try:
            await _send_parts(link, limits, name, data, answer)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await link.send(wire.encode(Kind.ABORT, answer.id))
            raise
        await link.send(wire.encode(Kind.END, answer.id))
        return file_info(dict((await answer.wait()).header))
    finally:
        answer.close()


async def _send_parts(
    link: Link, limits: Limits, name: str, data: AsyncIterator[bytes] | bytes, answer: _Answer
) -> None:
    sent = 0
    async for part in _chunks(data):
        sent += len(part)
        if sent > limits.file_size:
            raise LimitReached(f"`{name}` is larger than {limits.file_size} bytes.")
        if answer.last is not None:  # refused already
            return
        await link.send(wire.encode(Kind.DATA, answer.id, None, part))


async def _chunks(data: AsyncIterator[bytes] | bytes) -> AsyncIterator[bytes]:
    if isinstance(data, bytes):
        for start in range(0, len(data), wire.CHUNK):
            yield data[start : start + wire.CHUNK]
        return
    async for piece in data:
        for start in range(0, len(piece), wire.CHUNK):
            yield piece[start : start + wire.CHUNK]


async def get(link: Link, limits: Limits, path: str) -> bytes:
    """Read a file; see `Sandbox.get`."""
    check_path(path)
    # Grows without copying what it has, and gives it away as it is.
    data = io.BytesIO()
    answer = _Answer(link, limits.file_size + 64, lambda part: data.write(part.body))
    try:
        header = {"path": path, "limit": limits.file_size}
        await link.send(wire.encode(Kind.GET, answer.id, header))
        await answer.wait()
        return data.getvalue()
    finally:
        answer.close()


async def list_files(link: Link, limit: int) -> Sequence[FileInfo]:
    """Files, sorted by path, names with control characters escaped."""
    parts: list[Frame] = []
    answer = _Answer(link, LISTED * 64, parts.append)
    try:
        await link.send(wire.encode(Kind.LIST, answer.id, {"limit": limit}))
        last = await answer.wait()
        found: list[FileInfo] = []
        for frame in (*parts, last):
            found += file_infos(frame.header, LISTED)
        return found[:limit]
    finally:
        answer.close()


async def delete(link: Link, path: str) -> None:
    """Remove a file; see `Sandbox.delete`."""
    check_path(path)
    answer = _Answer(link, 0, _nothing)
    try:
        await link.send(wire.encode(Kind.DELETE, answer.id, {"path": path}))
        await answer.wait()
    finally:
        answer.close()
