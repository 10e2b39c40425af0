"""Secrets as references: `env:NAME` and `file:PATH` become values here and nowhere else.

Every value that is resolved is told to the scrubber first.  No message holds a value.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_plus

from pydantic import SecretStr

from lap_mcp.model import Problem
from lap_mcp.scrub import MIN_LENGTH, Scrubber

MAX_SECRET_BYTES = 64 * 1024
WRITE_A_REFERENCE = (
    'Put it into an environment variable or a file, and write "env:NAME" or "file:/absolute/path".'
)


class Faulty(ValueError):
    """A value that is refused, with the remedy."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


def _passwords(value: str) -> Sequence[str]:
    """Those in an address, as written and decoded: whoever fails to use it may repeat one without
    the rest."""
    _, separator, rest = value.partition("://")
    if not separator:
        return ()
    user, _, _ = rest.rpartition("@")
    _, _, password = user.partition(":")
    found = [password, *re.findall(r"[?&]password=([^&]+)", rest)]
    return [form for each in found for form in (each, unquote(each), unquote_plus(each))]


class SecretResolver:
    """Resolves references; collects warnings about files that others can read."""

    def __init__(self, environ: Mapping[str, str], home: Path, scrubber: Scrubber) -> None:
        self._environ = environ
        self._home = home
        self._scrubber = scrubber
        self._warnings: dict[str, Problem] = {}

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(self._warnings.values())

    def __call__(self, reference: Any) -> SecretStr:
        """Raises: `Faulty`, for the validation error that it becomes."""
        if not isinstance(reference, str):
            raise Faulty("is not text", WRITE_A_REFERENCE)
        scheme, _, rest = reference.partition(":")
        if scheme == "env" and rest:
            return self._known(self._from_environment(rest), reference)
        if scheme == "file" and rest:
            return self._known(self._from_file(rest), reference)
        raise Faulty("holds the secret itself, which does not belong there.", WRITE_A_REFERENCE)

    def learn(self, value: str) -> None:
        """A credential that was issued to one of our runtimes."""
        self._scrubber.issued(value)

    def variable(self, name: str) -> str | None:
        """A variable that is no secret, for a program that an adapter starts."""
        return self._environ.get(name)

    def _known(self, value: str, reference: str) -> SecretStr:
        for part in _passwords(value):
            self._scrubber.add(part)
        if not self._scrubber.add(value):
            self._warn(
                reference,
                f"The secret has fewer than {MIN_LENGTH} characters, too few to be scrubbed from "
                "logs and events.",
                "Use a longer one.",
            )
        return SecretStr(value)

    def _from_environment(self, name: str) -> str:
        value = self._environ.get(name, "").strip()
        if not value:
            raise Faulty(
                f"needs the environment variable {name}, which is not set.",
                f"Set {name} where lap-mcp is started; clients have `env` for it in their entry.",
            )
        return value

    def _from_file(self, name: str) -> str:
        path = self._home / name[2:] if name.startswith("~/") else Path(name)
        if not path.is_absolute():
            raise Faulty(f"names {name}, a relative path.", "Write an absolute path after file:.")
        try:
            state = path.stat()
            if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_SECRET_BYTES:
                raise Faulty(f"names {path}, which is not a small regular file.")
            value = path.read_text(encoding="utf-8").strip()
        except OSError as exc:
            words = (exc.strerror or "it cannot be read").lower()
            raise Faulty(
                f"needs the file {path}: {words}.", "Create it, with the secret as its content."
            ) from exc
        except UnicodeDecodeError as exc:
            raise Faulty(f"names {path}, which is not UTF-8 text.") from exc
        if not value:
            raise Faulty(f"needs the file {path}, which is empty.", "Write the secret into it.")
        if stat.S_IMODE(state.st_mode) & 0o077:
            self._warn(str(path), "Others can read this secret.", f"Run `chmod 600 {path}`.")
        return value

    def _warn(self, where: str, message: str, remedy: str) -> None:
        self._warnings[where] = Problem(
            where=where, message=message, remedy=remedy, level="warning"
        )
