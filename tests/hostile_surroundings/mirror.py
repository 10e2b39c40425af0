"""A server that repeats the credential it is sent wherever it can: texts, errors, cards, files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[str]

    def _sent(self) -> str:
        """Every header, as text."""
        sent = " ".join(f"{name}: {value}" for name, value in self.headers.items())
        self.seen.append(sent)
        return sent

    def do_GET(self) -> None:
        sent = self._sent()
        if self.path.startswith("/card"):
            self._answer(200, _card(self.server.server_address[1], sent))  # type: ignore[index]
        else:
            self._answer(404, {"error": {"message": f"not here, with {sent}"}})

    def do_OPTIONS(self) -> None:
        self._answer(200, {"allow": self._sent()})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length).decode()
        sent = self._sent()
        if "fail" in body:
            self._answer(500, {"error": {"message": f"you sent {sent}"}})
        elif self.path.startswith("/card"):
            self._answer(
                200, {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": sent}}
            )
        elif self.path.endswith("/responses"):
            self._answer(200, _response(sent))
        else:
            self._answer(200, {"text": f"you sent {sent}", "data": {sent: [sent]}, "id": sent})

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


def _card(port: int, sent: str) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port}/card/rpc"
    return {
        "name": f"Mirror {sent}",
        "description": f"It was sent {sent}",
        "version": "1",
        "protocolVersion": "0.3.0",
        "url": url,
        "preferredTransport": "JSONRPC",
        "supportedInterfaces": [
            {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
        ],
        "capabilities": {"streaming": False},
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": [{"id": "s", "name": sent, "description": sent, "tags": [sent]}],
    }


def _response(sent: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": f"you sent {sent}", "annotations": []}]
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 0,
        "status": "completed",
        "model": "m",
        "output": [
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
             "content": content}
        ],
    }  # fmt: skip


@contextmanager
def mirror() -> Iterator[tuple[str, list[str]]]:
    """Its address, and the headers of each request that came."""
    seen: list[str] = []
    handler = type("Seeing", (Handler,), {"seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", seen
        finally:
            server.shutdown()
            thread.join()
