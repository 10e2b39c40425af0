"""One `code_interpreter_call` of a Responses stream: its events, in the recorded order.  Pure.

`output_item.added`, `in_progress`, code deltas, `code.done`, `interpreting`, `completed`,
`output_item.done`.  Recorded from OpenAI's own API in November 2025.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .arguments import Code, CodeArguments
from .results import CodeResult
from .wire import Json

EVENT = "response.code_interpreter_call"
LIVE = f"{EVENT}.output.delta"
"""Ours: standard output while code runs.  Clients that do not know it skip it."""


class InterpreterCall:
    """A call that a model makes, from its first letter to its outputs."""

    def __init__(self, item_id: str, index: int, container_id: str) -> None:
        self.id = item_id
        self.index = index
        self._container_id = container_id
        self._arguments = CodeArguments()
        self.code: Code | None = None
        self.item = self._item("in_progress", "", [])

    def added(self) -> list[Json]:
        return [
            {"type": "response.output_item.added", "output_index": self.index, "item": self.item},
            self._event(f"{EVENT}.in_progress"),
        ]

    def more(self, piece: str) -> list[Json]:
        return self._delta(self._arguments.feed(piece))

    def written(self, arguments: Any) -> list[Json]:
        """The model is done with it."""
        code = self.code = self._arguments.finish(arguments)
        done = self._event(f"{EVENT}_code.done", code=code.shown)
        return [*self._delta(code.rest), done]

    def running(self) -> list[Json]:
        return [self._event(f"{EVENT}.interpreting")]

    def printed(self, stream: str, text: str) -> list[Json]:
        return [self._event(LIVE, stream=stream, delta=text)]

    def ended(self, result: CodeResult, *, outputs: bool) -> list[Json]:
        """`outputs`: the client asked for them."""
        shown = self.code.shown if self.code else ""
        self.item = self._item(result.status, shown, result.outputs if outputs else None)
        completed = [self._event(f"{EVENT}.completed")] if result.status == "completed" else []
        done = {"type": "response.output_item.done", "output_index": self.index, "item": self.item}
        return [*completed, done]

    def _delta(self, text: str) -> list[Json]:
        return [self._event(f"{EVENT}_code.delta", delta=text)] if text else []

    def _event(self, kind: str, **more: Any) -> Json:
        return {"type": kind, "output_index": self.index, "item_id": self.id, **more}

    def _item(self, status: str, code: str, outputs: Sequence[Mapping[str, Any]] | None) -> Json:
        return {
            "id": self.id,
            "type": "code_interpreter_call",
            "status": status,
            "code": code,
            "container_id": self._container_id,
            "outputs": outputs,
        }
