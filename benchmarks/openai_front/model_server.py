"""A model's server that costs next to nothing: fixed answers over bare sockets, keep-alive.

    python -m benchmarks.openai_front.model_server

prints its port.  Without tools it answers JSON, or a short stream; with our tool offered it calls
it once and then answers.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 15,
}


def _response(output: list[Any]) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "m",
        "output": output,
        "usage": USAGE,
    }


def _message() -> dict[str, Any]:
    part = {"type": "output_text", "text": "hello there", "annotations": []}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    return {**head, "content": [part]}


def _call(name: str) -> dict[str, Any]:
    return {
        "id": "fc_1",
        "type": "function_call",
        "call_id": "call_1",
        "name": name,
        "arguments": '{"code": "x = 1"}',
        "status": "completed",
    }


def _stream(item: dict[str, Any]) -> bytes:
    opened = {**item, "status": "in_progress"}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**_response([]), "status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": opened},
    ]
    if item["type"] == "function_call":
        opened["arguments"] = ""
        where = {"output_index": 0, "item_id": "fc_1"}
        kind = "response.function_call_arguments.delta"
        events.append({"type": kind, **where, "delta": item["arguments"]})
    else:
        opened["content"] = []
        where = {"output_index": 0, "item_id": "msg_1", "content_index": 0}
        part = item["content"][0]
        events.append(
            {"type": "response.content_part.added", **where, "part": {**part, "text": ""}}
        )
        events += [
            {"type": "response.output_text.delta", **where, "delta": word}
            for word in ("hello", " ", "there")
        ]
        events.append({"type": "response.output_text.done", **where, "text": part["text"]})
        events.append({"type": "response.content_part.done", **where, "part": part})
    events.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    events.append({"type": "response.completed", "response": _response([item])})
    frames = (f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events)
    return "".join(frames).encode()


def _http(kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


WHOLE = _http("application/json", json.dumps(_response([_message()])).encode())
STREAM = _http("text/event-stream", _stream(_message()))


def answer(body: bytes) -> bytes:
    asked = json.loads(body)
    names = [tool.get("name", "") for tool in asked.get("tools") or ()]
    given = asked.get("input")
    if names and isinstance(given, list) and given[-1].get("type") != "function_call_output":
        return _http("text/event-stream", _stream(_call(names[0])))
    return STREAM if asked.get("stream") else WHOLE


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            )
            writer.write(answer(await reader.readexactly(length)))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
