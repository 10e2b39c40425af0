"""What can go wrong at a runtime.

    RuntimeFailure
      Unavailable      nobody answered: refused, reset, timed out, DNS, TLS
      Rejected         the runtime said no: HTTP 4xx/5xx, JSON-RPC error, an error in the stream
      ProtocolError    it answered something that is not its protocol
      Unsupported      it has no such capability; nothing was sent

Adapters translate every foreign exception into one of these, in one place each, with `from exc`.
Messages are for people: what happened, and where one exists the remedy.  Never a secret.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal[
    "auth",
    "not_found",
    "conflict",
    "invalid",
    "rate_limited",
    "overloaded",
    "gone",
    "failed",
    "unreachable",
    "protocol",
    "unsupported",
]


class RuntimeFailure(Exception):
    """Base.  `sent` says whether the runtime may have begun to work on what we asked."""

    kind: Kind = "failed"

    def __init__(
        self,
        message: str,
        *,
        kind: Kind | None = None,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind or type(self).kind
        self.status = status
        """HTTP status or the runtime's own numeric code."""
        self.request_id = request_id
        """The vendor's id for the request, for a support ticket."""
        self.retry_after = retry_after
        """Seconds, where the runtime named them."""
        self.sent = sent

    @property
    def safe_to_retry(self) -> bool:
        """A repeated start cannot run twice."""
        return not self.sent or self.kind in ("rate_limited", "overloaded")


class Unavailable(RuntimeFailure):
    """Nobody answered, or the answer broke off."""

    kind = "unreachable"


class Rejected(RuntimeFailure):
    """The runtime said no."""

    kind = "failed"


class ProtocolError(RuntimeFailure):
    """The runtime answered something that is not its protocol, or too much of it."""

    kind = "protocol"


class Unsupported(RuntimeFailure):
    """The runtime has no such capability.  Nothing was sent."""

    kind = "unsupported"

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)
