"""Turns what is wrong with a configuration into one line each: file, line, key, remedy."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lap_mcp.errors import ConfigError
from lap_mcp.model import Problem

from .secrets import Faulty

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Locator:
    """Where each key was set: a line of the file, or a variable or option that overrides it."""

    file: Path | None = None
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    overrides: Mapping[KeyPath, str] = field(default_factory=dict)
    """Key to the name of the variable or option."""

    def fault(self, key: KeyPath, message: str, remedy: str = "") -> ConfigError:
        for length in range(len(key), 0, -1):
            if (name := self.overrides.get(key[:length])) is not None:
                return ConfigError(message, file=name, key=dotted(key), remedy=remedy)
            if (line := self.lines.get(key[:length])) is not None:
                return ConfigError(
                    message, file=str(self.file), line=line, key=dotted(key), remedy=remedy
                )
        return ConfigError(message, file=str(self.file or ""), key=dotted(key), remedy=remedy)


def dotted(key: Sequence[str]) -> str:
    return ".".join(key)


def place(fault: ConfigError) -> str:
    """`/home/me/.config/lap-mcp/lap.toml:12 runtimes.research.url`."""
    position = f"{fault.file}:{fault.line}" if fault.line else fault.file
    return f"{position} {fault.key}".strip()


def one_line(fault: ConfigError) -> str:
    words = " ".join(f"{fault.message} {fault.remedy}".split())
    return f"{place(fault)}: {words}" if place(fault) else words


def as_problem(fault: ConfigError) -> Problem:
    return Problem(
        where=place(fault) or "configuration", message=fault.message, remedy=fault.remedy
    )


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def suggestion(word: str, known: Sequence[str], what: str) -> str:
    """`Write `discover`.`, or the list of what is known."""
    meant = nearest(word, known)
    if meant is not None:
        return f"Did you mean `{meant}`?"
    return f"{what}: {', '.join(sorted(known))}." if known else ""


def faults_of(
    error: ValidationError,
    prefix: KeyPath,
    model: type[BaseModel],
    locator: Locator,
    also_known: Sequence[str] = (),
) -> list[ConfigError]:
    """One fault for each error; `also_known` are keys that the table takes besides the model's."""
    return [
        _fault(details, prefix, model, locator, also_known)
        for details in error.errors(include_url=False, include_input=False)
    ]


def _fault(
    details: ErrorDetails,
    prefix: KeyPath,
    model: type[BaseModel],
    locator: Locator,
    also_known: Sequence[str],
) -> ConfigError:
    location = tuple(str(part) for part in details["loc"])
    key = (*prefix, *location)
    kind = details["type"]
    if kind == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        if len(location) == 1:
            known = [*known, *also_known]
        return locator.fault(
            key, "There is no such key.", suggestion(location[-1], known, "Known keys")
        )
    if kind == "missing":
        table = dotted(key[:-1])
        return locator.fault(key, "This key is missing.", f"Add `{key[-1]} = …` to [{table}].")
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, Faulty):
        return locator.fault(key, f"This key {cause}", cause.remedy)
    if isinstance(cause, ValueError):
        words = str(cause).rstrip(".")
        verb = words.startswith(("is ", "has ", "needs ", "holds "))
        return locator.fault(key, f"This value {'' if verb else 'is refused: '}{words}.")
    return locator.fault(key, _in_words(details["msg"]))


def _in_words(message: str) -> str:
    words = message.replace("Input should", "The value should", 1).rstrip(".")
    return f"{words}."


def _known_keys(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    current: Any = model
    for part in location:
        models = _models_in(current.model_fields[part].annotation) if _has(current, part) else []
        if not models:
            return []
        current = models[0]
    return list(current.model_fields)


def _has(model: type[BaseModel], name: str) -> bool:
    return name in model.model_fields


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [m for part in typing.get_args(annotation) for m in _models_in(part)]
    return []
