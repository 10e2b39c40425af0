"""What an execution is to the client (a result block) and to the model (a tool result).  Pure.

The model is told what the block says and nothing else, so that a conversation that the client
sends again reads upstream as it did the first time, and the upstream's prompt cache holds.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lap_sandbox.base import Execution, Output

from lap_mcp.front_parts.wire import Json, mapping, sequence
from lap_mcp.plain_text import clean, shorten

from .wire import BASH, EDITOR, PYTHON, RESULTS, upstream_id_of

PICTURES: Final = 4
"""As many a model is shown of one execution."""
SHOWN: Final = 256 * 1024
TOLD: Final = 64 * 1024
NOT_RUN: Final = "This was not run: the answer was cut off before."
_CODE: Final = re.compile(r"-?\d{1,9}")
_COUNTS: Final = ("old_start", "old_lines", "new_start", "new_lines")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one call."""

    execution: Execution | None = None
    error_code: str = ""
    """Why nothing was run."""
    message: str = ""
    note: str = ""
    """What has to be known before the output is read."""
    file_ids: Sequence[str] = ()
    """New and changed files and figures."""
    pictures: Sequence[Output] = field(default=(), repr=False)
    container: Json | None = None
    """`id` and `expires_at`, as they are now."""


def block_of(name: str, call_id: str, outcome: Outcome) -> Json:
    """The `*_tool_result` block.  `call_id` as the client knows it."""
    return {
        "type": f"{name}_tool_result",
        "tool_use_id": call_id,
        "content": _content(name, outcome),
    }


def _content(name: str, outcome: Outcome) -> Json:
    execution = outcome.execution
    if execution is None:
        return _error(name, outcome.error_code or "unavailable", outcome.message)
    if execution.status == "timeout":
        return _error(name, "execution_time_exceeded", clean(execution.notice))
    if name == EDITOR:
        return _edited(execution)
    value = execution.value or ""
    stdout, stderr = clean(execution.stdout), clean(execution.stderr)
    code = {"ok": 0, "error": 1}.get(execution.status, 137)
    if name == BASH and _CODE.fullmatch(value):
        code = int(value)
    elif name == PYTHON and value:
        stdout = f"{stdout}{'' if not stdout or stdout.endswith(chr(10)) else chr(10)}"
        stdout += f"{clean(value)}\n"
    if execution.error is not None:
        error = execution.error
        stderr += clean(error.traceback) or f"{error.name}: {clean(error.value)}"
    words = [outcome.note, stderr, "" if code in (0, 1) else clean(execution.notice)]
    return {
        "type": f"{name}_result",
        "stdout": shorten(stdout, SHOWN)[0],
        "stderr": shorten("\n".join(each for each in words if each), SHOWN)[0],
        "return_code": code,
        "content": [{"type": f"{name}_output", "file_id": each} for each in outcome.file_ids],
    }


def _error(name: str, code: str, message: str = "") -> Json:
    error: Json = {"type": f"{name}_tool_result_error", "error_code": code}
    if name == EDITOR:
        error["error_message"] = message or None
    return error


def _edited(execution: Execution) -> Json:
    """What the editor's program printed, by its shape: it comes out of a sandbox."""
    try:
        said = mapping(json.loads(execution.stdout))
    except (ValueError, RecursionError):
        said = {}
    kind = f"{EDITOR}_%s_result"
    if isinstance(code := said.get("error_code"), str):
        known = code if code in ("file_not_found", "invalid_tool_input") else "unavailable"
        return _error(EDITOR, known, clean(str(said.get("error_message"))))
    if isinstance(said.get("content"), str):
        counts = {key: _count(said, key) for key in ("num_lines", "start_line", "total_lines")}
        text = shorten(clean(said["content"]), SHOWN)[0]
        return {"type": kind % "view", "file_type": "text", "content": text, **counts}
    if isinstance(said.get("is_file_update"), bool):
        return {"type": kind % "create", "is_file_update": said["is_file_update"]}
    if isinstance(said.get("lines"), list):
        lines = [clean(str(each)) for each in said["lines"]]
        counts = {key: _count(said, key) for key in _COUNTS}
        return {"type": kind % "str_replace", "lines": lines, **counts}
    return _error(EDITOR, "unavailable", clean(execution.notice) or "The editor gave no answer.")


def _count(said: Mapping[str, Any], key: str) -> int | None:
    value = said.get(key)
    return value if isinstance(value, int) else None


def told(block: Json, pictures: Sequence[Output] = ()) -> Json:
    """The `tool_result` that stands upstream for a result block."""
    content = mapping(block.get("content"))
    text = shorten(_words(content) or "(no output)", TOLD)[0]
    result: Json = {
        "type": "tool_result",
        "tool_use_id": upstream_id_of(str(block.get("tool_use_id"))),
        "content": text,
    }
    if str(content.get("type")).endswith("_error"):
        result["is_error"] = True
    if pictures:
        shown = [_picture(each) for each in pictures[:PICTURES]]
        result["content"] = [{"type": "text", "text": text}, *shown]
    if "cache_control" in block:
        result["cache_control"] = block["cache_control"]
    return result


def _words(content: Json) -> str:
    kind = str(content.get("type"))
    if kind.endswith("_error"):
        said = content.get("error_message") or _MEANING.get(str(content.get("error_code")), "")
        return f"{content.get('error_code')}: {said}"
    if "stdout" in content or "encrypted_stdout" in content:
        code = content.get("return_code")
        parts = [
            str(content.get("stdout") or "").rstrip("\n"),
            str(content.get("stderr") or "").rstrip("\n"),
            f"(return code {code})" if code else "",
        ]
        return "\n".join(part for part in parts if part)
    if "is_file_update" in content:
        return "The file was replaced." if content["is_file_update"] else "The file was created."
    if "lines" in content:
        return "The file was changed:\n" + "\n".join(map(str, sequence(content["lines"])))
    return str(content.get("content") or "")


_MEANING: Final = {
    "invalid_tool_input": "the input of the call could not be read; it has to be one JSON object "
    "as the tool's schema says. Nothing was run.",
    "execution_time_exceeded": "it ran too long and was stopped.",
    "unavailable": "the sandbox cannot be used now. Nothing was run.",
    "too_many_requests": "there are too many sandboxes or executions now. Nothing was run.",
}


def _picture(output: Output) -> Json:
    data = base64.b64encode(output.data).decode()
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": output.mime, "data": data},
    }


def not_run(call_id: str) -> Json:
    """What stands upstream for a call that was never run."""
    return {
        "type": "tool_result",
        "tool_use_id": upstream_id_of(call_id),
        "content": NOT_RUN,
        "is_error": True,
    }


def is_result(block: Any) -> bool:
    return str(mapping(block).get("type")) in RESULTS
