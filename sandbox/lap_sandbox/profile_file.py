"""The seccomp profile as a file, for an engine that wants a path where Docker takes the text."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from lap_sandbox import seccomp


class ProfileFile:
    """Written when first asked for, removed at the end."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def path(self) -> str:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="lap-seccomp-")
            Path(self._folder.name, "profile.json").write_text(json.dumps(seccomp.profile()))
        return str(Path(self._folder.name, "profile.json"))

    def remove(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
