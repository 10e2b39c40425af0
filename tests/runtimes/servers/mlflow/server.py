"""A real MLflow AgentServer, its agent without a model: the prompt's first word says what it does.
It keeps the conversation by `context.conversation_id`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from mlflow.genai.agent_server import AgentServer, invoke, stream

PAUSE = 0.02
notes: dict[str, list[str]] = defaultdict(list)
asked: dict[str, str] = {}
cancelled: list[str] = []
numbers = itertools.count(1)


@invoke()
async def whole(request: Any) -> Any:
    raise ValueError("this agent only streams")


@stream()
async def streamed(request: Any) -> AsyncIterator[Any]:
    session = request.context.conversation_id
    done = False
    try:
        async for event in events(request.input, session):
            yield event
        done = True
    except ValueError:
        done = True
        raise
    finally:
        if not done:
            cancelled.append(session)


async def events(given: list[Any], session: str) -> AsyncIterator[Any]:
    last = given[-1].model_dump()
    if last.get("type") == "mcp_approval_response":
        assert asked.pop(session) == last["approval_request_id"]
        prompt = "allowed" if last["approve"] else "denied"
    else:
        content = last["content"]
        prompt = content if isinstance(content, str) else content[0]["text"]
    skill, _, rest = prompt.partition(" ")
    if skill == "fail":
        raise ValueError(rest)
    if skill == "ask":
        asked[session] = f"mcpr_{next(numbers)}"
        item = {"id": asked[session], "name": "delete_file", "server_label": "files"}
        item |= {"type": "mcp_approval_request", "arguments": json.dumps({"path": rest})}
        yield {"type": "response.output_item.done", "item": item}
        return
    words = [f"you said: {prompt}"]
    if skill == "remember":
        notes[session].append(rest)
        words = ["kept"]
    elif skill == "recall":
        words = ["; ".join(notes[session]) or "nothing yet"]
    elif skill == "slow":
        words = [f"chunk {number + 1} of {rest}\n" for number in range(int(rest))]
    elif skill == "big":
        words = ["x" * int(rest)]
    for word in words:
        yield {"type": "response.output_text.delta", "item_id": "msg_1", "delta": word}
        await asyncio.sleep(PAUSE if skill == "slow" else 0)
    part = {"text": "".join(words), "type": "output_text", "annotations": []}
    item = {"id": "msg_1", "content": [part], "role": "assistant", "type": "message"}
    yield {"type": "response.output_item.done", "item": item}


app = AgentServer("ResponsesAgent").app


@app.get("/cancelled")
async def count() -> int:
    """For the test."""
    return len(cancelled)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
