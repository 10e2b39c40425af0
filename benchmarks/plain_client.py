"""A client that does the least that a client can: it writes a request and reads its answer.

The official client checks, models and schedules; and where a server takes a millisecond to answer,
the same client takes longer for the same work, because its caches are cold by then.  With this one
what is measured is the server's.  Calls block: nothing else runs in the benchmark meanwhile.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import select
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from subprocess import Popen
from typing import Any, Protocol
from urllib.parse import urlsplit

from .surroundings import PLUGGED, Place, started

VERSION = "2026-07-28"
SECONDS = 120.0


class PlainClient(Protocol):
    pid: int

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The first text of a tool's answer.  Raises: RuntimeError where it is an error."""
        ...


def request(number: int, name: str, arguments: Mapping[str, Any]) -> bytes:
    """`tools/call` of the revision 2026-07-28, which needs no handshake."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
    }
    params = {"name": name, "arguments": arguments, "_meta": meta}
    return json.dumps(
        {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
    ).encode()


def text_of(answer: Mapping[str, Any]) -> str:
    result = answer.get("result")
    if not isinstance(result, dict) or result.get("isError"):
        raise RuntimeError(json.dumps(answer)[:1000])
    return str(result["content"][0]["text"])


class _Stdio:
    def __init__(self, process: Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self._stdin, self._stdout = process.stdin, process.stdout.fileno()
        self._came = b""
        self._numbers = itertools.count(1)

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        number = next(self._numbers)
        self._stdin.write(request(number, name, arguments) + b"\n")
        self._stdin.flush()
        while (answer := json.loads(self._line())).get("id") != number:
            pass  # a notification
        return text_of(answer)

    def _line(self) -> bytes:
        while b"\n" not in self._came:
            if not select.select([self._stdout], [], [], SECONDS)[0]:
                raise RuntimeError(f"no answer within {SECONDS:.0f} s")
            data = os.read(self._stdout, 64 * 1024)
            if not data:
                raise RuntimeError("the server has ended")
            self._came += data
        line, _, self._came = self._came.partition(b"\n")
        return line


class _HTTP:
    def __init__(self, connection: http.client.HTTPConnection, key: str, pid: int) -> None:
        self.pid = pid
        self._connection = connection
        self._numbers = itertools.count(1)
        self._headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": VERSION,
            "Mcp-Method": "tools/call",
        }

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        number = next(self._numbers)
        self._connection.request(
            "POST", "/mcp", request(number, name, arguments), {**self._headers, "Mcp-Name": name}
        )
        reply = self._connection.getresponse()
        body = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{reply.status}: {body[:1000].decode(errors='replace')}")
        for line in body.splitlines():
            if line.startswith((b"{", b"data:")):
                answer = json.loads(line.removeprefix(b"data:"))
                if answer.get("id") == number:
                    return text_of(answer)
        raise RuntimeError("no answer among the events")


@contextmanager
def plain_stdio(place: Place) -> Iterator[PlainClient]:
    with started([*PLUGGED, str(place.config)], env=place.environ) as process:
        yield _Stdio(process)


@contextmanager
def plain_http(place: Place) -> Iterator[PlainClient]:
    with started([*PLUGGED, str(place.config), "--http"], env=place.environ) as process:
        assert process.stdout is not None
        served = json.loads(process.stdout.readline())
        address = urlsplit(served["url"])
        assert address.hostname is not None
        with closing(
            http.client.HTTPConnection(address.hostname, address.port, timeout=SECONDS)
        ) as connection:
            yield _HTTP(connection, served["key"], process.pid)
