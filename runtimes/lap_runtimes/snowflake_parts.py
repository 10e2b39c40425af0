"""The parts of a Cortex agent's answer as our events; answers as parts of a message.  No I/O."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lap_runtimes.base import (
    Answer,
    Asked,
    Event,
    File,
    Message,
    Question,
    Thinking,
    ToolResult,
    ToolUse,
)
from lap_runtimes.errors import Rejected
from lap_runtimes.files import plain_name
from lap_runtimes.vendor_http import Json, mappings


@dataclass(frozen=True, slots=True)
class Part:
    """`id` is unique in the session; `streamed` is the text so far, for a part that does not repeat
    it.  A part of an unknown kind says nothing."""

    id: str
    kind: str
    body: Json
    streamed: str = ""

    def events(self) -> Iterator[Event]:
        read = {
            "text": self._text,
            "thinking": self._thinking,
            "tool_use": self._tool_use,
            "tool_result": self._tool_result,
            "table": self._table,
            "chart": self._chart,
            "asset": self._asset,
        }.get(self.kind)
        if read is not None:
            yield from read()

    def _text(self) -> Iterator[Event]:
        text = str(self.body.get("text") or self.streamed)
        if not text:
            return
        yield Message(id=self.id, message_id=self.id, text=text)
        if self.body.get("is_elicitation") is True:
            asked = Question(id=self.id, kind="input", text=text)
            yield Asked(id=f"{self.id}/asked", question=asked)

    def _thinking(self) -> Iterator[Event]:
        text = str(self.body.get("text") or self.streamed)
        if text:
            yield Thinking(id=self.id, message_id=self.id, text=text)

    def _tool_use(self) -> Iterator[Event]:
        use, name = _use(self.body), str(self.body.get("name") or "a tool")
        given = self.body.get("input")
        arguments = given if isinstance(given, Mapping) else {}
        options = [label for label, _, _ in _options(self.body)]
        if not options and not _is_ours(self.body):
            yield ToolUse(id=self.id, tool_use_id=use, name=name, input=arguments)
            return
        asked = Question(
            id=use,
            kind="approval" if options else "tool_result",
            text=f"May it use {name}?" if options else f"It asks for the result of {name}.",
            options=options,
            tool=name,
            tool_input=arguments,
        )
        yield Asked(id=f"{self.id}/asked", question=asked)

    def _tool_result(self) -> Iterator[Event]:
        texts = []
        for each in mappings(self.body.get("content")):
            if each.get("type") == "text":
                texts.append(str(each.get("text") or ""))
            elif "json" in each:
                texts.append(json.dumps(each["json"], ensure_ascii=False))
        failed = str(self.body.get("status") or "success") not in ("success", "completed")
        text = "\n".join(texts)
        yield ToolResult(id=self.id, tool_use_id=_use(self.body), text=text, is_error=failed)

    def _table(self) -> Iterator[Event]:
        """The rows that the agent shows, as a file of comma-separated values."""
        results = self.body.get("result_set")
        results = results if isinstance(results, Mapping) else {}
        about = results.get("resultSetMetaData")
        columns = mappings(about.get("rowType")) if isinstance(about, Mapping) else []
        rows = results.get("data")
        out = io.StringIO()
        write = csv.writer(out, lineterminator="\n").writerow
        write([str(column.get("name") or "") for column in columns])
        for row in rows if isinstance(rows, list) else []:
            write(row if isinstance(row, list) else [row])
        title = str(self.body.get("title") or "table")
        yield self._file(f"{title}.csv", "text/csv", out.getvalue())

    def _chart(self) -> Iterator[Event]:
        spec = self.body.get("chart_spec")
        text = spec if isinstance(spec, str) else json.dumps(spec)
        yield self._file("chart.vl.json", "application/vnd.vegalite.v5+json", text)

    def _file(self, name: str, media_type: str, text: str) -> File:
        safe = plain_name(name.replace("/", "-"), fallback="file")
        data = text.encode("utf-8", "replace")
        return File(id=self.id, file_id=self.id, name=safe, media_type=media_type, data=data)

    def _asset(self) -> Iterator[Event]:
        """A file on a stage of the account, which this interface does not hand out."""
        path, about = str(self.body.get("path") or ""), str(self.body.get("description") or "")
        text = f"A file was made: {path} (on a Snowflake stage, not fetched). {about}".strip()
        yield Message(id=self.id, message_id=self.id, text=text, data={"stage_path": path})


def _use(body: Json) -> str:
    return str(body.get("tool_use_id") or "")[:256]


def _is_ours(body: Json) -> bool:
    """Some servers write it as text."""
    return str(body.get("client_side_execute")).lower() == "true"


def _options(body: Json) -> list[tuple[str, str, bool]]:
    """What may be chosen: as it is shown, as it is sent, and whether it denies.  Empty where the
    server has decided already."""
    permission = body.get("permission")
    if not isinstance(permission, Mapping) or permission.get("verdict") in ("allow", "deny"):
        return []
    granted = [
        (str(each.get("label") or each["id"]), str(each["id"]), each.get("deny") is True)
        for each in mappings(permission.get("grant_options"))
        if each.get("id")
    ]
    plain = permission.get("options")
    texts = [each for each in plain if isinstance(each, str)] if isinstance(plain, list) else []
    return granted or [(text, text, text.casefold().startswith("deny")) for text in texts]


def opened(kind: str, body: Json) -> dict[str, Any]:
    """What the answer to a question needs to know about it; kept in the ref."""
    if kind == "text":
        return {"kind": "input"}
    options = _options(body)
    if options:
        return {"kind": "approval", "options": [list(option) for option in options]}
    return {"kind": "tool_result", "name": str(body.get("name") or "")}


def answer_part(asked: Json, answer: Answer) -> dict[str, Any]:
    """An answer as a part of the next message.  Raises `Rejected` for an option that is none."""
    if asked.get("kind") == "input":
        declined = "I decline to answer." if answer.decision == "deny" else ""
        text = "\n".join(filter(None, (declined, answer.text, _json(answer))))
        return {"type": "text", "text": text}
    if asked.get("kind") == "approval":
        decision = {"tool_use_id": answer.question_id, "decision": _chosen(asked, answer)}
        if answer.text and answer.decision != "allow":
            decision["reason"] = answer.text
        return {"type": "permission_decision", "permission_decision": decision}
    failed = answer.is_error or answer.decision == "deny"
    text = f"The call was declined. {answer.text}".strip() if answer.decision == "deny" else ""
    content: list[dict[str, Any]] = [{"type": "text", "text": text or answer.text}]
    if answer.data is not None and not content[0]["text"]:
        content = [{"type": "json", "json": dict(answer.data)}]
    result = {
        "tool_use_id": answer.question_id,
        "name": asked.get("name", ""),
        "status": "error" if failed else "success",
        "content": content,
    }
    return {"type": "tool_result", "tool_result": result}


def _json(answer: Answer) -> str:
    return "" if answer.data is None else json.dumps(dict(answer.data), ensure_ascii=False)


def _chosen(asked: Json, answer: Answer) -> str:
    """The option as it is sent: the one that was named, else the first that means the decision."""
    options = [tuple(option) for option in asked.get("options") or ()]
    for label, sent, denies in options:
        if answer.option is not None:
            if answer.option in (label, sent):
                return str(sent)
        elif answer.decision is not None and denies == (answer.decision == "deny"):
            return str(sent)
    offered = ", ".join(str(label) for label, _, _ in options)
    said = answer.option or answer.decision or "nothing"
    raise Rejected(f"{said!r} is none of the options: {offered}", kind="invalid", sent=False)
