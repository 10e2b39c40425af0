"""What an execution is to the client (outputs of a `code_interpreter_call`) and to the model
(text and pictures).  Pure.

Pictures come before the logs, and the logs hold the value of the last expression as well, as in
OpenAI's recorded answers.  A traceback is in the logs, which OpenAI leaves out.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lap_sandbox.base import Execution

from lap_mcp.plain_text import clean, shorten

from .wire import Json

PICTURES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
MODEL_TEXT: Final = 32 * 1024
"""Bytes of an execution's text that a model is shown."""
MODEL_PICTURES: Final = 4
LOGS: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure that was shown, kept as a file of the container."""

    file_id: str
    mime: str
    data: bytes

    @property
    def url(self) -> str:
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode()}"

    @property
    def filename(self) -> str:
        return f"{self.file_id}.{self.mime.partition('/')[2].replace('jpeg', 'jpg')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeResult:
    """An execution with what it left in its container."""

    status: str = "completed"
    """Of the call: `completed` also for an exception, `incomplete` where it was cut off,
    `failed` where nothing could be run."""
    logs: str = ""
    told: str = ""
    """What the model reads."""
    pictures: Sequence[Picture] = ()
    files: Mapping[str, str] | None = None
    """Every file of the container now: path below `/mnt/data` to file id; `None`: as before."""

    @property
    def outputs(self) -> list[Json]:
        shown: list[Json] = [{"type": "image", "url": each.url} for each in self.pictures]
        if self.logs:
            shown.append({"type": "logs", "logs": self.logs})
        return shown


def refused(words: str) -> CodeResult:
    """Nothing was run."""
    return CodeResult(status="failed", logs=words, told=words)


def result_of(
    execution: Execution,
    *,
    pictures: Sequence[Picture],
    files: Mapping[str, str],
    note: str = "",
) -> CodeResult:
    """`note` is what the model has to know before it reads the output."""
    logs = _logs(execution)
    parts = [note, logs, _left(execution), _pictures(execution, pictures), _changed(execution)]
    parts.append(execution.notice)
    told = "\n\n".join(part for part in parts if part)
    return CodeResult(
        status="completed" if execution.status in ("ok", "error") else "incomplete",
        logs=shorten(logs or clean(execution.notice), LOGS)[0],
        told=shorten(told or "(no output)", MODEL_TEXT)[0],
        pictures=pictures,
        files=files,
    )


def _logs(execution: Execution) -> str:
    sections = [
        _dropped(clean(execution.stdout), execution.stdout_dropped),
        _dropped(clean(execution.stderr), execution.stderr_dropped),
        *_rich(execution),
        clean(execution.value or ""),
    ]
    if execution.error is not None:
        error = execution.error
        sections.append(clean(error.traceback) or f"{error.name}: {clean(error.value)}")
    return "\n".join(each.rstrip("\n") for each in sections if each.strip("\n"))


def _dropped(text: str, dropped: int) -> str:
    return f"{text}\n({dropped} bytes were left out of the middle)" if dropped else text


def _left(execution: Execution) -> str:
    """Where all of it is: what the model reads may be cut again."""
    found = {"output": execution.stdout_left, "standard error": execution.stderr_left}
    return "\n".join(
        f"(All of the {what} is in /mnt/data/{left.path}"
        + (f", but for its last {left.missing} bytes.)" if left.missing else ".)")
        for what, left in found.items()
        if left is not None
    )


def _rich(execution: Execution) -> Sequence[str]:
    """Text that was displayed; HTML only where the value has no plainer form."""
    texts = [each for each in execution.outputs if each.mime not in PICTURES]
    plain = [each for each in texts if each.mime not in ("text/html", "image/svg+xml")]
    chosen = plain or ([] if execution.value else texts)
    return [clean(each.data.decode(errors="replace")) for each in chosen]


def _pictures(execution: Execution, pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    lost = execution.outputs_dropped
    words = f"({len(pictures)} figure{'s' if len(pictures) > 1 else ''} shown to the user"
    return words + (f"; {lost} more were not kept.)" if lost else ".)")


def _changed(execution: Execution) -> str:
    if not execution.files:
        return ""
    names = [f"/mnt/data/{file.path}" for file in execution.files[:32]]
    more = " and more" if len(execution.files) > 32 or execution.files_more else ""
    return f"New or changed files: {', '.join(names)}{more}"


def for_responses(result: CodeResult, *, images: bool) -> str | list[Json]:
    """`output` of a `function_call_output`."""
    if not images or not result.pictures:
        return result.told
    return [
        {"type": "input_text", "text": result.told},
        *(
            {"type": "input_image", "image_url": each.url, "detail": "auto"}
            for each in result.pictures[:MODEL_PICTURES]
        ),
    ]
