"""A client that costs next to nothing: one keep-alive connection, bytes in and out."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Timed:
    first: float
    """Seconds to the first byte of the body."""
    whole: float
    body: bytes


class Wire:
    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key

    async def __aenter__(self) -> Wire:
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._port, limit=1 << 22
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def post(self, path: str, body: Any) -> Timed:
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\n"
            f"authorization: Bearer {self._key}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(data)}\r\n\r\n"
        )
        begun = time.perf_counter()
        self._writer.write(head.encode() + data)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        fields = dict(
            line.split(b": ", 1) for line in answer.lower().split(b"\r\n")[1:] if b": " in line
        )
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer.decode())
        if b"content-length" in fields:
            found = await self._reader.readexactly(int(fields[b"content-length"]))
            now = time.perf_counter() - begun
            return Timed(now, now, found)
        parts: list[bytes] = []
        first = 0.0
        while size := int(await self._reader.readline(), 16):
            parts.append((await self._reader.readexactly(size + 2))[:-2])
            first = first or time.perf_counter() - begun
        await self._reader.readline()
        return Timed(first, time.perf_counter() - begun, b"".join(parts))
