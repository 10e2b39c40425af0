"""An agent called with the vendor's own SDK, its answer streamed, a new session each time:

    python -m benchmarks.runtimes.direct KIND ADDRESS

`KEY` in the environment is the key that the server wants, if it wants one.  Each SDK is imported
where it is used: this file runs in environments that have only one of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from .worker import said, serve

PROMPT = "hello there"
REGION = "us-east-1"
ARN = f"arn:aws:bedrock-agentcore:{REGION}:123456789012:runtime/words-abcdefghij"
Once = Callable[[], Awaitable[str]]


async def a2a(url: str) -> None:
    from benchmarks.calls import direct, send

    headers = {"Authorization": f"Bearer {os.environ['KEY']}"} if os.environ.get("KEY") else {}
    async with direct(url, headers) as client:
        await _serve(lambda: send(client, PROMPT))


async def responses(url: str) -> None:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

        async def once() -> str:
            stream = await client.responses.create(model="words", input=PROMPT, stream=True)
            parts = [e.delta async for e in stream if e.type == "response.output_text.delta"]
            return "".join(parts)

        await _serve(once)


async def agentcore(url: str) -> None:
    """boto3 has no asynchronous client: its call blocks this process, which does nothing else."""
    import boto3

    client = boto3.client(
        "bedrock-agentcore",
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id=os.environ["KEY"],
        aws_secret_access_key=os.environ["KEY"],
    )

    async def once() -> str:
        answer = client.invoke_agent_runtime(
            agentRuntimeArn=ARN,
            runtimeSessionId=f"{uuid.uuid4()}-{uuid.uuid4()}",
            payload=json.dumps({"prompt": PROMPT}).encode(),
        )
        lines = [line for line in answer["response"].iter_lines() if line.startswith(b"data: ")]
        return "".join(json.loads(line.removeprefix(b"data: ")) for line in lines)

    await _serve(once)


async def langgraph(url: str) -> None:
    from langgraph_sdk import get_client

    client = get_client(url=url, api_key=None)

    async def once() -> str:
        stream = client.runs.stream(
            str(uuid.uuid4()),
            "words",
            input={"messages": [{"role": "user", "content": PROMPT}]},
            stream_mode="messages-tuple",
            if_not_exists="create",
        )
        return "".join([_chunk(part) async for part in stream])

    await _serve(once)


def _chunk(part: Any) -> str:
    if part.event != "messages":
        return ""
    message = part.data[0]
    return message["content"] if message["type"] == "AIMessageChunk" else ""


async def _serve(once: Once) -> None:
    async def checked() -> str:
        return said(await once(), PROMPT)

    await serve(checked)


KINDS: dict[str, Callable[[str], Awaitable[None]]] = {
    "a2a": a2a,
    "agentcore": agentcore,
    "langgraph": langgraph,
    "responses": responses,
}


async def main() -> None:
    await KINDS[sys.argv[1]](sys.argv[2])


if __name__ == "__main__":
    asyncio.run(main())
