"""A model that speaks OpenAI's chat completions, for a server that runs agents itself: the last
prompt's first word says what it answers, and when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PAUSE = 0.05


class Model:
    def __init__(self) -> None:
        self.asked: list[str] = []
        """The newest prompt of each request."""
        self.app = Starlette(
            routes=[Route("/v1/chat/completions", self.complete, methods=["POST"])]
        )

    async def complete(self, request: Request) -> Response:
        body = json.loads(await request.body())
        prompts = [_text(m["content"]) for m in body["messages"] if m["role"] == "user"]
        self.asked.append(prompts[-1])
        skill, _, rest = prompts[-1].partition(" ")
        if skill == "fail":
            error = {"message": rest, "type": "invalid_request_error", "code": "bad_prompt"}
            return JSONResponse({"error": error}, 400)
        words = [f"you said: {prompts[-1]}"]
        if skill == "recall":
            kept = [p.partition(" ")[2] for p in prompts if p.startswith("remember ")]
            words = ["; ".join(kept) or "nothing yet"]
        if skill == "slow":
            words = [f"chunk {n + 1} of {rest}\n" for n in range(int(rest))]
        answer = self._streamed(words, PAUSE if skill == "slow" else 0)
        return StreamingResponse(answer, media_type="text/event-stream")

    async def _streamed(self, words: list[str], pause: float) -> AsyncIterator[str]:
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": word} for word in words]
        for delta in deltas:
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
            await asyncio.sleep(pause)
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        yield f"data: {json.dumps({**head, 'choices': [last]})}\n\n"
        yield "data: [DONE]\n\n"


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content)
