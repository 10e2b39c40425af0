"""A LangGraph agent without a model: the prompt's first word says what it does.  Runs inside the
real `langgraph dev`, in an environment of its own.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

PAUSE = 0.02
USED = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}


class Words(BaseChatModel):
    """Streams the given chunks."""

    chunks: list[str]
    pause: float = 0.0

    @property
    def _llm_type(self) -> str:
        return "words"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        text = AIMessage(content="".join(self.chunks), usage_metadata=USED)
        return ChatResult(generations=[ChatGeneration(message=text)])

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self.chunks:
            yield ChatGenerationChunk(message=AIMessageChunk(content=chunk))
            await asyncio.sleep(self.pause)
        yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=USED))


def _text(message: Any) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


async def answer(state: MessagesState) -> dict[str, Any]:
    skill, _, rest = _text(state["messages"][-1]).partition(" ")
    pause = 0.0
    if skill == "fail":
        raise ValueError(rest)
    if skill == "ask":
        said = interrupt({"question": rest})
        chunks = [f"you answered {said}"]
    elif skill == "allow":
        request = {"name": "delete_file", "args": {"path": rest}, "description": f"Delete {rest}?"}
        review = {"action_name": "delete_file", "allowed_decisions": ["approve", "reject"]}
        said = interrupt({"action_requests": [request], "review_configs": [review]})
        chunks = ["allowed" if said["decisions"] == [{"type": "approve"}] else f"refused: {said}"]
    elif skill == "tool":
        call = {"name": rest, "args": {"q": 1}, "id": "call_1", "type": "tool_call"}
        used = [
            AIMessage(content="", tool_calls=[call]),
            ToolMessage("found", tool_call_id="call_1"),
        ]
        return {"messages": [*used, AIMessage(content="used a tool", usage_metadata=USED)]}
    elif skill == "file":
        name, _, content = rest.partition(" ")
        data = base64.b64encode((content or f"content of {name}").encode()).decode()
        block = {
            "type": "file",
            "base64": data,
            "mime_type": "text/plain",
            "extras": {"name": name},
        }
        text = {"type": "text", "text": "made a file"}
        return {"messages": [AIMessage(content=[text, block], usage_metadata=USED)]}
    elif skill == "slow":
        chunks, pause = [f"chunk {n + 1} of {rest}\n" for n in range(int(rest))], PAUSE
    elif skill == "recall":
        earlier = [_text(m) for m in state["messages"] if m.type == "human"]
        kept = [text.partition(" ")[2] for text in earlier if text.startswith("remember ")]
        chunks = ["; ".join(kept) or "nothing yet"]
    elif skill == "big":
        chunks = ["x" * int(rest)]
    else:
        chunks = [word + " " for word in f"you said: {skill} {rest}".split()]
    model = Words(chunks=chunks, pause=pause)
    return {"messages": [await model.ainvoke(state["messages"])]}


words = (
    StateGraph(MessagesState)
    .add_node("answer", answer)
    .add_edge(START, "answer")
    .add_edge("answer", END)
    .compile()
)
