"""LangChain messages, as JSON, as our events.  No I/O.

Wire format: langchain-core 1, messages and standard content blocks; content is text, or a list of
blocks.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any

from lap_runtimes.base import Event, File, Message, Thinking, ToolResult, ToolUse
from lap_runtimes.errors import ProtocolError
from lap_runtimes.files import plain_name

Json = Mapping[str, Any]
_FILES = ("file", "image", "audio", "video")


def text_in(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(
        str(part.get("text") or "") if isinstance(part, Mapping) else str(part)
        for part in _parts(content)
        if isinstance(part, str) or part.get("type") in ("text", "text_delta", "output_text")
    )


def thinking_in(content: Any) -> str:
    return "".join(
        str(part.get("reasoning") or part.get("thinking") or "")
        for part in _parts(content)
        if isinstance(part, Mapping) and part.get("type") in ("reasoning", "thinking")
    )


def message_events(
    message: Json, place: str, *, streamed: bool, thought: str = ""
) -> Iterator[Event]:
    """A whole message of the agent or of a tool.  `streamed`: its text was shown, so that it is to
    be closed even if empty; `thought` is the reasoning that was shown."""
    content = message.get("content")
    if message.get("type") == "tool":
        yield ToolResult(
            id=place,
            tool_use_id=str(message.get("tool_call_id") or ""),
            text=text_in(content) or ("" if not content else json.dumps(content)),
            is_error=message.get("status") == "error",
        )
        return
    if thought := thinking_in(content) or thought:
        yield Thinking(id=f"{place}/thinking", message_id=f"{place}/thinking", text=thought)
    text = text_in(content)
    if text or streamed:
        yield Message(id=place, message_id=place, text=text)
    for number, part in enumerate(_parts(content)):
        if isinstance(part, Mapping) and part.get("type") in _FILES and part.get("base64"):
            yield _file(part, f"{place}/{number}")
    for call in _list(message.get("tool_calls")):
        arguments = call.get("args")
        used = str(call.get("id") or call.get("name") or "")
        yield ToolUse(
            id=f"{place}/{used}",
            tool_use_id=used,
            name=str(call.get("name") or "a tool"),
            input=arguments if isinstance(arguments, Mapping) else {},
        )


def _file(part: Json, file_id: str) -> File:
    try:
        data = base64.b64decode(str(part["base64"]), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ProtocolError(f"the graph sent a file that is not base64: {exc}") from exc
    media_type = str(part.get("mime_type") or "application/octet-stream")
    extras = part.get("extras") if isinstance(part.get("extras"), Mapping) else part
    name = str((extras or {}).get("filename") or (extras or {}).get("name") or "")
    return File(
        id=file_id,
        file_id=file_id,
        name=plain_name(name, fallback=str(part["type"]), media_type=media_type),
        media_type=media_type,
        data=data,
    )


def _parts(content: Any) -> list[Any]:
    listed = content if isinstance(content, list) else []
    return [part for part in listed if isinstance(part, (str, Mapping))]


def _list(value: Any) -> list[Json]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
