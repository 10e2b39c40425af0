"""Folds the events of an Elastic Agent Builder round, or a round as its conversation keeps it, into
ours.  No I/O.

Wire format: `POST /api/agent_builder/converse/async` of Kibana 9.2 and later.  A round that is kept
has no ids for its steps and its answer, so they are called by the turn and their place in it, live
and in the history alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from lap_runtimes.base import (
    Asked,
    Done,
    Event,
    File,
    Heartbeat,
    Message,
    MessageDelta,
    Progress,
    Started,
    Thinking,
    ToolResult,
    ToolUse,
    Usage,
)
from lap_runtimes.elastic_prompts import Opened, asked_of
from lap_runtimes.errors import Kind
from lap_runtimes.files import plain_name
from lap_runtimes.http_errors import clean, error_words, told_kind
from lap_runtimes.vendor_http import Json, decoded, fits, mapping, mappings

OURS = "lap-"
"""How the ids of attachments that we send begin."""
_MAX_TOLD = 30
"""Attachments of one conversation whose version is kept in the ref."""
_MAX_ID = 128
_KINDS: Mapping[str, Kind] = {
    "agentNotFound": "not_found",
    "conversationNotFound": "not_found",
    "badRequest": "invalid",
    "requestAborted": "failed",
}
_SUFFIXES = {"text": ".txt", "esql": ".esql"}


class RoundFold:
    """One round.  `ref` holds `turn`, `conversation`, `round` (the last one that was ended before),
    `resumes`, `answered` and `steps` (the round that answers go into, to which of its prompts, and
    how many steps of it were told), and `told` (the version of each attachment that was given)."""

    def __init__(self, ref: Json) -> None:
        self.ref = {key: value for key, value in ref.items() if key != "open"}
        self.finished = False
        self.resumes = str(ref.get("resumes", ""))
        self._turn = str(ref.get("turn", ""))
        self._new = not ref.get("conversation")
        self._started = False
        self._ended: Done | None = None
        self._thoughts = 0
        self._answers: list[str] = []
        self._open: list[str] = []
        self._asked: dict[str, Opened] = {}
        self._tools: dict[str, Json] = {}
        self._results: set[str] = set()

    def feed(self, name: str, data: str) -> list[Event]:
        """Events of one frame.  Raises `ProtocolError` for what is no JSON object."""
        body = decoded(data)
        inner = body.get("data")
        told = inner if isinstance(inner, Mapping) else body
        return list(self._feed(str(body.get("type") or name), told)) or [Heartbeat()]

    def feed_round(self, kept: Json, attachments: Any) -> list[Event]:
        """Events of a round that has ended, as the conversation keeps it."""
        events = list(self._start())
        for step in mappings(kept.get("steps"))[int(self.ref.get("steps") or 0) :]:
            events += self._step(step)
        events += self._round(kept, attachments)
        return [*events, *self.end()]

    def end(self) -> list[Event]:
        """The stream ended.  Nothing, where it was lost: a round that is complete is only kept when
        the conversation says so, or the stream ends by itself."""
        if self._ended is None or self.finished:
            return []
        self.finished = True
        return [self._ended]

    def _feed(self, name: str, body: Json) -> Iterator[Event]:
        if name.startswith("conversation_") and body.get("conversation_id"):
            self.ref["conversation"] = str(body["conversation_id"])[:256]
        yield from self._start()
        if name == "message_chunk":
            yield from self._chunk(str(body.get("text_chunk") or ""))
        elif name == "message_complete":
            text = str(body.get("message_content") or "") or "".join(self._open)
            yield self._message(text, body.get("structured_output"))
        elif name in ("reasoning", "tool_call", "tool_result"):
            yield from self._step({**body, "type": name})
        elif name in ("tool_progress", "compaction_started"):
            yield Progress(text=clean(str(body.get("message") or "compacting the conversation")))
        elif name == "prompt_request":
            yield from self._prompt(body.get("prompt"), body.get("source"))
        elif name == "round_complete":
            yield from self._round(mapping(body.get("round") or {}), body.get("attachments"))
        elif name in ("conversation_created", "conversation_updated"):
            self._new = False
            yield from self.end()
        elif name == "error" or "error" in body:
            yield from self._error(body.get("error", body))

    def _start(self) -> Iterator[Event]:
        if not self._started:
            self._started = True
            yield Started(id=f"{self._turn}/started", ref=dict(self.ref))

    def _id(self) -> str:
        """Of the message that comes next; most rounds have one."""
        place = len(self._answers)
        return f"{self._turn}/answer{place}" if place else f"{self._turn}/answer"

    def _chunk(self, text: str) -> Iterator[Event]:
        if text:
            self._open.append(text)
            yield MessageDelta(message_id=self._id(), text=text)

    def _message(self, text: str, data: Any) -> Message:
        message_id = self._id()
        self._answers.append(text)
        self._open = []
        return Message(id=message_id, message_id=message_id, text=text, data=data)

    def _step(self, step: Json) -> Iterator[Event]:
        """A step of a kept round, which holds a call with its results, or a live event."""
        kind = step.get("type")
        if kind == "reasoning" and step.get("reasoning") and not step.get("transient"):
            thought = f"{self._turn}/thought{self._thoughts}"
            self._thoughts += 1
            yield Thinking(id=thought, message_id=thought, text=str(step["reasoning"]))
        elif kind == "reasoning":
            yield Progress(text=clean(str(step.get("reasoning") or "")))
        elif kind in ("tool_call", "tool_result"):
            call = str(step.get("tool_call_id") or "")[:256]
            if kind == "tool_call" and call not in self._tools:
                self._tools[call] = step
                given = step.get("params")
                arguments = given if isinstance(given, Mapping) else {}
                use, name = f"{self._turn}/{call}", str(step.get("tool_id") or "a tool")
                yield ToolUse(id=use, tool_use_id=use, name=name, input=arguments)
            results = mappings(step.get("results"))
            if call not in self._results and (results or kind == "tool_result"):
                self._results.add(call)
                yield self._result(f"{self._turn}/{call}", results)

    def _result(self, use: str, results: list[Json]) -> ToolResult:
        texts = []
        for each in results:
            data = each.get("data")
            words = error_words(dict(data)) if each.get("type") == "error" and data else ""
            texts.append(words or json.dumps(data, ensure_ascii=False))
        failed = bool(results) and all(each.get("type") == "error" for each in results)
        return ToolResult(
            id=f"{use}/result", tool_use_id=use, text="\n".join(texts), is_error=failed
        )

    def _prompt(self, prompt: Any, source: Any = None) -> Iterator[Event]:
        if not isinstance(prompt, Mapping):
            return
        call = str(source.get("tool_call_id") or "") if isinstance(source, Mapping) else ""
        tool = self._tools.get(call, {})
        for question, opened in asked_of(prompt, prefix=self._turn, tool=tool):
            if question.id not in self._asked:
                self._asked[question.id] = opened
                yield Asked(id=f"{question.id}/asked", question=question)

    def _round(self, kept: Json, attachments: Any) -> Iterator[Event]:
        response = mapping(kept.get("response") or {})
        text = str(response.get("message") or "")
        if self._open or (text and text not in self._answers):
            yield self._message(text or "".join(self._open), response.get("structured_output"))
        waits = kept.get("status") == "awaiting_prompt"
        pending = kept.get("pending_prompts") or kept.get("pending_prompt")
        for prompt in pending if isinstance(pending, list) else [pending]:
            if waits:
                yield from self._prompt(prompt)
        yield from self._attachments(attachments)
        usage = kept.get("model_usage")
        if isinstance(usage, Mapping):
            yield _usage(self._turn, usage)
        self.ref["round"] = str(kept.get("id") or self.ref.get("round") or "")[:256]
        for key in ("resumes", "steps", "answered"):
            self.ref.pop(key, None)
        done = f"{self._turn}/done"
        steps = len(mappings(kept.get("steps")))
        ref = {**self.ref, "steps": steps, "resumes": self.ref["round"], "open": self._asked}
        if waits and self._asked and fits(ref):
            self._ended = Done(id=done, outcome="requires_action", ref=ref)
        elif waits:
            what = "more than can be kept" if self._asked else "something unknown"
            self._ended = self._failed(f"the agent asks {what}", "protocol")
        else:
            self._ended = Done(id=done, outcome="completed", ref=self.ref)

    def _attachments(self, attachments: Any) -> Iterator[Event]:
        """What the agent made or changed, as files."""
        told = dict(self.ref.get("told") or {})
        for each in mappings(attachments):
            name, version = str(each.get("id") or ""), str(each.get("current_version"))[:20]
            if not 0 < len(name) <= _MAX_ID or name.startswith(OURS) or told.get(name) == version:
                continue
            told[name] = version
            newest = [v for v in mappings(each.get("versions")) if str(v.get("version")) == version]
            if newest and each.get("active") is not False:
                yield self._file(each, newest[-1])
        if told:
            self.ref["told"] = dict(list(told.items())[-_MAX_TOLD:])

    def _file(self, attachment: Json, version: Json) -> File:
        data, kind = version.get("data"), str(attachment.get("type") or "")
        content = data.get("content", data.get("query")) if isinstance(data, Mapping) else data
        plain = kind in _SUFFIXES and isinstance(content, str)
        text = content if plain else json.dumps(data, ensure_ascii=False)
        suffix = _SUFFIXES[kind] if plain else ".json"
        name = plain_name(str(attachment.get("description") or attachment["id"]), fallback="file")
        file_id = f"{self._turn}/{attachment['id']}/{version.get('version')}"
        return File(
            id=file_id,
            file_id=file_id,
            name=name if "." in name else name + suffix,
            media_type="text/plain" if plain else "application/json",
            data=str(text).encode("utf-8", "replace"),
        )

    def _error(self, error: Any) -> Iterator[Event]:
        told = error if isinstance(error, Mapping) else {"message": error}
        meta = told.get("meta")
        trace = meta.get("traceId") if isinstance(meta, Mapping) else None
        words = error_words(dict(told)) or "an error without words"
        code = str(told.get("code") or "")
        shown = clean(str(trace))[:64] if trace else None
        words += f" (trace {shown})" if shown else ""
        if self._open:
            yield self._message("".join(self._open), None)
        if self._new:
            # A conversation whose first round failed was never kept.
            self.ref.pop("conversation", None)
        self.finished = True
        kind = _KINDS.get(code) or told_kind(meta)
        yield replace(self._failed(words, kind), request_id=shown)

    def _failed(self, words: str, kind: Kind) -> Done:
        return Done(
            id=f"{self._turn}/done",
            outcome="failed",
            error=clean(words),
            error_kind=kind,
            ref=self.ref,
        )


def _usage(turn: str, usage: Json) -> Usage:
    counts = {k: v for k, v in usage.items() if isinstance(v, (int, str))}
    given, made = counts.pop("input_tokens", 0), counts.pop("output_tokens", 0)
    return Usage(
        id=f"{turn}/usage",
        input_tokens=given if isinstance(given, int) else 0,
        output_tokens=made if isinstance(made, int) else 0,
        detail=counts,
    )
