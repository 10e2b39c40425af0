"""Which files a text links to, as `container_file_citation` annotations.  Pure.

A span is exactly the `sandbox:/mnt/data/…` address inside the link, in characters.  A link to a
file that is not there gets none: a citation that cannot be downloaded is worse than no citation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote, unquote

from .results import Picture
from .wire import Json

_LINK: Final = re.compile(r"sandbox:/mnt/data/")
_MAX_NAME: Final = 1100
_WORD: Final = re.compile(r"[\w/%~-]")
"""What may not follow a name: then it is the beginning of another one."""


def cited(text: str, files: Mapping[str, str], container_id: str) -> list[Json]:
    """`files`: path below `/mnt/data` to file id."""
    if not files or "sandbox:/mnt/data/" not in text:
        return []
    found: list[Json] = []
    written = {form: path for path in files for form in (path, quote(path))}
    longest_first = sorted(written, key=len, reverse=True)
    for match in _LINK.finditer(text):
        form = _named(text, match.end(), written, longest_first)
        if form is not None:
            path = written.get(form) or unquote(form)
            end = match.end() + len(form)
            found.append(_citation(container_id, files[path], path, match.start(), end))
    return found


def _named(
    text: str, start: int, written: Mapping[str, str], longest_first: Sequence[str]
) -> str | None:
    rest = text[start : start + _MAX_NAME]
    for form in longest_first:
        if rest.startswith(form) and not _goes_on(rest, len(form)):
            return form
    return None


def _goes_on(rest: str, end: int) -> bool:
    """Whether what follows belongs to the name: `a.csv` is not meant by `a.csv.gz`."""
    after = rest[end : end + 2]
    if not after:
        return False
    if after[0] == ".":
        return len(after) > 1 and _WORD.match(after[1]) is not None
    return _WORD.match(after[0]) is not None


def shown(pictures: Sequence[Picture], container_id: str) -> list[Json]:
    """Figures that were displayed: cited at 0/0 under the name of their file id."""
    return [_citation(container_id, each.file_id, each.filename, 0, 0) for each in pictures]


def _citation(container_id: str, file_id: str, path: str, start: int, end: int) -> Json:
    return {
        "type": "container_file_citation",
        "container_id": container_id,
        "file_id": file_id,
        "filename": path.rpartition("/")[2],
        "start_index": start,
        "end_index": end,
    }
