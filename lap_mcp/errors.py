"""What this program refuses or fails at, in words for whoever asked.

    LapError
      Invalid           the request is wrong: bad argument, bad path, a session of another agent
      NotFound          no such thing, or somebody else's: the same words for both
      Conflict          right request, wrong moment: a turn runs, an approval is open
      LimitReached      a configured limit; names it
      Unavailable       a part is not there now: engine down, runtime unreachable, image building
      ConfigError       file, line, key, what is wrong, what to write instead
      StoreError        the store cannot be used: newer schema, disk full, locked
        StoreUncertain  it may have been written, or not
      LeaseLost         another process drives this session now (never reaches a user)

Every message says what happened and why; `remedy` says the exact thing to do.
"""

from __future__ import annotations


class LapError(Exception):
    code = "internal"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy


class Invalid(LapError):
    code = "invalid"


class NotFound(LapError):
    code = "not_found"


class Conflict(LapError):
    code = "conflict"


class LimitReached(LapError):
    code = "limit_reached"


class Unavailable(LapError):
    code = "unavailable"


class ConfigError(LapError):
    code = "config"

    def __init__(
        self,
        message: str,
        *,
        file: str = "",
        line: int | None = None,
        key: str = "",
        remedy: str = "",
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.file = file
        self.line = line
        self.key = key


class StoreError(LapError):
    code = "store"


class StoreUncertain(StoreError):
    """The connection broke while a transaction was being committed: nobody can say whether it was.
    What it did must be read before it is done again."""


class LeaseLost(LapError):
    code = "lease_lost"
