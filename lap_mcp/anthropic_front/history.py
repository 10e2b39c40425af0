"""Messages as a client sends them, into what stood upstream.  Pure.

One answer of ours is several rounds upstream: what the model said, then the results of its calls as
a user's message, then what it said next.  Results come after everything that was said in their
round (`exchange.py` writes them so), which is why the rounds can be told apart again.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lap_mcp.front_parts.wire import Json, mapping, sequence

from .results import is_result, not_run, told
from .wire import OURS, upstream_id_of

_PICTURES: Final = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that a message names and that is ours."""

    name: str
    data: bytes


def file_ids(messages: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Ids of `container_upload` blocks, and of documents and images that are files."""
    uploads, sources = [], []
    for message in messages:
        for block in map(mapping, sequence(mapping(message).get("content"))):
            source = mapping(block.get("source"))
            if block.get("type") == "container_upload":
                uploads.append(str(block.get("file_id")))
            elif source.get("type") == "file":
                sources.append(str(source.get("file_id")))
    return list(dict.fromkeys(uploads)), list(dict.fromkeys(sources))


def upstream_messages(messages: Sequence[Any], files: Mapping[str, Upload]) -> list[Any]:
    """`files`: those of ours, by id."""
    found: list[Any] = []
    waiting: list[Any] = []
    """Results that the next message of the user begins with."""
    for message in messages:
        content = mapping(message).get("content")
        if mapping(message).get("role") == "assistant" and isinstance(content, list):
            for said, results in _rounds(content):
                _flush(found, waiting)
                if said:
                    found.append({**message, "content": said})
                waiting = results
            continue
        if isinstance(content, list):
            content = [_given(block, files) for block in content]
            message = {**message, "content": [*waiting, *content]}
        elif waiting and mapping(message).get("role") == "user":
            text = {"type": "text", "text": content}
            message = {**message, "content": [*waiting, text]}
        elif waiting:
            _flush(found, waiting)
        waiting = []
        found.append(message)
    _flush(found, waiting)
    return found


def _flush(found: list[Any], waiting: list[Any]) -> None:
    if waiting:
        found.append({"role": "user", "content": waiting})


def _rounds(content: Sequence[Any]) -> Iterator[tuple[list[Any], list[Any]]]:
    said: list[Any] = []
    results: list[Any] = []
    for block in content:
        if is_result(block):
            results.append(told(mapping(block)))
            continue
        if results:
            yield said, [*results, *_dangling(said, results)]
            said, results = [], []
        said.append(_said(block))
    yield said, [*results, *_dangling(said, results)]


def _said(block: Any) -> Any:
    found = mapping(block)
    if found.get("type") != "server_tool_use" or found.get("name") not in OURS:
        return block
    call = {key: value for key, value in found.items() if key != "caller"}
    return {**call, "type": "tool_use", "id": upstream_id_of(str(found.get("id")))}


def _dangling(said: Sequence[Any], results: Sequence[Any]) -> list[Any]:
    """Results of calls of ours that have none: an answer was cut off behind them."""
    answered = {result["tool_use_id"] for result in results}
    return [
        not_run(str(block["id"]))
        for block in map(mapping, said)
        if block.get("type") == "tool_use"
        and block.get("name") in OURS
        and str(block.get("id")) not in answered
    ]


def _given(block: Any, files: Mapping[str, Upload]) -> Any:
    """A block of the user's; a file of ours in it as what it holds."""
    found = mapping(block)
    kept = {"cache_control": found["cache_control"]} if "cache_control" in found else {}
    if found.get("type") == "container_upload":
        file = files.get(str(found.get("file_id")))
        words = "A file of the user does not exist any more."
        if file is not None:
            words = f"The user put a file into the sandbox: /mnt/data/{file.name}"
        return {"type": "text", "text": f"({words})", **kept}
    source = mapping(found.get("source"))
    if source.get("type") == "file" and (file := files.get(str(source.get("file_id")))):
        return {**found, "source": _source(file)}
    return block


def _source(file: Upload) -> Json:
    media_type = "application/pdf" if file.data.startswith(b"%PDF") else None
    for magic, mime in _PICTURES.items():
        if file.data.startswith(magic):
            media_type = mime
    if media_type is None:
        text = file.data.decode(errors="replace")
        return {"type": "text", "media_type": "text/plain", "data": text}
    data = base64.b64encode(file.data).decode()
    return {"type": "base64", "media_type": media_type, "data": data}
