"""A real ACP agent, made with the official package: `acp_agent.py FOLDER`.  Its words are those of
the contract suite; in FOLDER it leaves `pid-N`, `cancelled-…`, and its sessions, to load them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import acp
from acp.schema import (
    AgentCapabilities,
    AllowedOutcome,
    BlobResourceContents,
    EmbeddedResourceContentBlock,
    ImageContentBlock,
    Implementation,
    InitializeResponse,
    LoadSessionResponse,
    NewSessionResponse,
    PermissionOption,
    PromptCapabilities,
    PromptResponse,
    ToolCallUpdate,
    Usage,
)

PAUSE = 0.02
FOLDER = Path(sys.argv[1])


class Agent(acp.Agent):
    def __init__(self) -> None:
        self.cancelled: set[str] = set()
        self.notes: dict[str, list[str]] = {}

    def on_connect(self, conn: acp.Client) -> None:
        self.client = conn

    async def initialize(self, protocol_version: int, **rest: Any) -> InitializeResponse:
        (FOLDER / "offered.json").write_text(rest["client_capabilities"].model_dump_json())
        return InitializeResponse(
            protocol_version=acp.PROTOCOL_VERSION,
            agent_info=Implementation(name="words", title="Words", version="1.0"),
            agent_capabilities=AgentCapabilities(
                load_session=True, prompt_capabilities=PromptCapabilities(image=True)
            ),
        )

    async def new_session(self, cwd: str, **rest: Any) -> NewSessionResponse:
        session_id = f"ses-{uuid.uuid4().hex}"
        self.notes[session_id] = []
        return NewSessionResponse(session_id=session_id)

    async def load_session(self, cwd: str, session_id: str, **rest: Any) -> LoadSessionResponse:
        self.notes[session_id] = json.loads((FOLDER / session_id).read_text())
        for note in self.notes[session_id]:
            await self._say(session_id, f"said before: {note}")
        return LoadSessionResponse()

    async def cancel(self, session_id: str, **rest: Any) -> None:
        self.cancelled.add(session_id)

    async def prompt(self, session_id: str, prompt: list[Any], **rest: Any) -> PromptResponse:
        self.cancelled.discard(session_id)
        for block in prompt[1:]:
            await self._say(session_id, f"got {_described(block)} ")
        word, _, rest_of_it = prompt[0].text.partition(" ")
        do = getattr(self, f"do_{word}", None)
        if do is None:
            await self._say(session_id, prompt[0].text)
        elif await do(session_id, rest_of_it) == "cancelled":
            (FOLDER / f"cancelled-{uuid.uuid4().hex}").touch()
            return PromptResponse(stop_reason="cancelled")
        usage = Usage(input_tokens=3, output_tokens=4, total_tokens=7)
        return PromptResponse(stop_reason="end_turn", usage=usage)

    async def do_slow(self, session_id: str, rest: str) -> str | None:
        count = int(rest or "5")
        for number in range(count):
            if session_id in self.cancelled:
                return "cancelled"
            await self._say(session_id, f"chunk {number + 1} of {count}\n")
            await asyncio.sleep(PAUSE)
        return None

    async def do_remember(self, session_id: str, rest: str) -> None:
        self.notes[session_id].append(rest)
        (FOLDER / session_id).write_text(json.dumps(self.notes[session_id]))
        await self._say(session_id, "noted")

    async def do_recall(self, session_id: str, rest: str) -> None:
        await self._say(session_id, "; ".join(self.notes[session_id]) or "nothing yet")

    async def do_key(self, session_id: str, rest: str) -> None:
        """Repeats the key it was given."""
        await self._say(session_id, os.environ.get("LAP_KEY", "no key"))

    async def do_fail(self, session_id: str, rest: str) -> None:
        await self._say(session_id, "well, ")
        raise acp.RequestError(-32603, "Internal error", {"details": rest})

    async def do_refuse(self, session_id: str, rest: str) -> None:
        raise acp.RequestError(-32602, "Invalid params", {"details": rest})

    async def do_break(self, session_id: str, rest: str) -> None:
        await self._say(session_id, "It began well. ")
        raise acp.RequestError(-32000, "Authentication required", {"details": rest})

    async def do_big(self, session_id: str, rest: str) -> None:
        await self._say(session_id, "x" * int(rest))

    async def do_file(self, session_id: str, rest: str) -> None:
        name, _, text = rest.partition(" ")
        blob = base64.b64encode(text.encode()).decode()
        resource = BlobResourceContents(uri=f"file:///made/{name}", blob=blob, mime_type="text/csv")
        block = EmbeddedResourceContentBlock(type="resource", resource=resource)
        await self.client.session_update(session_id, acp.update_agent_message(block))

    async def do_ask(self, session_id: str, rest: str) -> str | None:
        options = [
            PermissionOption(option_id="a", name="Always", kind="allow_always"),
            PermissionOption(option_id="o", name="Once", kind="allow_once"),
            PermissionOption(option_id="n", name="No", kind="reject_once"),
        ]
        call = ToolCallUpdate(
            tool_call_id="c1", title=f"rm {rest}", kind="delete", raw_input={"path": rest}
        )
        answer = await self.client.request_permission(session_id, call, options)
        if not isinstance(answer.outcome, AllowedOutcome):
            await self._say(session_id, "nobody chose")
            return "cancelled"
        allowed = answer.outcome.option_id != "n"
        update = acp.update_tool_call("c1", status="completed" if allowed else "failed")
        await self.client.session_update(session_id, update)
        words = "allowed" if allowed else "denied"
        await self._say(session_id, f"{words} by {answer.outcome.option_id}")
        return None

    async def do_methods(self, session_id: str, rest: str) -> None:
        """Uses what a client need not offer, and what no protocol has."""
        for method in ("fs/read_text_file", "terminal/create", "_vendor/thing"):
            params = {"sessionId": session_id, "path": "/etc/passwd", "command": "id"}
            try:
                await self.client._conn.send_request(method, params)  # type: ignore[attr-defined]
                await self._say(session_id, f"{method} worked\n")
            except acp.RequestError as exc:
                await self._say(session_id, f"{method}: {exc.code}\n")

    async def _say(self, session_id: str, text: str) -> None:
        await self.client.session_update(session_id, acp.update_agent_message_text(text))


def _described(block: Any) -> str:
    if isinstance(block, ImageContentBlock):
        return f"image {block.mime_type}"
    return f"{block.type} {block.name}: {Path(block.uri.removeprefix('file://')).read_text()}"


if __name__ == "__main__":
    (FOLDER / f"pid-{os.getpid()}").touch()
    asyncio.run(acp.run_agent(Agent()))
