"""A model for the agent in a real n8n: OpenAI's chat completions, streamed, from no model.  What
the conversation's last prompt begins with says what it answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PAUSE = 0.01


def answer(messages: list[dict[str, Any]]) -> list[str]:
    """The chunks of what is said."""
    said = [_text(each) for each in messages if each.get("role") == "user"]
    skill, _, rest = said[-1].partition(" ")
    if skill == "slow":
        count = int(rest)
        return ["first ", *(f"chunk {n + 1} of {count}\n" for n in range(count))]
    if skill == "recall":
        notes = [text.partition(" ")[2] for text in said if text.startswith("remember ")]
        return ["; ".join(notes) or "nothing yet"]
    if skill == "big":
        return ["x" * int(rest)]
    return [word + " " for word in said[-1].split()]


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or [])


async def complete(request: Request) -> Response:
    body = await request.json()
    messages = body["messages"]
    if _text(messages[-1]).startswith("fail "):
        words = _text(messages[-1]).partition(" ")[2]
        return JSONResponse({"error": {"message": words, "type": "invalid_request_error"}}, 400)
    chunks = answer(messages)
    about = {"id": "chatcmpl-1", "created": 1, "model": body["model"]}
    if body.get("stream"):
        return StreamingResponse(_streamed(about, chunks), media_type="text/event-stream")
    message = {"role": "assistant", "content": "".join(chunks)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return JSONResponse({**about, "object": "chat.completion", "choices": [choice], "usage": usage})


async def _streamed(about: dict[str, Any], chunks: list[str]) -> AsyncIterator[str]:
    about = {**about, "object": "chat.completion.chunk"}
    for chunk in chunks:
        choice = {"index": 0, "delta": {"role": "assistant", "content": chunk}}
        yield f"data: {json.dumps({**about, 'choices': [choice]})}\n\n"
        await asyncio.sleep(PAUSE)
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    yield f"data: {json.dumps({**about, 'choices': [last]})}\n\ndata: [DONE]\n\n"


app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
