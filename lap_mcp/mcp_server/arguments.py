"""Arguments of a tool call against its schema: what is wrong, in words a model can act on."""

from __future__ import annotations

import difflib
import importlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import anyio.to_thread

from .text import one_line


async def load() -> None:
    """Import the validator, which reads files and takes a while, beside the loop.

    Whether it is there already cannot be told from `sys.modules`: a module that another thread is
    still importing is in it too.  Those who come meanwhile wait in threads of their own."""
    await anyio.to_thread.run_sync(importlib.import_module, "jsonschema")


class Checker:
    """One schema (JSON Schema 2020-12), compiled once.  Never fetches a reference.  Inside a loop,
    `load` comes first."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        from jsonschema import Draft202012Validator
        from referencing import Registry

        self._schema = schema
        self._plain = _plain(schema)
        self._required = frozenset(schema.get("required", ()))
        self._validator = Draft202012Validator(schema, registry=Registry())

    def prepare(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments without those that are `null` and may be left out: some clients fill in
        every property."""
        required = self._schema.get("required", ())
        properties = self._schema.get("properties", {})
        return {
            key: value
            for key, value in arguments.items()
            if value is not None or key in required or key not in properties
        }

    def problem(self, arguments: Mapping[str, Any]) -> str:
        """What is wrong with the arguments and what to write instead; empty if nothing is."""
        if self._is_plainly_right(arguments):
            return ""
        from jsonschema.exceptions import best_match
        from referencing.exceptions import Unresolvable

        odd = next(_unbounded(arguments, ""), "")
        if odd:
            return f"`{odd.lstrip('.')}` is not a number that JSON has: write a finite one."
        try:
            error = best_match(self._validator.iter_errors(arguments))
        except Unresolvable as reference:
            return f"The schema of this input refers to {one_line(str(reference))}, unknown here."
        return "" if error is None else _words(error)

    def _is_plainly_right(self, arguments: Mapping[str, Any]) -> bool:
        """What nearly every call is, at a thirtieth of the price: all that is required, and of the
        rest only what a look at its type decides."""
        return (
            self._plain is not None
            and self._required <= arguments.keys()
            and all(type(value) is self._plain.get(key) for key, value in arguments.items())
        )


_TYPES: Mapping[str, type] = {"string": str, "boolean": bool}
_SAYING_LITTLE = frozenset({"$schema", "title", "description"})
_FLAT = _SAYING_LITTLE | {"type", "properties", "required", "additionalProperties"}


def _plain(schema: Mapping[str, Any]) -> Mapping[str, type] | None:
    """The properties of which the schema says their type and no more; None where it says more of
    the arguments as a whole than which there are."""
    if schema.get("type") != "object" or not _FLAT.issuperset(schema):
        return None
    found: dict[str, type] = {}
    for name, of in schema.get("properties", {}).items():
        kind = str(of.get("type")) if isinstance(of, Mapping) else ""
        if kind in _TYPES and (_SAYING_LITTLE | {"type"}).issuperset(of):
            found[name] = _TYPES[kind]
    return found


def _unbounded(value: Any, path: str) -> Iterator[str]:
    """Where `NaN` and infinities are: the parser lets them in, and no limit compares with them."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _unbounded(item, f"{path}.{one_line(str(key), 48)}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unbounded(item, f"{path}[{index}]")


def _words(error: Any) -> str:
    where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path)
    name = f"`{where.lstrip('.')}`" if where else ""
    build = _WORDS.get(error.validator)
    if build is not None:
        return str(build(error, name))
    return f"{name or 'The arguments'}: {one_line(error.message)}."


def _required(error: Any, name: str) -> str:
    missing = [key for key in error.validator_value if key not in error.instance]
    inside = f" in {name}" if name else ""
    keys = ", ".join(f"`{key}`" for key in missing)
    return f"{keys} is missing{inside}. {_known(error)}".strip()


def _additional(error: Any, name: str) -> str:
    known = error.schema.get("properties", {})
    unknown = [key for key in error.instance if key not in known]
    near = difflib.get_close_matches(str(unknown[0]), list(known), n=1)
    hint = f" Did you mean `{near[0]}`?" if near else ""
    inside = f" in {name}" if name else ""
    keys = ", ".join(f"`{one_line(str(key), 48)}`" for key in unknown)
    return f"There is no argument {keys}{inside}.{hint} {_known(error)}".strip()


def _known(error: Any) -> str:
    known = error.schema.get("properties", {})
    return f"Known: {', '.join(known)}." if known else ""


def _type(error: Any, name: str) -> str:
    wanted = error.validator_value
    words = wanted if isinstance(wanted, str) else " or ".join(wanted)
    return f"{name or 'The arguments'} must be {_article(words)}, not {_shown(error.instance)}."


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeio' else 'a'} {word}"


def _shown(value: Any) -> str:
    return one_line(json.dumps(value, ensure_ascii=False, default=str), 60)


def _enum(error: Any, name: str) -> str:
    allowed = ", ".join(_shown(value) for value in error.validator_value)
    return f"{name} is {_shown(error.instance)}; write one of: {allowed}."


def _bound(words: str) -> Any:
    def build(error: Any, name: str) -> str:
        return f"{name} must be {words} {error.validator_value}, not {_shown(error.instance)}."

    return build


def _length(words: str) -> Any:
    def build(error: Any, name: str) -> str:
        return f"{name} {words.format(error.validator_value)}; it has {len(error.instance)}."

    return build


def _any_of(error: Any, name: str) -> str:
    choices = [str(c.get("description") or c.get("type")) for c in error.validator_value]
    return f"{name} is {_shown(error.instance)}; it must be one of: {'; '.join(choices)}."


_WORDS: dict[str, Any] = {
    "required": _required,
    "additionalProperties": _additional,
    "type": _type,
    "enum": _enum,
    "maximum": _bound("at most"),
    "minimum": _bound("at least"),
    "exclusiveMaximum": _bound("less than"),
    "exclusiveMinimum": _bound("more than"),
    "maxLength": _length("may have at most {} characters"),
    "minLength": _length("needs at least {} characters"),
    "maxItems": _length("may have at most {} entries"),
    "minItems": _length("needs at least {} entries"),
    "anyOf": _any_of,
    "oneOf": _any_of,
}
