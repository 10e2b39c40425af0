"""A program that speaks MCP badly, by hand: `rough_server.py FOLDER`.  The prompt says how."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[1])
MANNER = sys.argv[2] if len(sys.argv) > 2 else ""
SCHEMA = {"type": "object", "properties": {"prompt": {"type": "string"}}}


def write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def send(**message: Any) -> None:
    write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")


def call(request_id: Any, word: str) -> None:
    if word == "die":
        sys.stderr.write(f"no more {os.environ.get('KEY', '')}\n")
        sys.stderr.flush()
        os._exit(4)
    if word == "noise":
        write("".join(f"banner {number}\n" for number in range(2000)))
    if word == "endless line":
        while True:
            write("x" * 1_000_000)
    if word == "wait":
        time.sleep(600)
    if word == "ask nobody":
        params = {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}
        send(id=77, method="elicitation/create", params=params)
        return
    content = [{"type": "text", "text": "fine"}, {"type": "hologram", "beam": 1}]
    send(id=request_id, result={"content": content if word == "strange" else content[:1]})


def main() -> None:
    (FOLDER / f"pid-{os.getpid()}").touch()
    waiting: Any = None
    for line in sys.stdin:
        message = json.loads(line)
        method, request_id = message.get("method"), message.get("id")
        if method == "initialize":
            version = "1999-01-01" if MANNER == "another version" else "2025-06-18"
            about = {"name": "rough", "version": "0"}
            result = {"protocolVersion": version, "capabilities": {}, "serverInfo": about}
            send(id=request_id, result=result)
        elif method == "tools/list":
            tools = [{"name": "agent", "inputSchema": SCHEMA}]
            more = {"nextCursor": "again"} if MANNER == "endless list" else {}
            send(id=request_id, result={"tools": tools, **more})
        elif method == "tools/call":
            waiting = request_id
            call(request_id, message["params"]["arguments"]["prompt"])
        elif request_id == 77:
            text = json.dumps(message["result"])
            send(id=waiting, result={"content": [{"type": "text", "text": text}]})
        elif request_id is not None:
            send(id=request_id, error={"code": -32601, "message": "Method not found"})


if __name__ == "__main__":
    main()
