"""A model's server that costs next to nothing: fixed answers over bare sockets, keep-alive.

    python -m benchmarks.openai_front.model_server

prints its port.  Without tools it answers JSON, or a short stream whose first events come 5 ms
before the rest; with a function offered it calls it once and then answers.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from . import message_model

PAUSE: Final = 0.005
"""Seconds between the first events of a stream and the rest."""
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


def _frames(item: dict[str, Any]) -> list[bytes]:
    """The events of an answer that is this one item."""
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
    return [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events]


def _whole(item: dict[str, Any]) -> bytes:
    return _json(_response([item]))


def _json(value: Any) -> bytes:
    body = json.dumps(value).encode()
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _stream(item: dict[str, Any]) -> tuple[bytes, bytes]:
    return _streamed(_frames(item))


def _streamed(frames: list[bytes]) -> tuple[bytes, bytes]:
    """In two parts."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    head += b"transfer-encoding: chunked\r\n\r\n"
    chunks = [b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames]
    return head + b"".join(chunks[:2]), b"".join([*chunks[2:], b"0\r\n\r\n"])


WHOLE = _whole(_message())
STREAM = _stream(_message())


def answer(body: bytes) -> bytes | tuple[bytes, bytes]:
    """The bytes; two parts, if there is to be a pause between them."""
    asked = json.loads(body)
    names = [tool.get("name", "") for tool in asked.get("tools") or ()]
    given = asked.get("input")
    last = given[-1] if isinstance(given, list) else {}
    if names and last.get("type") != "function_call_output":
        called = _call(names[0])
        return b"".join(_stream(called)) if asked.get("stream") else _whole(called)
    if not asked.get("stream"):
        return WHOLE
    return b"".join(STREAM) if names else STREAM


def message(body: bytes) -> bytes | tuple[bytes, bytes]:
    """As `answer`, for `/v1/messages`."""
    asked = json.loads(body)
    whole, frames = message_model.answer(asked)
    if not asked.get("stream"):
        return _json(whole)
    parts = _streamed(frames)
    return b"".join(parts) if asked.get("tools") else parts


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            ]
            if not lengths:
                break  # LiteLLM looks whether somebody is there
            body = await reader.readexactly(lengths[0])
            messages = head.split(b" ", 2)[1].startswith(b"/v1/messages")
            said = message(body) if messages else answer(body)
            if isinstance(said, tuple):
                writer.write(said[0])
                await asyncio.sleep(PAUSE)
                said = said[1]
            writer.write(said)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
