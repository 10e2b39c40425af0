"""Many sessions that stream at once through one process, each followed by a reader:

    python -m benchmarks.runtimes.many CONFIG SESSIONS PROMPT TEXT

prints one line of JSON: what an open session held, and what came.  TEXT is what each session has to
say, as a Python literal.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import anyio

from benchmarks.measure import memory
from lap_mcp.control.services import NewPrompt, SessionsAPI
from lap_mcp.model import LOCAL, Delta, StoredEvent

from .ours import ME, ask, opened

WARM_UP = 5
LOOK = 0.1
DEADLINE = 600.0


@dataclass
class Seen:
    """What the follower of one session saw."""

    seqs: list[int] = field(default_factory=list)
    deltas: dict[str, list[str]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    error: str = ""

    def take(self, item: StoredEvent | Delta) -> bool:
        """True where it was the session's last."""
        if isinstance(item, Delta):
            if item.kind == "message":
                parts = self.deltas.setdefault(item.message_id, [])
                if item.replace:
                    parts.clear()
                parts.append(item.text)
            return False
        self.seqs.append(item.seq)
        if item.type == "agent.message":
            self.messages[item.payload["id"]] = item.payload["text"]
        if item.type == "session.error":
            self.error = item.payload["message"]
        return item.type == "session.status_idle"

    def wrong(self, stored: list[int], text: str) -> str:
        """What is missing, in words."""
        if self.error:
            return self.error
        if self.seqs != list(range(1, len(self.seqs) + 1)) or self.seqs != stored:
            return f"events {self.seqs} of {stored}"
        if "".join(self.messages.values()) != text:
            return f"the text {self.messages!r}"
        streamed = {key: "".join(parts) for key, parts in self.deltas.items()}
        if any(self.messages[key] != found for key, found in streamed.items()):
            return f"the deltas {streamed!r}"
        return ""


@dataclass
class Crowd:
    sessions: SessionsAPI
    prompt: str
    text: str
    items: int = 0
    deltas: int = 0
    """Of them, deltas."""
    streaming: int = 0
    """Sessions that said something and are not at their end."""
    over: int = 0
    wrong: list[str] = field(default_factory=list)

    async def one(self) -> None:
        accepted = await self.sessions.prompt(ME, "it", NewPrompt(text=self.prompt))
        session, seen = accepted.session.id, Seen()
        async with self.sessions.follow(LOCAL, session) as items:
            async for item in items:
                self.items += 1
                if isinstance(item, Delta):
                    self.deltas += 1
                    if not seen.deltas:
                        self.streaming += 1
                if seen.take(item):
                    break
        self.streaming -= bool(seen.deltas)
        self.over += 1
        stored = await self.sessions.events(LOCAL, session)
        if words := seen.wrong([event.seq for event in stored], self.text):
            self.wrong.append(words)


def rss() -> float:
    return memory(os.getpid())["Rss"]


async def measured(crowd: Crowd, count: int) -> dict[str, Any]:
    """RSS before, and the most while the greatest number of sessions streamed."""
    gc.collect()
    before, most, streaming = rss(), 0.0, 0
    began, cpu = time.perf_counter(), time.process_time()
    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(crowd.one)
        while crowd.over < count:
            if crowd.streaming >= streaming:
                most = rss() if crowd.streaming > streaming else max(most, rss())
                streaming = crowd.streaming
            await anyio.sleep(LOOK)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {
        "sessions": count,
        "streaming": streaming,
        "kB": (most - before) * 1024 / count,
        "rss": most,
        "items": crowd.items,
        "deltas": crowd.deltas,
        "wall": wall,
        "cpu": cpu,
        "wrong": crowd.wrong,
    }


async def main() -> None:
    _, config, count, prompt, text = sys.argv
    async with opened(config) as sessions:
        for _ in range(WARM_UP):
            await ask(sessions, "hello")
        with anyio.fail_after(DEADLINE):
            found = await measured(Crowd(sessions, prompt, ast.literal_eval(text)), int(count))
    print(json.dumps(found))


if __name__ == "__main__":
    anyio.run(main)
