"""An example A2A agent: a real a2a-sdk server on loopback, with skills driven by the prompt's first
word and a memory per conversation.  `python examples/a2a_agent.py --help`; needs
`pip install 'a2a-sdk[http-server]' uvicorn`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import socket
import threading
from collections import defaultdict
from typing import Any

import uvicorn
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import (
    create_agent_card_routes,
    create_jsonrpc_routes,
    create_rest_routes,
)
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import a2a_pb2 as wire
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse

SKILLS = {
    "echo": "echo WORDS: says the words again, one by one, with their number in the conversation.",
    "slow": "slow N [SECONDS]: streams N chunks of an artifact, SECONDS (0.2) apart.",
    "ask": "ask QUESTION: asks you, and answers with what you replied.",
    "login": "login: asks you to sign in somewhere first.",
    "file": "file NAME TEXT: makes a file.",
    "image": "image: makes a small PNG picture.",
    "remember": "remember WORDS: keeps the words for this conversation.",
    "recall": "recall: says everything kept in this conversation.",
    "data": "data: answers with structured data.",
    "big": "big N: answers with N bytes in one event.",
    "reply": "reply WORDS: answers with a message, without a task.",
    "fail": "fail WORDS: fails with these words.",
    "refuse": "refuse WORDS: rejects the task.",
}
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
_MAX_STEPS = 10_000


class Agent(AgentExecutor):
    """Runs one skill a task.  `prompts` and `notes` are kept per conversation (A2A context)."""

    def __init__(self) -> None:
        self.prompts: dict[str, int] = defaultdict(int)
        self.notes: dict[str, list[str]] = defaultdict(list)
        self.cancelled: list[str] = []

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        text = context.get_user_input().strip()
        task_id, context_id = str(context.task_id), str(context.context_id)
        updater = TaskUpdater(event_queue, task_id, context_id)
        self.prompts[context_id] += 1
        if context.current_task is not None:
            await self._answered(context.current_task, text, updater)
            return
        skill, _, rest = text.partition(" ")
        if skill == "reply":
            await event_queue.enqueue_event(updater.new_agent_message([wire.Part(text=rest)]))
            return
        task = wire.Task(id=task_id, context_id=context_id)
        task.status.state = wire.TASK_STATE_SUBMITTED
        task.history.append(context.message)
        await event_queue.enqueue_event(task)
        await updater.start_work()
        run = getattr(self, f"_{skill}", None) if skill in SKILLS else None
        await (run(updater, rest, context) if run else self._echo(updater, text, context))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        self.cancelled.append(str(context.task_id))
        updater = TaskUpdater(event_queue, str(context.task_id), str(context.context_id))
        await updater.cancel()

    async def _answered(self, task: wire.Task, text: str, updater: TaskUpdater) -> None:
        """The task went on because a question of it was answered."""
        await updater.start_work()
        signed_in = task.status.state == wire.TASK_STATE_AUTH_REQUIRED
        said = f"signed in: {text}" if signed_in else f"you said: {text}"
        await _say(updater, said, artifact_id="answer")
        await updater.complete()

    async def _echo(self, updater: TaskUpdater, text: str, context: RequestContext) -> None:
        number = self.prompts[str(context.context_id)]
        for index, word in enumerate([f"[{number}]", *text.split()]):
            await _say(updater, word if index == 0 else f" {word}", append=index > 0)
        await updater.complete()

    async def _slow(self, updater: TaskUpdater, rest: str, context: RequestContext) -> None:
        words = rest.split() or ["5"]
        count = min(int(words[0]), _MAX_STEPS)
        pause = float(words[1]) if len(words) > 1 else 0.2
        for index in range(count):
            last = index == count - 1
            await _say(updater, f"chunk {index + 1} of {count}\n", append=index > 0, last=last)
            if pause and not last:
                await asyncio.sleep(pause)
        report = f"{count} chunks".encode()
        await _file(updater, "report.txt", report, "text/plain")
        await updater.complete()

    async def _ask(self, updater: TaskUpdater, rest: str, context: RequestContext) -> None:
        await _say(updater, "I have a question. ", artifact_id="preface")
        await updater.requires_input(_words(updater, rest or "What is your name?"))

    async def _login(self, updater: TaskUpdater, rest: str, context: RequestContext) -> None:
        await updater.requires_auth(_words(updater, "Sign in at https://login.example.com/device"))

    async def _file(self, updater: TaskUpdater, rest: str, context: RequestContext) -> None:
        name, _, text = rest.partition(" ")
        await _file(updater, name or "note.txt", text.encode(), "text/plain")
        await updater.complete(_words(updater, f"made {name or 'note.txt'}"))

    async def _image(self, updater: TaskUpdater, rest: str, context: RequestContext) -> None:
        await _file(updater, "dot.png", PNG, "image/png")
        await updater.complete()

    async def _remember(self, updater: TaskUpdater, rest: str, context: RequestContext) -> None:
        self.notes[str(context.context_id)].append(rest)
        await updater.complete(_words(updater, f"I keep it: {rest}"))

    async def _recall(self, updater: TaskUpdater, rest: str, context: RequestContext) -> None:
        notes = self.notes[str(context.context_id)]
        await updater.complete(_words(updater, "; ".join(notes) or "nothing yet"))

    async def _data(self, updater: TaskUpdater, rest: str, context: RequestContext) -> None:
        part = wire.Part(media_type="application/json")
        part.data.struct_value.update({"answer": 42, "unit": "none"})
        await updater.add_artifact([part], artifact_id="data", name="data")
        await updater.complete()

    async def _big(self, updater: TaskUpdater, rest: str, context: RequestContext) -> None:
        size = min(int(rest or "1000"), 40_000_000)
        await _say(updater, "x" * size)
        await updater.complete()

    async def _fail(self, updater: TaskUpdater, rest: str, context: RequestContext) -> None:
        await _say(updater, "It began well. ")
        await updater.failed(_words(updater, rest or "no reason"))

    async def _refuse(self, updater: TaskUpdater, rest: str, context: RequestContext) -> None:
        await updater.reject(_words(updater, rest or "not mine"))


def _words(updater: TaskUpdater, text: str) -> wire.Message:
    return updater.new_agent_message([wire.Part(text=text)])


async def _say(
    updater: TaskUpdater,
    text: str,
    *,
    append: bool = False,
    last: bool = False,
    artifact_id: str = "text",
) -> None:
    parts = [wire.Part(text=text)]
    await updater.add_artifact(parts, artifact_id=artifact_id, append=append, last_chunk=last)


async def _file(updater: TaskUpdater, name: str, data: bytes, media_type: str) -> None:
    part = wire.Part(raw=data, filename=name, media_type=media_type)
    await updater.add_artifact([part], artifact_id=f"file-{name}", name=name, last_chunk=True)


class RequireToken:
    """ASGI middleware: everything but the card needs `Authorization: Bearer TOKEN`."""

    def __init__(self, app: Any, token: str) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/.well-known/"):
            request = Request(scope)
            if request.headers.get("authorization") != f"Bearer {self.token}":
                refusal = JSONResponse({"detail": "a bearer token is needed"}, status_code=401)
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


def card(url: str, *, name: str = "Example agent", streaming: bool = True) -> wire.AgentCard:
    made = wire.AgentCard(
        name=name,
        description="An example agent: the first word of the prompt chooses what it does.",
        version="1.0.0",
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain", "application/octet-stream"],
        capabilities=wire.AgentCapabilities(streaming=streaming),
    )
    for skill, words in SKILLS.items():
        made.skills.add(id=skill, name=skill, description=words, tags=["example"])
    for binding, path in (("JSONRPC", "/"), ("HTTP+JSON", "")):
        made.supported_interfaces.add(
            url=f"{url}{path}", protocol_binding=binding, protocol_version="1.0"
        )
    return made


def build(
    url: str,
    *,
    agent: Agent | None = None,
    agent_card: wire.AgentCard | None = None,
    token: str | None = None,
) -> Starlette:
    """The ASGI application: card, JSON-RPC and REST, each in 1.0 and 0.3."""
    served = agent_card or card(url)
    handler = DefaultRequestHandler(
        agent_executor=agent or Agent(), task_store=InMemoryTaskStore(), agent_card=served
    )
    return Starlette(
        routes=[
            *create_agent_card_routes(served),
            *create_jsonrpc_routes(handler, "/", enable_v0_3_compat=True),
            *create_rest_routes(handler, enable_v0_3_compat=True),
        ],
        middleware=[Middleware(RequireToken, token=token)] if token else [],
    )


def end_with_stdin() -> None:
    """End this process when the one that holds our standard input is gone."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9101, help="0 picks a free one (9101)")
    parser.add_argument("--name", default="Example agent", help="the name on the card")
    parser.add_argument("--no-streaming", action="store_true", help="answer only when asked again")
    parser.add_argument(
        "--token-env", metavar="NAME", help="require the bearer token in this variable"
    )
    parser.add_argument("--with-stdin", action="store_true", help="end when standard input ends")
    options = parser.parse_args()
    token = os.environ[options.token_env] if options.token_env else None
    if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
        parser.error(f"{options.token_env} does not hold a token")
    if options.with_stdin:
        end_with_stdin()
    try:
        listening = socket.create_server(("127.0.0.1", options.port))
    except OSError as error:
        parser.error(f"nothing can listen on port {options.port}: {error.strerror}; give --port")
    with listening as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        served = card(url, name=options.name, streaming=not options.no_streaming)
        app = build(url, agent_card=served, token=token)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        print(f"serving {url}", flush=True)
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
