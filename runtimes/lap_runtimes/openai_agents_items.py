"""The items of an OpenAI Agents session as our events; answers as its input events.  No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lap_runtimes.base import Answer, Event, Message, Thinking, ToolResult, ToolUse
from lap_runtimes.errors import Unsupported
from lap_runtimes.files import FileLink, plain_name
from lap_runtimes.http_errors import error_words
from lap_runtimes.managed import answer_text, segment
from lap_runtimes.responses_items import Json

_OWN = ("mcp_call", "web_search_call", "command_execution", "computer_use_call")
_INPUT = "agent.session.input"


def item_events(item: Json, item_id: str, streamed: str) -> Iterator[Event]:
    """A finished item.  `streamed` is its text so far.  What a person said, calls that are asked
    as questions, and items of unknown types say nothing."""
    kind = str(item.get("type", ""))
    if kind == "message":
        if item.get("role") != "user":
            text = _texts(item.get("content")) or streamed
            yield Message(id=item_id, message_id=item_id, text=text)
    elif kind == "reasoning":
        text = "\n".join(filter(None, (_text(part) for part in _parts(item.get("summary")))))
        yield Thinking(id=item_id, message_id=item_id, text=text or streamed)
    elif kind in _OWN or kind.endswith(("subagent_call", "subagents_call")):
        yield from _own_call(item, item_id, kind)


def _own_call(item: Json, item_id: str, kind: str) -> Iterator[Event]:
    if kind == "command_execution":
        name, given = "shell", {"command": item.get("command"), "cwd": item.get("cwd")}
    elif kind == "mcp_call":
        name, given = str(item.get("name") or kind), _object(item.get("arguments"))
    else:
        name = kind.removesuffix("_call")
        about = ("id", "type", "status", "turn_id", "agent_id", "output")
        action = item.get("action")
        given = _object(action) if action else {k: v for k, v in item.items() if k not in about}
    yield ToolUse(id=item_id, tool_use_id=item_id, name=name, input=given)
    error, output = item.get("error"), item.get("output")
    code = item.get("exit_code")
    failed = bool(error) or item.get("status") == "failed" or code not in (None, 0)
    if failed or output is not None:
        text = error_words(_object(error) or str(error)) if error else _shown(output)
        text = text or (f"exit code {code}" if code else "")
        yield ToolResult(id=f"{item_id}/result", tool_use_id=item_id, text=text, is_error=failed)


def artifact_link(artifact: Json, session: str) -> FileLink:
    file_id = segment(artifact.get("id"), "artifact")
    return FileLink(
        id=f"file/{file_id}",
        file_id=file_id,
        name=plain_name(str(artifact.get("path") or ""), fallback=file_id),
        media_type="",
        url=f"agents/sessions/{session}/artifacts/{file_id}/content",
    )


def input_event(asked: list[str], answer: Answer) -> dict[str, Any]:
    """An answer.  `asked` is the kind of the question and the vendor's turn.  Raises `Unsupported`
    for a sign-in: passwords are not carried through here."""
    kind, turn = asked
    if kind == "function_call":
        text = answer_text(answer)
        made = {"type": f"{_INPUT}.tool_result", "turn_id": turn, "call_id": answer.question_id}
        if answer.is_error or answer.decision == "deny":
            return {**made, "success": False, "error": text or "the call failed"}
        return {**made, "success": True, "output": text}
    if kind == "browser_authentication":
        if answer.decision != "deny":
            raise Unsupported("sign in at the vendor's own page; here it can only be declined")
        response = {"type": kind, "action": "cancel"}
    else:
        decision = "approve" if answer.decision == "allow" else "deny"
        shown = "mcp_tool_call" if kind == "mcp_approval_request" else kind
        response = {"type": shown, "decision": decision}
    result = "mcp" if kind == "mcp_approval_request" else "computer_use"
    return {
        "type": f"{_INPUT}.{result}_approval_request_result",
        "request_id": answer.question_id,
        "response": response,
    }


def _parts(content: Any) -> list[Json]:
    parts = content if isinstance(content, list) else []
    return [part for part in parts if isinstance(part, Mapping)]


def _text(part: Json) -> str:
    return str(part.get("text") or "")


def _texts(content: Any) -> str:
    return content if isinstance(content, str) else "".join(map(_text, _parts(content)))


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {"input": value}
    if isinstance(value, Mapping):
        return dict(value)
    return {} if value is None else {"input": value}


def _shown(output: Any) -> str:
    if output is None or isinstance(output, str):
        return output or ""
    content = output.get("content") if isinstance(output, Mapping) else None
    return _texts(content) or json.dumps(output, ensure_ascii=False)
