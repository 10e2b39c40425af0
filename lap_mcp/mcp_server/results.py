"""What a model gets to read: the result of a turn and of an execution, laid out for reading.

Clients differ: some show only text, some drop links and images, some show nothing but structured
content.  So all facts are in the text, in `TEXT_LIMIT` bytes, its last line the ids and status.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import mcp.types as t
from lap_sandbox.base import Execution, Left, Output

from lap_mcp.control.services import SandboxRun
from lap_mcp.errors import LapError
from lap_mcp.model import SessionFile, Turn

from .options import TEXT_LIMIT
from .text import Page, clean, one_line, page, shorten

IMAGE_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
MAX_IMAGE: Final = 2 * 1024 * 1024
MAX_IMAGES: Final = 4
"""Of an agent's turn."""
MAX_LINKS: Final = 6
MAX_PLOTS: Final = 6
"""Of one execution."""
_TRAILER_ROOM: Final = 1200


def text_result(text: str, *, is_error: bool = False) -> t.CallToolResult:
    return t.CallToolResult(content=[t.TextContent(text=text)], is_error=is_error)


def both(text: str, structured: dict[str, Any]) -> t.CallToolResult:
    """Text and the same facts as structured content."""
    return t.CallToolResult(content=[t.TextContent(text=text)], structured_content=structured)


def error_result(error: LapError) -> t.CallToolResult:
    return text_result(clean(str(error)), is_error=True)


def image(data: bytes, media_type: str) -> t.ImageContent:
    return t.ImageContent(data=base64.b64encode(data).decode(), mime_type=media_type)


_MAGIC: Final = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}


def is_image(data: bytes, media_type: str) -> bool:
    """Whether the bytes begin like that type: a broken image makes some clients' whole
    conversation fail."""
    return data.startswith(_MAGIC.get(media_type, ())) and len(data) > 32


def size_words(size: int) -> str:
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000 or unit == "GB":
            break
    return f"{value:.1f} {unit}"


def seconds_words(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnView:
    """What there is to show of a turn."""

    turn: Turn
    agent: str
    text: str
    """Whole text so far, not cleaned."""
    files: Sequence[SessionFile] = ()
    images: Sequence[tuple[SessionFile, bytes]] = ()
    data: Any = None
    """Structured output, for an agent that declares an output schema."""
    notes: Sequence[str] = ()
    """Lines before the last: open questions, how to go on."""
    status: str = ""
    """Instead of the turn's outcome in the last line."""


def turn_result(view: TurnView) -> t.CallToolResult:
    """A turn as a tool result: text or JSON, files, notes, and the line of ids and status."""
    turn = view.turn
    body = json.dumps(view.data, ensure_ascii=False) if view.data is not None else clean(view.text)
    shown = page(body, 0, TEXT_LIMIT - _TRAILER_ROOM)
    parts = [_failure(view), shown.text.strip("\n")]
    if shown.next is not None:
        parts.append(_more(turn, shown))
    parts.extend(_file_lines(view.files))
    parts.extend(view.notes)
    parts.append(status_line(turn, view.agent, view.status))
    content: list[t.ContentBlock] = [t.TextContent(text="\n\n".join(p for p in parts if p))]
    content.extend(image(data, file.media_type) for file, data in view.images)
    content.extend(file_link(file) for file in view.files)
    failed = turn.outcome in ("failed", "expired", "cancelled")
    structured = view.data if isinstance(view.data, dict) and not failed else None
    return t.CallToolResult(content=content, structured_content=structured, is_error=failed)


def _failure(view: TurnView) -> str:
    turn = view.turn
    reason = clean(turn.error or "")[:1500]
    match turn.outcome:
        case "failed":
            said = reason.lower().startswith("the agent failed")
            return reason if said else f"The agent failed: {reason or 'it gave no reason.'}"
        case "expired":
            return f"The turn was ended: {reason or 'it passed its deadline.'}"
        case "cancelled":
            return f"The turn was cancelled. {reason}".strip()
        case _:
            return ""


def _more(turn: Turn, shown: Page) -> str:
    return (
        f"(Characters 0 to {shown.next} of {shown.total}. Read on: get_session with "
        f'session "{turn.session_id}" and offset {shown.next}.)'
    )


def status_line(turn: Turn, agent: str, status: str = "") -> str:
    """`[agent research · session ses_… · turn trn_… · completed · 1.20 s]`"""
    took = ""
    if turn.ended_at is not None and turn.started_at is not None:
        took = f" · {seconds_words(turn.ended_at - turn.started_at)}"
    what = status or turn.outcome
    return f"[agent {agent} · session {turn.session_id} · turn {turn.id} · {what}{took}]"


def file_link(file: SessionFile) -> t.ResourceLink:
    return t.ResourceLink(
        uri=file.uri,
        name=one_line(file.name, 120),
        mime_type=one_line(file.media_type, 100),
        size=file.size,
    )


def _file_lines(files: Sequence[SessionFile]) -> list[str]:
    if not files:
        return []
    shown = files[:16]
    lines = [
        f"- {one_line(f.name, 120)} ({one_line(f.media_type, 60)}, {size_words(f.size)}): {f.uri}"
        for f in shown
    ]
    if len(files) > len(shown):
        lines.append(f"- and {len(files) - len(shown)} more; get_session lists them")
    return ["Files:\n" + "\n".join(lines)]


Link = Callable[[str, str], str]


def interpreter_result(
    run: SandboxRun, *, scoped: bool, link: Link | None = None
) -> t.CallToolResult:
    """An execution as a tool result.  `scoped`: the next call finds this sandbox by itself.
    `link`: from a kept file's SHA-256 and name to a link for a person."""
    execution = run.execution
    rest = [*_values(execution), *_outcome(execution), *_sandbox_files(run, link)]
    rest += [f"Note: {clean(note)[:1000]}" for note in (*run.notes, execution.notice) if note]
    last = _sandbox_line(run, scoped)
    room = TEXT_LIMIT - len("\n\n".join([*rest, last]).encode()) - 200
    out = clean(execution.stdout).rstrip("\n")
    if out:
        dropped, left = execution.stdout_dropped, execution.stdout_left
        rest.insert(0, _capped(out, max(room, 2048), "output", dropped, left))
    text, _ = shorten("\n\n".join(rest) or "(no output)", TEXT_LIMIT - len(last.encode()) - 80)
    content: list[t.ContentBlock] = [t.TextContent(text=f"{text}\n\n{last}")]
    content.extend(_images(execution))
    content.extend(
        t.ResourceLink(uri=uri, name=one_line(path, 120)) for path, uri in run.uris.items()
    )
    return t.CallToolResult(content=content, is_error=execution.status != "ok")


def _values(execution: Execution) -> list[str]:
    """Value, rich text and standard error."""
    sections = []
    if execution.value is not None:
        value = clean(execution.value)
        # A table's header has to stand above its columns.
        between = "\n" if "\n" in value else " "
        sections.append(_capped(f"=>{between}{value}", 1536, "the value"))
    sections.extend(_rich_text(execution))
    err = clean(execution.stderr).rstrip("\n")
    if err:
        dropped, left = execution.stderr_dropped, execution.stderr_left
        capped = _capped(err, 1024, "standard error", dropped, left)
        sections.append(f"stderr:\n{capped}")
    return sections


def _capped(text: str, limit: int, what: str, dropped: int = 0, left: Left | None = None) -> str:
    """`left`: where the whole of it is."""
    shown, cut = shorten(text, limit)
    if left is not None and (cut or dropped):
        but = f" but the last {size_words(left.missing)}" if left.missing else ""
        shown += f"\n(All of the {what}{but} is in /mnt/data/{one_line(left.path, 200)})"
    elif dropped:
        shown += f"\n({size_words(dropped)} of {what} were dropped: print less, or write a file.)"
    return shown


def _rich_text(execution: Execution) -> list[str]:
    sections = []
    for output in execution.outputs:
        if output.mime in IMAGE_TYPES:
            continue
        text = clean(output.data.decode(errors="replace"))
        if output.mime in ("text/markdown", "text/latex", "application/json"):
            sections.append(_capped(text, 512, output.mime))
    return sections[:2]


def _outcome(execution: Execution) -> list[str]:
    sections = []
    if execution.error is not None:
        error = execution.error
        trace = clean(error.traceback).rstrip("\n") or f"{error.name}: {error.value}"
        sections.append(shorten(trace, 2048)[0])
    sections.extend(_picture_words(execution))
    return sections


def _pictures(execution: Execution) -> tuple[list[Output], int]:
    """The images that are sent, and how many are not."""
    found = [output for output in execution.outputs if output.mime in IMAGE_TYPES]
    sent = [output for output in found if len(output.data) <= MAX_IMAGE][:MAX_PLOTS]
    return sent, len(found) - len(sent) + execution.outputs_dropped


def _picture_words(execution: Execution) -> list[str]:
    sent, left_out = _pictures(execution)
    words = []
    if sent:
        words.append(f"({len(sent)} image{'s' if len(sent) > 1 else ''} attached.)")
    if left_out:
        words.append(f"({left_out} more not shown: save what you need to /mnt/data.)")
    if any(output.mime == "image/svg+xml" for output in execution.outputs):
        words.append("(An SVG is not shown: save it as a PNG.)")
    return words


def _images(execution: Execution) -> list[t.ContentBlock]:
    return [image(picture.data, picture.mime) for picture in _pictures(execution)[0]]


def _sandbox_files(run: SandboxRun, link: Link | None) -> list[str]:
    lines = [f"- {path}: given" for path in run.placed[:16]]
    for file in run.execution.files[:16]:
        uri = run.uris.get(file.path, "")
        lines.append(f"- {one_line(file.path, 200)} ({size_words(file.size)}){uri and ': ' + uri}")
        if file.path in run.not_kept:
            lines[-1] += f" (NOT KEPT: {one_line(run.not_kept[file.path], 120)})"
    if link is not None and run.versions:
        linked = list(run.versions.items())[:MAX_LINKS]
        lines.append("For the user, to download within 5 minutes:")
        lines += [f"- {one_line(path, 100)}: {link(sha256, path)}" for path, sha256 in linked]
    hidden = len(run.execution.files) - 16
    if hidden > 0 or run.execution.files_more:
        lines.append("- and more; `os.listdir('/mnt/data')` shows all")
    return ["Files in /mnt/data:\n" + "\n".join(lines)] if lines else []


def _sandbox_line(run: SandboxRun, scoped: bool) -> str:
    execution = run.execution
    facts = [f"sandbox {run.sandbox_id}", execution.status, seconds_words(execution.duration)]
    if run.fresh:
        facts.append("new")
    if run.reopened:
        facts.append("opened again, files kept")
    if execution.files_lost:
        facts.append("variables and files lost")
    elif execution.state_lost:
        facts.append("variables lost, files kept")
    if not scoped:
        facts.append("give this id as `sandbox` to go on in it")
    return f"[{' · '.join(facts)}]"
