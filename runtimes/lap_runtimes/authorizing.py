"""How a request to the configured origin is signed, or gets a token that expires.

A fixed credential needs none of this (`config.Auth`).  An `Authorizer` is asked once for every
request that goes home, when method, address, headers and body are final, and is never asked for one
that goes anywhere else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

REMEMBERED = 8
"""Issued credentials that are still looked for in error bodies."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as it will be sent."""

    method: str
    url: str
    """With its query, percent-encoded."""
    headers: Mapping[str, str]
    """`Host` and `Content-Type` among them; names in lower case."""
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Headers that show who is asking."""

    secret: Mapping[str, str]
    """Never shown; scrubbed from what the runtime answers."""
    plain: Mapping[str, str] = field(default_factory=dict)
    """Parts of a signature that are no secret, such as its date."""
    once: Collection[str] = ()
    """Names of secret headers that are good for this one request only."""


class Authorizer(Protocol):
    """Makes the headers for one request."""

    async def authorize(self, request: Outgoing) -> Proof:
        """Raises `errors.Unavailable` or `errors.Rejected` (`sent=False`) where there is no
        credential to be had."""
        ...


class Issued:
    """The newest credentials that were sent, so that a runtime's echo of one can be scrubbed."""

    def __init__(self) -> None:
        self._values: deque[str] = deque(maxlen=REMEMBERED)

    def remember(self, proof: Proof) -> list[str]:
        """Those that are new, and good for more than this request."""
        new = []
        for name, value in proof.secret.items():
            if value not in self._values:
                self._values.append(value)
                if name not in proof.once:
                    new.append(value)
        return new

    def values(self) -> tuple[str, ...]:
        return tuple(self._values)
