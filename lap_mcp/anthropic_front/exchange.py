"""The interception of one Messages request, without I/O.

The upstream sees plain tools where the client asked for `code_execution`, and its calls of them go
to the client as `server_tool_use`, piece by piece.  When a round is over, what it called is run, in
order; the result blocks follow everything that was said in the round, so that a client's next
request tells the rounds apart (`history.py`).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from lap_mcp.front_parts.steps import Ask, Failure, Finish, Run, Send, Step
from lap_mcp.front_parts.wire import Json, mapping

from .blocks import Block, events_of
from .programs import bash_program, editor_program
from .results import Outcome, block_of, told
from .tools import Plan
from .usage import added, at_the_end
from .wire import BASH, EDITOR, PYTHON, STATUS_OF, error_of, shown_id

_CALLED: Final = ("tool_use", "end_turn")
"""How a round ends whose calls are whole; some servers know the second only."""
_ARGUMENT: Final = {PYTHON: "code", BASH: "command", EDITOR: "command"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What an exchange knows from its beginning."""

    plan: Plan
    messages: Sequence[Any]
    """In upstream form."""
    model: str
    max_rounds: int
    images: bool
    container: Json | None = None
    """The container that the request names or fills."""


class MessageExchange:
    """Implements `front_parts.steps.Interception`."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._plan = setting.plan
        self._history = list(setting.messages)
        self._container = setting.container
        self._rounds = 0
        self._ended = False
        self._start: Json = {}
        self._usage: Json = {}
        self._content: dict[int, Json] = {}
        self._next_index = 0
        self._new_round()

    def _new_round(self) -> None:
        self._blocks: dict[Any, Block] = {}
        self._round_usage: Json = {}
        self._last: Json = {}
        self._stopped = False
        self._calls: deque[Block] = deque()
        self._results: list[Json] = []

    # Input -------------------------------------------------------------------------------------

    def begin(self) -> list[Step]:
        return [self._ask()]

    def upstream(self, event: Mapping[str, Any]) -> list[Step]:
        steps: list[Step] = []
        for each in events_of(event):
            if not self._ended and not self._stopped:
                steps += self._event(each)
        return steps

    def over(self) -> list[Step]:
        if self._ended or self._stopped:
            return []
        if self._last:
            return self._round_over()  # without its last event: everything is known
        return self.broke(Failure(message="The model's stream ended before its answer did."))

    def broke(self, failure: Failure) -> list[Step]:
        status = 429 if failure.code == "rate_limit_exceeded" else 502
        return self._failed(error_of(status, failure.message), status)

    def live(self, run: Run, stream: Literal["stdout", "stderr"], text: str) -> list[Step]:
        """Anthropic's streams have no place for output before its call is over."""
        return []

    def ran(self, run: Run, result: Outcome) -> list[Step]:
        block = self._calls.popleft()
        return [*self._call_over(block, result), *self._run_next()]

    # Events ------------------------------------------------------------------------------------

    def _event(self, event: Json) -> list[Step]:
        kind = event.get("type")
        if kind == "message_start":
            return self._started(event)
        if kind == "content_block_start":
            return self._block_started(event)
        if kind in ("content_block_delta", "content_block_stop"):
            return self._block_event(event)
        if kind == "message_delta":
            self._last = event
            self._round_usage |= _said(mapping(event.get("usage")))
            return []
        if kind == "message_stop":
            return self._round_over()
        if kind == "error" or (kind is None and event.get("error")):
            error = mapping(event.get("error"))
            return self._failed(event, STATUS_OF.get(str(error.get("type")), 502))
        return [Send(event)]

    def _started(self, event: Json) -> list[Step]:
        message = mapping(event.get("message"))
        self._round_usage = dict(mapping(message.get("usage")))
        if self._start:
            return []
        self._start = {**message, "content": [], "container": None}
        return [Send({**event, "message": self._start})]

    def _block_started(self, event: Json) -> list[Step]:
        start = dict(mapping(event.get("content_block")))
        name = start.get("name") if start.get("type") == "tool_use" else None
        ours = name if isinstance(name, str) and name in self._plan.names else ""
        whole = _written(start.get("input")) if ours else ""
        if ours:
            start["input"] = {}
        block = Block(start, self._next_index, ours)
        self._blocks[event.get("index")] = block
        self._next_index += 1
        shown = _as_server_tool(block.whole) if ours else dict(start)
        steps: list[Step] = [Send({**event, "index": block.index, "content_block": shown})]
        if whole:
            from_whole = {"type": "input_json_delta", "partial_json": whole}
            steps += self._block_event({**_delta_of(event), "delta": from_whole})
        return steps

    def _block_event(self, event: Json) -> list[Step]:
        block = self._blocks.get(event.get("index"))
        if block is None or block.over:
            return []
        if event["type"] == "content_block_stop":
            block.over = True
            self._content[block.index] = _shown(block)
            return [Send({**event, "index": block.index})]
        delta = block.feed(mapping(event.get("delta")))
        return [] if delta is None else [Send({**event, "index": block.index, "delta": delta})]

    # Rounds ------------------------------------------------------------------------------------

    def _ask(self) -> Ask:
        self._rounds += 1
        body = self._plan.asked(self._history, self._setting.model, first=self._rounds == 1)
        body["stream"] = True
        return Ask(body, self._rounds)

    def _round_over(self) -> list[Step]:
        self._stopped = True
        self._usage = added(self._usage, self._round_usage)
        steps = self._unfinished()
        said = [_kept(block) for block in self._blocks.values()]
        self._history.append({"role": "assistant", "content": [each for each in said if each]})
        if mapping(self._last.get("delta")).get("stop_reason") in _CALLED:
            self._calls.extend(block for block in self._blocks.values() if block.name)
        return [*steps, *self._run_next()]

    def _unfinished(self) -> list[Step]:
        """Blocks that the upstream left open."""
        steps: list[Step] = []
        for place, block in self._blocks.items():
            if not block.over:
                steps += self._block_event({"type": "content_block_stop", "index": place})
        return steps

    def _run_next(self) -> list[Step]:
        steps: list[Step] = []
        while self._calls:
            block = self._calls[0]
            source = _program(block)
            if source is not None:
                return [*steps, Run(_shown(block)["id"], source)]
            self._calls.popleft()
            wrong = Outcome(error_code="invalid_tool_input", message="The input cannot be read.")
            steps += self._call_over(block, wrong)
        return [*steps, *self._calls_over()]

    def _call_over(self, block: Block, outcome: Outcome) -> list[Step]:
        self._container = outcome.container or self._container
        result = block_of(block.name, _shown(block)["id"], outcome)
        self._results.append(told(result, outcome.pictures if self._setting.images else ()))
        index, self._next_index = self._next_index, self._next_index + 1
        self._content[index] = result
        start = {"type": "content_block_start", "index": index, "content_block": result}
        return [Send(start), Send({"type": "content_block_stop", "index": index})]

    def _calls_over(self) -> list[Step]:
        delta = mapping(self._last.get("delta"))
        theirs = any(_is_theirs(block) for block in self._blocks.values())
        if not self._results or theirs:
            return self._end(delta)
        self._history.append({"role": "user", "content": self._results})
        if self._rounds >= self._setting.max_rounds:
            return self._end({**delta, "stop_reason": "pause_turn"})
        self._new_round()
        return [self._ask()]

    # Output ------------------------------------------------------------------------------------

    def _end(self, delta: Json) -> list[Step]:
        self._ended = True
        usage = at_the_end(self._usage)
        delta = {**delta, "container": self._container}
        last = {**self._last, "type": "message_delta", "delta": delta, "usage": usage}
        content = [self._content[index] for index in sorted(self._content)]
        told_too = {k: v for k, v in last.items() if k not in ("type", "delta", "usage")}
        result = {**self._start, **told_too, **delta, "content": content}
        result["usage"] = {**mapping(self._start.get("usage")), **usage}
        return [Send(last), Send({"type": "message_stop"}), Finish(result)]

    def _failed(self, error: Json, status: int) -> list[Step]:
        self._ended = True
        return [
            Send({"type": "error", **error}),
            Finish({"error": error.get("error"), "status": status}),
        ]


def _written(given: Any) -> str:
    """What an upstream that does not stream a call's input gives with its beginning, as the model
    wrote it."""
    if isinstance(given, str):
        return given
    return json.dumps(given) if isinstance(given, dict) and given else ""


def _said(usage: Json) -> Json:
    return {key: value for key, value in usage.items() if value is not None}


def _delta_of(start: Json) -> Json:
    return {"type": "content_block_delta", "index": start.get("index")}


def _as_server_tool(call: Json) -> Json:
    return {**call, "type": "server_tool_use", "id": shown_id(str(call.get("id")))}


def _shown(block: Block) -> Json:
    return _as_server_tool(block.whole) if block.name else block.whole


def _kept(block: Block) -> Json | None:
    """The block as the upstream takes it back; it refuses text that is empty."""
    whole = block.whole
    empty = whole.get("type") == "text" and not str(whole.get("text") or "").strip()
    return None if empty else whole


def _is_theirs(block: Block) -> bool:
    return not block.name and block.whole.get("type") == "tool_use"


def _program(block: Block) -> str | None:
    """What the sandbox runs for a call; `None`: its input says nothing that can be run."""
    value = block.whole.get("input")
    argument = mapping(value).get(_ARGUMENT[block.name])
    if block.problem or not isinstance(argument, str):
        return None
    if block.name == PYTHON:
        return argument
    return bash_program(argument) if block.name == BASH else editor_program(mapping(value))
