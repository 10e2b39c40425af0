"""A process that does one thing as often as it is told: a line with a number on stdin, a line of
JSON with the seconds of each on stdout.  Ends when stdin does.  Standard library only.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable


async def serve(
    once: Callable[[], Awaitable[object]], clock: Callable[[], float] = time.process_time
) -> None:
    """`clock`: CPU seconds of whoever does the work."""
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        count = int(line)
        wall: list[float] = []
        before = clock()
        for _ in range(count):
            began = time.perf_counter()
            await once()
            wall.append(time.perf_counter() - began)
        print(json.dumps({"wall": wall, "cpu": (clock() - before) / count}), flush=True)


def said(answer: str, prompt: str) -> str:
    """Raises: RuntimeError where the agent did not say the prompt's words again."""
    if prompt not in answer:
        raise RuntimeError(f"the agent answered {answer[:300]!r}, not {prompt!r}")
    return answer
