"""The interception of one Responses request, without I/O.

The upstream sees a function where the client asked for `code_interpreter`; the client sees one
response where the upstream gave several.  A state machine: events of the upstream and results of
code in, steps out (`steps.py`).  Its output depends on nothing but its input.

A round: `Ask`, then the upstream's events.  A call of ours is run as soon as it is written, the
events behind it wait in the driver.  When the round is over: a call of ours and none of the
client's means another round; anything else is the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from lap_mcp.front_parts.steps import Ask, Failure, Finish, Run, Send, Step

from .calls import InterpreterCall
from .items import FOR_THE_CLIENT, failure_of, is_lost_reasoning, output_of, sendable, unfinished
from .message_texts import MessageTexts
from .plans import ENCRYPTED, OUTPUTS, Plan, responses_body
from .response_objects import finished, item_events, started
from .results import CodeResult, for_responses, refused
from .tool import TOO_MANY, broken_call
from .usage import added
from .wire import Json, NewId, mapping, sequence

ENDINGS: Final = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
}
_OPENINGS: Final = frozenset({"response.created", "response.in_progress", "response.queued"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What an interception has to know of its surroundings."""

    plan: Plan
    given: Sequence[Any]
    """The conversation so far in the form that goes upstream."""
    response_id: str
    container_id: str
    now: float
    new_id: NewId
    files: Mapping[str, str] = field(default_factory=dict)
    """Of the container: path to file id."""
    max_rounds: int = 32
    images: bool = True
    """The model can look at pictures."""
    incremental: bool = False
    """The upstream keeps the conversation: a later round sends only what is new."""
    live: bool = True
    """Tell the client standard output while code runs."""
    drop_previous: bool = False
    """`given` holds the conversation that `previous_response_id` names."""
    model: str = ""
    """What the upstream calls the model; empty: as the client does."""


class Exchange:
    """Implements `steps.Interception`."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._plan = setting.plan
        self._round = 0
        self._sequence = 0
        self._base: Json = {}
        """The upstream's response object, newest round."""
        self._usage: Json = {}
        self._begun = self._ended = False
        self.history: list[Any] = []
        """What this response added to the conversation, in upstream form."""
        self.exchanged: dict[str, tuple[Json, Json]] = {}
        """Id of a `code_interpreter_call` to the function call and its output upstream."""
        self._output: dict[int, Json] = {}
        self._next_index = 0
        self._texts = MessageTexts(setting.container_id)
        self._texts.files = setting.files
        self._calls = 0
        self._fresh: list[Json] = []
        """Outputs of the round before."""
        self._pending: deque[Mapping[str, Any]] = deque()
        """Events of the upstream that wait for code to end."""
        self._running: tuple[InterpreterCall, Json] | None = None
        self._new_round()

    def _new_round(self) -> None:
        self._indices: dict[Any, int] = {}
        """Output index upstream to the client's."""
        self._ours: dict[Any, InterpreterCall | None] = {}
        """Output index upstream to a call of ours; `None`: one too many, which nobody sees."""
        self._done: set[Any] = set()
        """Output indices upstream whose item is complete."""
        self._items: list[Any] = []
        self._outputs: list[Json] = []
        self._waits_for_client = False

    @property
    def _closed(self) -> bool:
        most = self._plan.max_calls
        return most is not None and self._plan.tool is not None and self._calls >= most

    @property
    def given(self) -> Sequence[Any]:
        return self._setting.given

    # Input -------------------------------------------------------------------------------------

    def begin(self) -> list[Step]:
        return [self._ask()]

    def upstream(self, event: Mapping[str, Any]) -> list[Step]:
        self._pending.append(event)
        return self._advance()

    def _advance(self) -> list[Step]:
        """Handle what waits, until code has to run."""
        steps: list[Step] = []
        while self._pending and self._running is None and not self._ended:
            steps += self._handle(self._pending.popleft())
        return steps

    def _handle(self, event: Mapping[str, Any]) -> list[Step]:
        if event.get("object") == "response" and "type" not in event:
            # Not a stream: the server answered with the whole at once.
            event = {"type": f"response.{event.get('status', 'completed')}", "response": event}
        kind = event.get("type")
        if not isinstance(kind, str):
            return []
        response = mapping(event.get("response"))
        if kind in _OPENINGS:
            return self._opened(response)
        steps = self._opened(response)
        if kind in ENDINGS:
            missing = self._untold(response)
            if missing:
                self._pending.extendleft(reversed([*missing, event]))
                return steps
            return [*steps, *self._round_over(ENDINGS[kind], response)]
        if kind == "error":
            return [*steps, *self.broke(failure_of(event))]
        return [*steps, *self._item_event(kind, dict(event))]

    def _untold(self, response: Mapping[str, Any]) -> list[Json]:
        """Events of items that the upstream's last word holds and its stream did not."""
        return [
            event
            for index, item in enumerate(sequence(response.get("output")))
            if isinstance(item, dict) and not {index, str(item.get("id"))} & self._done
            for event in item_events(item, index)
            if event["type"].endswith("item.done") or not self._known(index)
        ]

    def _known(self, index: Any) -> bool:
        return index in self._indices or index in self._ours

    def over(self) -> list[Step]:
        if self._ended:
            return []
        return self.broke(Failure(message="The model's stream ended before its answer did."))

    def broke(self, failure: Failure) -> list[Step]:
        if self._ended:
            return []
        error = {"code": failure.code, "message": failure.message}
        return [*self._opened({}), *self._end("failed", {"error": error})]

    def live(self, run: Run, stream: Literal["stdout", "stderr"], text: str) -> list[Step]:
        if self._running is None or not self._setting.live:
            return []
        return self._sent(self._running[0].printed(stream, text))

    def ran(self, run: Run, result: CodeResult) -> list[Step]:
        assert self._running is not None
        call, item = self._running
        self._running = None
        return [*self._call_over(call, item, result), *self._advance()]

    # Rounds ------------------------------------------------------------------------------------

    def _ask(self) -> Ask:
        self._round += 1
        setting = self._setting
        given = [*setting.given, *self.history]
        if setting.incremental and self._round > 1:
            given = list(self._fresh)
        body = responses_body(
            self._plan,
            given,
            first=self._round == 1,
            closed=self._closed,
            calls=self._calls,
        )
        if setting.drop_previous:
            body.pop("previous_response_id", None)
        if setting.model:
            body["model"] = setting.model
        return Ask(body, self._round)

    def _opened(self, response: Mapping[str, Any]) -> list[Step]:
        """The first two events of the response, once."""
        if response:
            self._base = dict(response)
        if self._begun:
            return []
        self._begun = True
        setting = self._setting
        shown = started(self._plan, self._base, response_id=setting.response_id, now=setting.now)
        return self._sent(
            [
                {"type": "response.created", "response": shown},
                {"type": "response.in_progress", "response": shown},
            ]
        )

    def _round_over(self, status: str, response: Mapping[str, Any]) -> list[Step]:
        self._usage = added(self._usage, response.get("usage"))
        told = {k: response[k] for k in ("error", "incomplete_details") if response.get(k)}
        self._fresh = list(self._outputs)
        self.history += [*self._items, *self._outputs]
        again = bool(self._outputs) and not self._waits_for_client
        if status != "completed" or not again:
            return self._end(status, told)
        if self._round >= self._setting.max_rounds:
            return self._end("incomplete", {"incomplete_details": {"reason": "max_messages"}})
        self._new_round()
        return [self._ask()]

    def _end(self, status: str, told: Mapping[str, Any]) -> list[Step]:
        self._ended = True
        response = finished(
            self._plan,
            self._base,
            response_id=self._setting.response_id,
            now=self._setting.now,
            status=status,
            output=[unfinished(self._output[index]) for index in sorted(self._output)],
            usage=self._usage,
        )
        response |= told
        event = {"type": f"response.{status}", "response": response}
        return [*self._sent([event]), Finish(response)]

    # Items -------------------------------------------------------------------------------------

    def _item_event(self, kind: str, event: Json) -> list[Step]:
        if kind.startswith("response.output_item.") and not isinstance(event.get("item"), dict):
            return []
        index = _place(kind, event)
        if kind == "response.output_item.added" and self._is_ours(event.get("item")):
            return self._call_added(index)
        if index in self._ours:
            return self._call_event(kind, event, index)
        if kind == "response.output_item.done":
            if self._is_ours(event.get("item")):
                return [*self._call_added(index), *self._call_event(kind, event, index)]
            self._done.add(index)
            self._item_done(mapping(event.get("item")))
        if index is not None:
            event["output_index"] = self._client_index(index)
        event = self._without_secrets(event)
        events = self._texts.events(event) if self._plan.tool is not None else [event]
        for each in events:
            if each["type"] == "response.output_item.done":
                self._output[each["output_index"]] = each["item"]
        return self._sent(events)

    def _is_ours(self, item: Any) -> bool:
        found = mapping(item)
        return (
            self._plan.tool is not None
            and found.get("type") == "function_call"
            and found.get("name") == self._plan.name
            and not found.get("namespace")
        )

    def _client_index(self, index: Any) -> int:
        if index not in self._indices:
            self._indices[index] = self._next_index
            self._next_index += 1
        return self._indices[index]

    def _item_done(self, item: Json) -> None:
        if str(item.get("type")) in FOR_THE_CLIENT:
            self._waits_for_client = True
        if self._plan.stored or not is_lost_reasoning(item):
            self._items.append(item)

    def _without_secrets(self, event: Json) -> Json:
        """Encrypted reasoning that travels for the next round only."""
        item = mapping(event.get("item"))
        if ENCRYPTED in self._plan.include or item.get("type") != "reasoning":
            return event
        if self._plan.stored or self._plan.tool is None or "encrypted_content" not in item:
            return event
        return {**event, "item": {k: v for k, v in item.items() if k != "encrypted_content"}}

    # Calls of ours -----------------------------------------------------------------------------

    def _call_added(self, index: Any) -> list[Step]:
        if index in self._ours:
            return []
        if self._closed:
            self._ours[index] = None
            return []
        self._calls += 1
        new_id = self._setting.new_id("ci")
        call = InterpreterCall(new_id, self._client_index(index), self._setting.container_id)
        self._ours[index] = call
        self._output[call.index] = call.item
        return self._sent(call.added())

    def _call_event(self, kind: str, event: Json, index: Any) -> list[Step]:
        call = self._ours[index]
        if kind == "response.function_call_arguments.delta" and call is not None:
            return self._sent(call.more(str(event.get("delta", ""))))
        if kind == "response.output_item.done":
            if index in self._done:
                return []
            self._done.add(index)
            return self._call_written(call, mapping(event.get("item")))
        return []

    def _call_written(self, call: InterpreterCall | None, item: Json) -> list[Step]:
        if not item.get("call_id"):
            item = {**item, "call_id": self._setting.new_id("call")}
        if call is None:
            item = {**item, "arguments": sendable(item.get("arguments"), "")}
            self._items.append(item)
            self._outputs.append(output_of(item, TOO_MANY))
            return []
        steps = self._sent(call.written(item.get("arguments")))
        code = call.code
        assert code is not None
        item = {**item, "arguments": sendable(item.get("arguments"), code.shown)}
        if item.get("status") == "incomplete":
            # Cut off in the middle: the end of the round says why.
            cut = CodeResult(status="incomplete")
            steps += self._sent(call.ended(cut, outputs=self._wants_outputs))
            self._output[call.index] = call.item
            return steps
        if code.problem:
            told = refused(broken_call(code.problem))
            return [*steps, *self._call_over(call, item, told)]
        self._running = (call, item)
        steps += self._sent(call.running())
        return [*steps, Run(call.id, code.source)]

    @property
    def _wants_outputs(self) -> bool:
        return OUTPUTS in self._plan.include

    def _call_over(self, call: InterpreterCall, item: Json, result: CodeResult) -> list[Step]:
        if result.files is not None:
            self._texts.files = result.files
        self._texts.pictures.extend(result.pictures)
        told = output_of(item, for_responses(result, images=self._setting.images))
        self._items.append(item)
        self._outputs.append(told)
        self.exchanged[call.id] = (item, told)
        events = call.ended(result, outputs=self._wants_outputs)
        self._output[call.index] = call.item
        return self._sent(events)

    # Output ------------------------------------------------------------------------------------

    def _sent(self, events: Sequence[Json]) -> list[Step]:
        steps: list[Step] = []
        for event in events:
            steps.append(Send({**event, "sequence_number": self._sequence}))
            self._sequence += 1
        return steps


def _place(kind: str, event: Json) -> int | str | None:
    """Where in the upstream's output an event belongs; `None`: nowhere.  Some servers leave the
    index out, and then the item's id has to do."""
    index = event.get("output_index")
    if isinstance(index, int):
        return index
    if index is None and not kind.startswith("response.output_item."):
        return None
    return str(mapping(event.get("item")).get("id") or event.get("item_id"))
