"""Reads the parts of A2A messages and artifacts: their text, files, links and digests.  No I/O."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lap_runtimes.base import MAX_FILE_BYTES, Event, File, Message
from lap_runtimes.errors import ProtocolError
from lap_runtimes.files import FileLink, plain_name

Json = Mapping[str, Any]

MAX_ID = 512


def mapping(value: Any) -> Json:
    if not isinstance(value, Mapping):
        raise ProtocolError(f"the agent sent {type(value).__name__} where A2A has an object")
    return value


def parts_of(message: Json) -> list[Json]:
    return [mapping(part) for part in message.get("parts", [])]


def artifact_id_of(wire: Json) -> str:
    made = str(wire.get("artifactId", "")) or "artifact"
    if len(made) > MAX_ID:
        raise ProtocolError("the agent's artifact id is longer than 512 characters")
    return made


def message_id_of(message: Json) -> str:
    return str(message.get("messageId", ""))[:MAX_ID] or digest_of(message)


def text_of(parts: list[Json]) -> str:
    """Chunks and parts alike: a finished artifact does not tell them apart."""
    return "".join(str(part["text"]) for part in parts if "text" in part)


def digest_of(value: Any) -> str:
    encoded = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(encoded.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def content_digest(parts: list[Json]) -> str:
    """The same however the text was cut into parts."""
    return digest_of([text_of(parts), [part for part in parts if "text" not in part]])


def file_parts(parts: list[Json]) -> Iterator[Json]:
    """File parts; raw parts of one name that follow each other are chunks of one file."""
    open_file: dict[str, Any] | None = None
    for part in parts:
        if "raw" in part:
            named = str(part.get("filename", ""))
            chunk = _bytes(part["raw"])
            if open_file and named and open_file.get("filename") == named:
                open_file["bytes"] += chunk
                continue
            if open_file:
                yield open_file
            open_file = {**part, "bytes": chunk}
        elif "url" in part:
            if open_file:
                yield open_file
            open_file = None
            yield part
    if open_file:
        yield open_file


def _bytes(raw: Any) -> bytes:
    if isinstance(raw, bytes):
        return raw
    try:
        return base64.b64decode(str(raw), validate=False)
    except (binascii.Error, ValueError) as exc:
        raise ProtocolError(f"the agent sent a file that is not base64: {exc}") from exc


def file_event(part: Json, file_id: str, artifact_name: str) -> Event:
    media_type = str(part.get("mediaType", ""))
    name = plain_name(
        str(part.get("filename", "")), fallback=plain_name(artifact_name, fallback="file"),
        media_type=media_type,
    )  # fmt: skip
    if "url" in part:
        url = str(part["url"])
        return FileLink(
            id=f"{file_id}/{digest_of(url)}",
            file_id=file_id,
            name=name,
            media_type=media_type,
            url=url,
        )
    data: bytes = part["bytes"]
    mark = hashlib.sha256(data).hexdigest()[:16]
    if len(data) > MAX_FILE_BYTES:
        text = f"{name} is {len(data)} bytes; files over {MAX_FILE_BYTES} are not carried."
        return Message(id=f"{file_id}/{mark}", message_id=file_id, text=text)
    return File(
        id=f"{file_id}/{mark}",
        file_id=file_id,
        name=name,
        media_type=media_type or "application/octet-stream",
        data=data,
    )


def link_in(message: Json, text: str) -> str | None:
    for part in parts_of(message):
        if "url" in part:
            return str(part["url"])
    found = re.search(r"https?://[^\s<>\"')\]]+", text)
    return found.group(0) if found else None


def whole_numbers(value: Any) -> Any:
    """JSON that went through protobuf's `Value`, which has only doubles: whole numbers as such."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, Mapping):
        return {key: whole_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [whole_numbers(each) for each in value]
    return value
