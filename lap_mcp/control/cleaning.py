"""Text and schemas from a runtime, made safe to show to a model.  Pure functions.

A description is data that a stranger wrote: it becomes one plain paragraph, without control,
bidirectional, invisible or smuggled characters, capped, and left out where it gives orders to a
model (`steering.py`).  A schema keeps only keywords whose meaning is local and whose check ends.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from lap_runtimes.base import AgentInfo

from .catalogue import Words
from .steering import LEFT_OUT, steers, steers_within

MAX_NAME = 80
MAX_DESCRIPTION = 400
MAX_SCHEMA_TEXT = 200
MAX_SCHEMA_BYTES = 16 * 1024
MAX_SCHEMA_DEPTH = 16

# Cc control, Cf invisible and bidirectional, Cs surrogates, Co private use, Cn unassigned.
_DROPPED = frozenset({"Cf", "Cs", "Co", "Cn"})
_SPACED = frozenset({"Cc", "Zl", "Zp"})
_SELECTORS = (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))
_BLANK_LETTERS = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_MAX_MARKS = 2
_TAG_START = re.compile(r"<(?=[/!?a-zA-Z])")

_PLAIN = frozenset(
    ("type", "required", "enum", "const", "default", "examples", "minimum", "maximum")
    + ("exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "minItems")
    + ("maxItems", "uniqueItems", "minProperties", "maxProperties", "format", "title")
    + ("description", "nullable", "deprecated", "readOnly", "writeOnly")
)
_ONE = frozenset(("items", "additionalProperties", "not", "if", "then", "else", "contains"))
_MANY = frozenset(("anyOf", "oneOf", "allOf", "prefixItems"))
_NAMED = frozenset(("properties", "$defs", "definitions"))
_INTO_DATA = frozenset(("items", "additionalProperties", "contains", "prefixItems", "properties"))
_REFERENCE = re.compile(r"#/(\$defs|definitions)/([A-Za-z0-9_.-]{1,64})")
_BETWEEN_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|[_./-]+")
_PROPERTY = re.compile(r"[A-Za-z0-9_$@./ -]{1,64}")


def clean_text(text: str, limit: int) -> str:
    """One paragraph of at most `limit` characters of plain text."""
    marks = 0
    kept: list[str] = []
    for char in unicodedata.normalize("NFC", text[: limit * 8]):
        category = unicodedata.category(char)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if category in _SPACED or char in _BLANK_LETTERS:
            kept.append(" ")
        elif category not in _DROPPED and marks <= _MAX_MARKS and not _is_selector(char):
            kept.append(char)
    words = " ".join("".join(kept).split())
    words = _TAG_START.sub("‹", words)
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"


def _is_selector(char: str) -> bool:
    return any(ord(char) in selectors for selectors in _SELECTORS)


def clean_words(info: AgentInfo) -> Words:
    """What may be shown of an agent, and the hash of what its runtime really said."""
    said = {
        "name": info.name,
        "description": info.description,
        "input_schema": info.input_schema,
        "output_schema": info.output_schema,
    }
    canonical = json.dumps(said, sort_keys=True, default=str, ensure_ascii=True)
    return Words(
        native_name=clean_text(info.name, MAX_NAME),
        description=clean_text(info.description, MAX_DESCRIPTION),
        input_schema=clean_schema(info.input_schema),
        output_schema=clean_schema(info.output_schema),
        digest=hashlib.sha256(canonical.encode()).hexdigest(),
    )


def clean_schema(schema: Any) -> Mapping[str, Any] | None:
    """A JSON Schema of an object, without remote references, patterns and foreign keywords.

    `None`: it is none, describes something else than an object, or is too large or too deep.
    """
    if not isinstance(schema, Mapping):
        return None
    try:
        cleaned = _Cleaner(schema).clean(schema, MAX_SCHEMA_DEPTH, data=True)
    except _TooDeep:
        return None
    if cleaned.get("type", "object") != "object" or not cleaned:
        return None
    if "$ref" not in cleaned:
        cleaned = {"type": "object", **cleaned}
    return cleaned if len(json.dumps(cleaned)) <= MAX_SCHEMA_BYTES else None


class _TooDeep(Exception):
    """A schema that nests deeper than anybody needs."""


class _Cleaner:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def clean(self, schema: Any, depth: int, *, data: bool) -> dict[str, Any]:
        """`data`: a reference is allowed here, because following it consumes input.  Inside a
        definition it is not, until a property or an item lies between: such a chain could be a
        loop that never ends."""
        if not isinstance(schema, Mapping):
            return {}
        if depth == 0:
            raise _TooDeep
        cleaned: dict[str, Any] = {}
        for key, value in schema.items():
            kept = self._keyword(key, value, depth - 1, data or key in _INTO_DATA)
            if kept is not None:
                cleaned[key] = kept
        self._drop_missing(cleaned)
        return cleaned

    def _keyword(self, key: str, value: Any, depth: int, data: bool) -> Any:
        if key in _PLAIN:
            # Without one of these, a schema only allows more.
            kept = clean_value(value, depth)
            return None if key != "required" and steers_within(kept) else kept
        if key == "$ref":
            return value if data and self._is_local(value) else None
        if key in _ONE:
            return value if isinstance(value, bool) else self.clean(value, depth, data=data)
        if key in _MANY and isinstance(value, Sequence) and not isinstance(value, str):
            return [self.clean(item, depth, data=data) for item in value] or None
        if key in _NAMED and isinstance(value, Mapping):
            below = key == "properties"
            return {
                name: item if isinstance(item, bool) else self.clean(item, depth, data=below)
                for name, item in value.items()
                if isinstance(name, str) and _PROPERTY.fullmatch(name) and not _orders(name)
            }
        return None

    def _is_local(self, reference: Any) -> bool:
        match = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
        if match is None:
            return False
        definitions = self._root.get(match[1])
        return isinstance(definitions, Mapping) and match[2] in definitions

    @staticmethod
    def _drop_missing(cleaned: dict[str, Any]) -> None:
        """`required` names only what is left."""
        required = cleaned.get("required")
        properties = cleaned.get("properties")
        if not isinstance(required, list) or not isinstance(properties, dict):
            cleaned.pop("required", None)
            return
        cleaned["required"] = [name for name in required if name in properties]


def _orders(name: str) -> bool:
    """A property's name is words to a model, too."""
    return steers(name) or steers(_BETWEEN_WORDS.sub(" ", name))


def clean_value(value: Any, depth: int = 4) -> Any:
    """A JSON value whose strings are clean; deeper levels are dropped."""
    if isinstance(value, str):
        return clean_text(value, MAX_SCHEMA_TEXT)
    if isinstance(value, bool | int | float) or value is None:
        return value
    if depth <= 0:
        return None
    if isinstance(value, Mapping):
        return {
            clean_text(str(key), MAX_NAME): clean_value(item, depth - 1)
            for key, item in value.items()
        }
    if isinstance(value, Sequence):
        return [clean_value(item, depth - 1) for item in value]
    return None


def attributed(words: Words, runtime: str) -> str:
    """The description, after a prefix that says whose words these are."""
    name = "…" if steers(words.native_name) else words.native_name
    said = LEFT_OUT if steers(words.description) else words.description
    who = f"Agent “{name}” of runtime {runtime}"
    return f"{who}, in its own words: {said}" if said else f"{who}."
