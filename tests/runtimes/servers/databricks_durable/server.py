"""A real DurableAgentServer, its agent without a model: the prompt's first word says what it does.
Its events are those of the official templates.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from typing import Any

import uvicorn
from databricks_agentkit import DurableAgentServer

PAUSE = 0.02
app = DurableAgentServer()
notes: dict[str, list[str]] = defaultdict(list)


@app.invoke
async def invoke(value: Any, context: Any) -> Any:
    session = context.session_id
    if "resume" in value:
        allowed = value["resume"] == {"decisions": [{"type": "approve"}]}
        prompt = "allowed" if allowed else f"refused: {value['resume']}"
    else:
        prompt = value["messages"][-1]["content"]
    skill, _, rest = prompt.partition(" ")
    if skill == "fail":
        await context.emit({"type": "delta", "content": "It began well."})
        await context.emit({"type": "error", "message": rest})
        raise ValueError(rest)
    if skill == "ask":
        action = {"name": "delete_file", "args": {"path": rest}, "call_id": "call_1"}
        asked = {"type": "interrupt", "id": "call_1", "value": {"action_requests": [action]}}
        await context.emit(asked)
        return {"output": [asked], "status": "interrupted"}
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
        await context.emit({"type": "delta", "content": word, "id": "msg_1"})
        await asyncio.sleep(PAUSE if skill == "slow" else 0)
    message = {"role": "assistant", "content": "".join(words)}
    await context.emit({"type": "message", "message": message})
    return {"output": [message], "status": "completed"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
