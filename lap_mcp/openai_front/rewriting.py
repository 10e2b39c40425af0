"""The conversation that a client sends, in the form that goes upstream.

A `code_interpreter_call` that it shows again becomes the function call and the output that stood
there; a file of ours goes into the container, or along with the request.  Pure, but for the bytes
that the caller hands in.
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from .tool import NAMES
from .wire import Json, encode, mapping, sequence

CALL: Final = "code_interpreter_call"


@dataclass(frozen=True, slots=True)
class GivenFile:
    """A file that came with the input."""

    name: str
    data: bytes
    upload_id: str | None = None


@dataclass(slots=True)
class Rewriting:
    """`calls`: id of a code call to its function call and output; `uploads`: our files."""

    name: str
    """What the interpreter is called upstream; empty: it is not offered now."""
    calls: Mapping[str, Any]
    uploads: Mapping[str, GivenFile]
    placed: list[GivenFile] = field(default_factory=list)
    """Files for the container."""

    def renamed(self, paths: Mapping[str, str]) -> Rewriting:
        """The same, where these uploads are found under other names."""
        uploads = {
            id_: replace(file, name=paths.get(id_, file.name)) for id_, file in self.uploads.items()
        }
        return Rewriting(self.name, self.calls, uploads)

    def items(self, given: Any) -> list[Any]:
        if isinstance(given, str):
            return [{"type": "message", "role": "user", "content": given}]
        return [item for each in sequence(given) for item in self._item(each)]

    def _item(self, item: Any) -> list[Any]:
        found = mapping(item)
        if found.get("type") == CALL:
            return self._call(found)
        if found.get("type") == "item_reference" and str(found.get("id")) in self.calls:
            return list(self.calls[str(found["id"])])
        if isinstance(found.get("content"), list):
            return [{**found, "content": [self._part(part) for part in found["content"]]}]
        return [item]

    def _call(self, item: Json) -> list[Json]:
        known = self.calls.get(str(item.get("id")))
        if known is not None:
            call, output = known
            return [{**call, "name": self.name or call.get("name")}, output]
        call_id = f"call_{item.get('id')}"
        return [
            {
                "type": "function_call",
                "call_id": call_id,
                "name": self.name or NAMES[0],
                "arguments": encode({"code": item.get("code") or ""}).decode(),
            },
            {"type": "function_call_output", "call_id": call_id, "output": _told(item)},
        ]

    def _part(self, part: Any) -> Any:
        found = mapping(part)
        if found.get("type") == "input_file":
            return self._file(found)
        if found.get("type") == "input_image" and found.get("file_id") in self.uploads:
            file = self.uploads[found["file_id"]]
            rest = {key: value for key, value in found.items() if key != "file_id"}
            return {**rest, "image_url": _data_url(file)}
        return part

    def _file(self, part: Json) -> Any:
        file = self.uploads.get(str(part.get("file_id"))) or _inline(part)
        if file is None:
            return part
        if self.name:
            self.placed.append(file)
            if not file.name.lower().endswith(".pdf"):
                # Most models read nothing else themselves; the code does.
                return {"type": "input_text", "text": f"[The file /mnt/data/{file.name}]"}
        rest = {key: value for key, value in part.items() if key != "file_id"}
        return {**rest, "filename": file.name, "file_data": _data_url(file)}


def referred(given: Any) -> tuple[list[str], list[str]]:
    """Ids of code calls and of files that the input names."""
    calls: list[str] = []
    files: list[str] = []
    for item in sequence(given):
        found = mapping(item)
        if found.get("type") in (CALL, "item_reference"):
            calls.append(str(found.get("id")))
        for part in sequence(found.get("content")):
            file_id = mapping(part).get("file_id")
            if isinstance(file_id, str):
                files.append(file_id)
    return calls, files


def containers_in(given: Any) -> Iterator[str]:
    """Containers of earlier code, newest first."""
    for item in reversed(sequence(given)):
        container_id = mapping(item).get("container_id")
        if mapping(item).get("type") == CALL and isinstance(container_id, str):
            yield container_id


def _told(item: Json) -> str:
    outputs = item.get("outputs")
    if outputs is None:
        return "(The output of this earlier call was not kept.)"
    logs = [str(each.get("logs")) for each in sequence(outputs) if mapping(each).get("logs")]
    shown = sum(mapping(each).get("type") == "image" for each in sequence(outputs))
    figures = [f"({shown} figures shown to the user.)"] if shown else []
    return "\n".join([*logs, *figures]) or "(no output)"


def _inline(part: Json) -> GivenFile | None:
    name, data = part.get("filename"), part.get("file_data")
    if not isinstance(name, str) or not isinstance(data, str):
        return None
    try:
        return GivenFile(
            name, base64.b64decode(data.partition("base64,")[2] or data, validate=True)
        )
    except (binascii.Error, ValueError):
        return None


def _data_url(file: GivenFile) -> str:
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(file.data).decode()}"


def as_input_items(items: Sequence[Any], new_id: Callable[[str], str]) -> list[Any]:
    """The items of a list of input items: each with an id, text as content parts."""
    return [_as_input_item(item, new_id) if isinstance(item, dict) else item for item in items]


def _as_input_item(item: Json, new_id: Callable[[str], str]) -> Json:
    shown = {"id": new_id("msg"), **item}
    if shown.get("type", "message") == "message":
        shown = {"type": "message", "status": "completed", **shown}
        if isinstance(shown.get("content"), str):
            kind = "output_text" if shown.get("role") == "assistant" else "input_text"
            shown["content"] = [{"type": kind, "text": shown["content"]}]
    return shown
