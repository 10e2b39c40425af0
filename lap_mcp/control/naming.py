"""Names that others gave, made safe to show and to write."""

from __future__ import annotations

import re
import unicodedata

_UNSAFE = re.compile(r"[^\w.() +@=,-]")


def safe_file_name(name: str, fallback: str = "file") -> str:
    """A plain file name: no folders, control or format characters, not hidden, ≤ 200 bytes."""
    plain = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    plain = "".join(c for c in plain if unicodedata.category(c)[0] not in "CZ" or c == " ")
    plain = _UNSAFE.sub("_", plain).strip(" .")
    encoded = plain.encode()
    if len(encoded) > 200:
        stem, dot, suffix = plain.rpartition(".")
        suffix = f"{dot}{suffix}" if dot and len(suffix) <= 10 else ""
        room = 200 - len(suffix.encode())
        plain = (stem or plain).encode()[:room].decode(errors="ignore") + suffix
    return plain or fallback
