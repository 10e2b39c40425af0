"""Contents, forms and schemas that the conformance suite asks for."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import mcp.types as t
from pydantic import BaseModel


def _chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


PNG = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(b"\0\xff\0\0"))
    + _chunk(b"IEND", b"")
)
"""One red pixel."""
WAV = (
    b"RIFF"
    + struct.pack("<I", 36)
    + b"WAVEfmt "
    + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
    + b"data\0\0\0\0"
)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def embedded(uri: str, media_type: str, text: str) -> t.EmbeddedResource:
    contents = t.TextResourceContents(uri=uri, mime_type=media_type, text=text)
    return t.EmbeddedResource(resource=contents)


IMAGE = t.ImageContent(data=base64_of(PNG), mime_type="image/png")
BLOCKS: dict[str, list[t.ContentBlock]] = {
    "test_simple_text": [t.TextContent(text="This is a simple text response for testing.")],
    "test_image_content": [IMAGE],
    "test_audio_content": [t.AudioContent(data=base64_of(WAV), mime_type="audio/wav")],
    "test_embedded_resource": [embedded("test://embedded-resource", "text/plain", "embedded")],
    "test_multiple_content_types": [
        t.TextContent(text="Multiple content types test:"),
        IMAGE,
        embedded("test://mixed-content-resource", "application/json", json.dumps({"value": 1})),
    ],
}

_STRING = {"type": "string"}
SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": _STRING, "city": _STRING},
        }
    },
    "properties": {
        "name": _STRING,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": _STRING,
        "email": _STRING,
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def form(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


RESPONSE_FORM = form({"response": {"type": "string", "description": "Your response"}})
DEFAULTS_FORM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {
            "type": "string",
            "enum": ["active", "inactive", "pending"],
            "default": "active",
        },
        "verified": {"type": "boolean", "default": True},
    },
}


def _titled(**titles: str) -> list[dict[str, str]]:
    return [{"const": value, "title": title} for value, title in titles.items()]


ENUMS_FORM = form(
    {
        "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
        "titledSingle": {"type": "string", "oneOf": _titled(low="Low", mid="Middle", high="High")},
        "legacyEnum": {
            "type": "string",
            "enum": ["small", "medium", "large"],
            "enumNames": ["Small", "Medium", "Large"],
        },
        "untitledMulti": {
            "type": "array",
            "items": {"type": "string", "enum": ["read", "write", "execute"]},
        },
        "titledMulti": {
            "type": "array",
            "items": {"anyOf": _titled(feature="New feature", bug="Bug fix", docs="Documents")},
        },
    }
)


def ask_form(name: str, kind: str = "string") -> t.ElicitRequest:
    return t.ElicitRequest(
        params=t.ElicitRequestFormParams(
            message=f"What is your {name}?", requested_schema=form({name: {"type": kind}})
        )
    )


def ask_name() -> t.ElicitRequest:
    return ask_form("name")


def ask_ok() -> t.ElicitRequest:
    return ask_form("ok", "boolean")


def ask_model() -> t.CreateMessageRequest:
    question = t.TextContent(text="What is the capital of France?")
    return t.CreateMessageRequest(
        params=t.CreateMessageRequestParams(
            messages=[t.SamplingMessage(role="user", content=question)], max_tokens=100
        )
    )


def words_of(responses: Mapping[str, Any]) -> str:
    """All that was answered, as JSON."""
    plain = {
        key: value.model_dump(by_alias=True, mode="json") if isinstance(value, BaseModel) else value
        for key, value in responses.items()
    }
    return json.dumps(plain, default=str)
