"""The part of a graph's input schema that a caller fills in beside the prompt.  No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_REF = re.compile(r'"#/\$defs/([^"]+)"')


def own_schema(schema: Any, *, without: str) -> Mapping[str, Any] | None:
    """The schema without the property that the prompt fills, and without definitions that only that
    one used (a graph of messages brings 40 kB of them); None where nothing is left."""
    if not isinstance(schema, Mapping) or not isinstance(schema.get("properties"), Mapping):
        return None
    properties = {name: each for name, each in schema["properties"].items() if name != without}
    if not properties:
        return None
    made: dict[str, Any] = {k: v for k, v in schema.items() if k not in ("$defs", "required")}
    made["properties"] = properties
    wanted = schema.get("required")
    required = [name for name in wanted if name in properties] if isinstance(wanted, list) else []
    if required:
        made["required"] = required
    defined = schema.get("$defs")
    if isinstance(defined, Mapping) and (used := _used(properties, defined)):
        made["$defs"] = used
    return made


def _used(properties: Mapping[str, Any], defined: Mapping[str, Any]) -> dict[str, Any]:
    """Definitions that are referred to, also by others."""
    found: dict[str, Any] = {}
    looked_at: list[Any] = [properties]
    while looked_at:
        for name in _REF.findall(json.dumps(looked_at.pop())):
            if name in defined and name not in found:
                found[name] = defined[name]
                looked_at.append(defined[name])
    return found
