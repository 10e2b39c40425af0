"""What is sent to an n8n trigger, and how its answer is read, also when it is stopped."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import anyio

from lap_runtimes.base import MAX_FILE_BYTES, Event, File, PromptFile
from lap_runtimes.files import plain_name
from lap_runtimes.http import Reply
from lap_runtimes.n8n_fold import AnswerFold
from lap_runtimes.stream import StreamReader


async def multipart(body: Mapping[str, Any], files: Sequence[PromptFile]) -> tuple[bytes, str]:
    """RFC 7578.  n8n takes values that are no text as JSON."""
    boundary = uuid.uuid4().hex
    parts: list[bytes] = []
    for name, value in body.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n'
        parts += [head.encode(), text.encode(), b"\r\n"]
    for file in files:
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="files"; '
            f'filename="{_quoted(file.name)}"\r\nContent-Type: {file.media_type}\r\n\r\n'
        )
        parts += [head.encode(), await file.read(), b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"


def _quoted(name: str) -> str:
    """As browsers write names (WHATWG HTML, multipart form data)."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


class Reading:
    """An answer that is being read, and can be stopped from elsewhere: n8n leaves the stream of an
    execution that was stopped open for ever."""

    def __init__(self) -> None:
        self.stopping = False
        """A failure that comes now is that of being stopped."""
        self.stopped = False
        self._scope = anyio.CancelScope()

    def stop(self) -> None:
        self.stopped = True
        self._scope.cancel()

    async def next(self, chunks: AsyncGenerator[bytes, None]) -> bytes | None:
        """The next chunk; None: there is none."""
        chunk: bytes | None = None
        self._scope = anyio.CancelScope()
        if not self.stopped:
            with self._scope:
                chunk = await anext(chunks, None)
        return None if self.stopped else chunk


async def lines_of(reply: Reply, reading: Reading) -> AsyncGenerator[str, None]:
    reader = StreamReader("ndjson")
    async with aclosing(reply.chunks()) as chunks:
        while (chunk := await reading.next(chunks)) is not None:
            for frame in reader.feed(chunk):
                yield frame.data
    for frame in [] if reading.stopped else reader.close():
        yield frame.data


async def file_of(reply: Reply, started: str, fold: AnswerFold) -> list[Event]:
    """An answer that is a text, or a file: what its workflow's last node made of it."""
    kind = reply.media_type
    data = await reply.read(MAX_FILE_BYTES)
    if kind.startswith("text/"):
        return fold.whole(data.decode("utf-8", "replace"))
    given = reply.headers.get("content-disposition", "").partition("filename=")[2].strip('"; ')
    file_id = started.replace("/started", "/file")
    name = plain_name(given, fallback="answer", media_type=kind)
    file = File(id=file_id, file_id=file_id, name=name, media_type=kind, data=data)
    return [file, *fold.whole(None)]
