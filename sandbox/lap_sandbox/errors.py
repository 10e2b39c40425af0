"""What can go wrong with a sandbox.

SandboxError
  LauncherUnavailable   no sandbox can be opened here and now; says what to do
  SandboxGone           this one has ended
  BadPath               a path that is refused
  NotFound              no such file
  LimitReached          no room, too large, too many
  FrameError            bytes from the sandbox that are not our protocol: it is closed
"""

from __future__ import annotations


class SandboxError(Exception):
    """Base; the message is for people."""


class LauncherUnavailable(SandboxError):
    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy


class SandboxGone(SandboxError):
    pass


class BadPath(SandboxError):
    pass


class NotFound(SandboxError):
    pass


class LimitReached(SandboxError):
    pass


class FrameError(SandboxError):
    pass
