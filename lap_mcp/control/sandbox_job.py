"""One call to run code: what it asks for, and what there is to say about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .prompt_files import GivenFile

OnOutput = Callable[[Literal["stdout", "stderr"], str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one call asks for."""

    code: str
    given: Sequence[GivenFile]
    timeout: float
    replay: bool
    on_output: OnOutput | None


@dataclass(slots=True)
class Told:
    """What there is to say about it, besides the execution."""

    notes: list[str] = field(default_factory=list)
    not_kept: dict[str, str] = field(default_factory=dict)
    placed: list[str] = field(default_factory=list)
