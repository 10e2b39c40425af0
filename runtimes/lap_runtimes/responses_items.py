"""The output items of a Responses answer as our events; answers as input items.  No I/O."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any

from lap_runtimes.base import (
    Answer,
    Asked,
    Event,
    File,
    Message,
    Question,
    Thinking,
    ToolResult,
    ToolUse,
)
from lap_runtimes.errors import ProtocolError
from lap_runtimes.files import FileLink, plain_name
from lap_runtimes.http_errors import error_words

Json = Mapping[str, Any]

_CALLS_OF_ITS_OWN = {
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "code_interpreter_call": "code_interpreter",
    "image_generation_call": "image_generation",
    "mcp_call": "",
    "shell_call": "shell",
    "local_shell_call": "local_shell",
    "computer_call": "computer",
    "apply_patch_call": "apply_patch",
    "tool_search_call": "tool_search",
}
"""Items of tools that the server runs, and the tool's name; empty: the item names it."""
_ABOUT_A_CALL = ("id", "type", "status", "output", "outputs", "result", "error", "name")


def mapping(value: Any) -> Json:
    if not isinstance(value, Mapping):
        raise ProtocolError(f"the server sent {type(value).__name__} where an object belongs")
    return value


def items_of(response: Json) -> list[Json]:
    output = response.get("output")
    return [mapping(item) for item in output] if isinstance(output, list) else []


def item_events(item: Json, item_id: str, streamed: str) -> Iterator[Event]:
    """A finished output item.  `streamed` is its text so far, for a server that does not repeat it
    at the end.  Items of an unknown type say nothing."""
    kind = str(item.get("type", ""))
    if kind == "message":
        yield from _message(item, item_id, streamed)
    elif kind == "reasoning":
        text = "\n".join(filter(None, map(_part_text, _list(item, "summary"))))
        text = text or "".join(map(_part_text, _list(item, "content")))
        if text:
            yield Thinking(id=item_id, message_id=item_id, text=text)
    elif kind in ("function_call", "custom_tool_call"):
        yield Asked(id=f"{item_id}/asked", question=_tool_question(item))
    elif kind == "mcp_approval_request":
        yield Asked(id=f"{item_id}/asked", question=_approval(item))
    elif kind in _CALLS_OF_ITS_OWN:
        yield from _own_call(item, item_id)


def _list(item: Json, key: str) -> list[Json]:
    value = item.get(key)
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _part_text(part: Json) -> str:
    return str(part.get("text") or part.get("refusal") or "")


def _message(item: Json, item_id: str, streamed: str) -> Iterator[Event]:
    content = item.get("content")
    parts = _list(item, "content")
    text = content if isinstance(content, str) else "".join(map(_part_text, parts))
    yield Message(id=item_id, message_id=item_id, text=text or streamed)
    cited = [a for part in parts for a in _list(part, "annotations")]
    seen: set[str] = set()
    for note in cited:
        file = str(note.get("file_id", ""))
        if note.get("type") != "container_file_citation" or not file or file in seen:
            continue
        seen.add(file)
        yield FileLink(
            id=f"{item_id}/{file}",
            file_id=file,
            name=plain_name(str(note.get("filename", "")), fallback=file),
            media_type="",
            url=f"containers/{_segment(note.get('container_id'))}/files/{_segment(file)}/content",
        )


def _segment(value: Any) -> str:
    """One path segment, of an id that came from outside."""
    text = str(value or "")
    if not text or any(c in "/\\?#%" or ord(c) <= 32 for c in text) or text in (".", ".."):
        raise ProtocolError(f"the server names a file id that cannot be one: {text[:80]!r}")
    return text


def _arguments(raw: Any) -> Json:
    if isinstance(raw, Mapping):
        return raw
    try:
        value = json.loads(raw)
    except (ValueError, TypeError, RecursionError):
        value = raw
    return value if isinstance(value, Mapping) else {"input": value}


def _tool_question(item: Json) -> Question:
    name = str(item.get("name", "a tool"))
    raw = item.get("arguments") if "arguments" in item else item.get("input")
    return Question(
        id=str(item.get("call_id") or item.get("id") or ""),
        kind="tool_result",
        text=f"The agent asks for the result of {name}.",
        tool=name,
        tool_input=_arguments(raw),
    )


def _approval(item: Json) -> Question:
    name = str(item.get("name", "a tool"))
    label = str(item.get("server_label", ""))
    where = f" of the MCP server {label}" if label else ""
    return Question(
        id=str(item.get("id", "")),
        kind="approval",
        text=f"May the agent use {name}{where}?",
        tool=name,
        tool_input=_arguments(item.get("arguments")),
    )


def _own_call(item: Json, item_id: str) -> Iterator[Event]:
    kind = str(item["type"])
    given = _arguments(item.get("arguments")) if "arguments" in item else {}
    rest = {k: v for k, v in item.items() if k not in (*_ABOUT_A_CALL, "arguments")}
    name = _CALLS_OF_ITS_OWN[kind] or str(item.get("name", kind))
    yield ToolUse(id=item_id, tool_use_id=item_id, name=name, input={**rest, **given})
    error = item.get("error")
    if kind == "image_generation_call" and item.get("result"):
        yield from _image(str(item["result"]), item_id, str(item.get("output_format") or "png"))
    output = item.get("output", item.get("outputs"))
    if error or output is not None or item.get("status") == "failed":
        text = error_words(error) if error else _shown(output)
        failed = bool(error) or item.get("status") == "failed"
        yield ToolResult(id=f"{item_id}/result", tool_use_id=item_id, text=text, is_error=failed)


def _shown(output: Any) -> str:
    if output is None or isinstance(output, str):
        return output or ""
    if isinstance(output, list):
        logs = [str(each.get("logs", "")) for each in output if isinstance(each, Mapping)]
        if any(logs):
            return "".join(logs)
    return json.dumps(output, ensure_ascii=False)


def _image(encoded: str, item_id: str, form: str) -> Iterator[Event]:
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ProtocolError(f"the server sent an image that is not base64: {exc}") from exc
    yield File(
        id=f"{item_id}/image",
        file_id=f"{item_id}/image",
        name=plain_name(f"image.{form}", fallback="image"),
        media_type=f"image/{form}",
        data=data,
    )


def input_item(asked: str, answer: Answer) -> dict[str, Any]:
    """An answer as an input item; `asked` is the type of the output item that asked."""
    if asked == "mcp_approval_request":
        item: dict[str, Any] = {
            "type": "mcp_approval_response",
            "approval_request_id": answer.question_id,
            "approve": answer.decision == "allow",
        }
        return {**item, "reason": answer.text} if answer.text else item
    output = answer.text
    if answer.data is not None and not output:
        output = json.dumps(dict(answer.data), ensure_ascii=False)
    if answer.decision == "deny":
        output = f"The call was declined. {output}".strip()
    elif answer.is_error:
        output = f"Error: {output}"
    kind = "custom_tool_call_output" if asked == "custom_tool_call" else "function_call_output"
    return {"type": kind, "call_id": answer.question_id, "output": output}
