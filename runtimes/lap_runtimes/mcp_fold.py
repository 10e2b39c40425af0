"""What a tool of an MCP server is as an agent: its description, its arguments from a prompt, and
its results as our events.  No I/O.

Wire format: MCP 2025-11-25 and 2026-07-28, `tools/list`, `tools/call`, and the tasks extension.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lap_runtimes.base import AgentInfo, Done, Event, Message, Progress, Prompt
from lap_runtimes.content import Json, file_of, items, mapping
from lap_runtimes.errors import Rejected
from lap_runtimes.http_errors import clean

_TEXT_NAMES = ("prompt", "message", "query", "question", "instructions", "input", "text", "task")
"""What the argument that takes a text is called, the likeliest first."""
_MAX_ERROR = 500


def agent_of(tool: Json) -> AgentInfo:
    schema = tool.get("inputSchema")
    output = tool.get("outputSchema")
    return AgentInfo(
        ref=str(tool.get("name", "")),
        name=str(tool.get("name", "")),
        description=str(tool.get("description") or tool.get("title") or ""),
        input_schema=dict(schema) if isinstance(schema, dict) and _beyond_text(schema) else None,
        output_schema=dict(output) if isinstance(output, dict) else None,
    )


def _beyond_text(schema: Json) -> bool:
    """It has arguments beside the one that takes the prompt's text."""
    return bool(set(mapping(schema.get("properties"))) - {text_argument(schema)})


def text_argument(schema: Json, named: str = "") -> str | None:
    """The argument that takes a prompt's text: `named`, else one of the usual names, else the only
    text that the tool takes or needs."""
    properties = mapping(schema.get("properties"))
    if named:
        return named
    texts = [name for name in properties if mapping(properties[name]).get("type") == "string"]
    for name in _TEXT_NAMES:
        if name in texts:
            return name
    required = schema.get("required")
    needed = [name for name in texts if isinstance(required, list) and name in required]
    for candidates in (texts, needed):
        if len(candidates) == 1:
            return candidates[0]
    return None


def arguments_of(prompt: Prompt, tool: Json, named: str = "") -> dict[str, Any]:
    """The arguments for a prompt.  Raises `Rejected`, unsent, where they cannot be made of it."""
    schema = mapping(tool.get("inputSchema"))
    argument = text_argument(schema, named)
    if prompt.input is not None:
        given = dict(prompt.input)
        return {argument: prompt.text, **given} if argument and prompt.text else given
    if argument:
        return {argument: prompt.text}
    read = _json(prompt.text)
    if isinstance(read, dict):
        return read
    required = schema.get("required")
    if isinstance(required, list) and required:
        raise Rejected(
            f"the tool {tool.get('name')} takes no text: give its arguments as input "
            f"({', '.join(str(name) for name in required)})",
            kind="invalid",
            sent=False,
        )
    return {}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def progress_of(progress: float, total: float | None, message: str | None) -> Progress:
    count = f"{progress:g} of {total:g}" if total else f"{progress:g}"
    return Progress(text=clean(message)[:200] if message else count)


def result_events(turn_id: str, result: Json) -> Iterator[Event]:
    """A `tools/call` result as events, `Done` the last of them."""
    blocks = items(result.get("content"))
    structured = result.get("structuredContent")
    is_error = bool(result.get("isError"))
    texts: list[str] = []
    for place, block in enumerate(blocks):
        if block.get("type") == "text":
            texts.append(str(block.get("text", "")))
        elif (file := file_of(block, f"{turn_id}/file{place}")) is not None:
            yield file
        elif block.get("type") != "resource_link":
            texts.append(f"(content of type {clean(str(block.get('type')))}, which is not shown)")
    text = "\n".join(texts)
    if not text and structured is not None:
        text = json.dumps(structured, ensure_ascii=False)
    message = f"{turn_id}/message"
    if text and not (is_error and len(text) <= _MAX_ERROR):
        yield Message(id=message, message_id=message, text=text, data=structured)
    if is_error:
        words = clean(text) or "the tool failed without a word"
        yield Done(id=f"{turn_id}/done", outcome="failed", error=words, error_kind="failed")
    else:
        yield Done(id=f"{turn_id}/done", outcome="completed")


def links_of(result: Json) -> list[tuple[str, Json]]:
    """The resources that a result links to, each with the place of its block."""
    blocks = enumerate(items(result.get("content")))
    return [(str(place), each) for place, each in blocks if each.get("type") == "resource_link"]


def linked_event(turn_id: str, place: str, link: Json, found: Json | None) -> Event:
    """A linked resource: as a file where it was read, else as words."""
    event_id = f"{turn_id}/file{place}"
    for contents in items(mapping(found).get("contents")):
        named = {**contents, "uri": str(link.get("name") or contents.get("uri") or "")}
        file = file_of({"type": "resource", "resource": named}, event_id)
        if file is not None:
            return file
    text = f"{link.get('name') or 'resource'}: {link.get('uri', '')} (not fetched)"
    return Message(id=event_id, message_id=event_id, text=text)
