"""What the interception asks its driver to do: the whole of its output.

The driver (`driving.py`) holds the sockets and the sandbox; the interceptions of the faces hold
the state and do no I/O.  The driver does the steps in order and, when it
has none left, gives the next event of the upstream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

Result = TypeVar("Result", contravariant=True)
"""What came of running code, in the words of the face."""


@dataclass(frozen=True, slots=True)
class Send:
    """Tell the client this event, if it streams."""

    event: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the upstream; `number` counts the rounds from 1."""

    body: Mapping[str, Any]
    number: int


@dataclass(frozen=True, slots=True)
class Run:
    """Run code, then call `ran` with what came of it."""

    call_id: str
    """Id of the `code_interpreter_call`, for the client."""
    source: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The whole result; nothing comes after it."""

    result: Mapping[str, Any]


Step = Send | Ask | Run | Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an upstream gave no (further) answer."""

    message: str
    code: str = "server_error"


class Interception(Protocol[Result]):
    """One client request, from the first question upstream to the whole result."""

    def begin(self) -> list[Step]: ...

    def upstream(self, event: Mapping[str, Any]) -> list[Step]:
        """An event of the round that was asked for."""
        ...

    def over(self) -> list[Step]:
        """The round's stream ended."""
        ...

    def broke(self, failure: Failure) -> list[Step]:
        """The upstream refused a later round, or broke off."""
        ...

    def live(self, run: Run, stream: Literal["stdout", "stderr"], text: str) -> list[Step]:
        """Output while code runs."""
        ...

    def ran(self, run: Run, result: Result) -> list[Step]: ...
