"""The interception of one Chat Completions request, without I/O.

The upstream sees a function where the client asked for `code_interpreter`.  Text and the client's
own calls go on as they come; our calls are hidden, run when the round is over, and shown in an
added field, `code_interpreter_calls`, in the shape that they have in Responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from lap_mcp.front_parts.steps import Ask, Failure, Finish, Run, Send, Step

from .arguments import CodeArguments
from .chat_round import ChatRound, Heard
from .exchange import Setting
from .items import sendable
from .plans import chat_body
from .results import MODEL_PICTURES, CodeResult, refused
from .tool import TOO_MANY, broken_call
from .usage import added
from .wire import Json, error_body, mapping

SHOWN: Final = "code_interpreter_calls"
LIVE: Final = "code_interpreter_output"


class ChatExchange:
    """Implements `steps.Interception`."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._plan = setting.plan
        self._number = 0
        self._base: Json = {}
        self._usage: Json = {}
        self._ended = False
        self._calls = 0
        self._content: list[str] = []
        self._refusal: list[str] = []
        self._thoughts: list[str] = []
        self._shown: list[Json] = []
        self._client_calls: list[Json] = []
        self._told_role = False
        self._finish = ""
        self.history: list[Json] = []
        """What this response added to the conversation, in upstream form."""
        self._round = ChatRound(self._plan.name)
        self._waiting: list[tuple[Heard, str]] = []
        """Calls of ours that are still to run, and their source."""
        self._current: tuple[Heard, str, str] | None = None
        """The call that runs: with its code and the id under which it is shown."""
        self._outputs: list[Json] = []
        self._pictures: list[Json] = []

    @property
    def keys(self) -> list[str]:
        """Ids that the client shows again: under them the history is found."""
        ids = [*(each["id"] for each in self._shown), *(call["id"] for call in self._client_calls)]
        return ids if self._shown else []

    # Input -------------------------------------------------------------------------------------

    def begin(self) -> list[Step]:
        return [self._ask()]

    def upstream(self, event: Mapping[str, Any]) -> list[Step]:
        if self._ended:
            return []
        if event.get("error"):
            error = mapping(event["error"])
            return self.broke(Failure(message=str(error.get("message") or event["error"])))
        if not self._base:
            self._base = {
                key: value
                for key, value in event.items()
                if key not in ("choices", "usage", "object")
            }
            self._base["id"] = self._setting.response_id
        if event.get("usage"):
            self._usage = added(self._usage, event["usage"])
        delta = self._round.feed(event, first_call=len(self._client_calls))
        return self._told(delta, event)

    def over(self) -> list[Step]:
        if self._ended:
            return []
        if not self._round.finish:
            return self.broke(Failure(message="The model's stream ended before its answer did."))
        return self._round_over()

    def broke(self, failure: Failure) -> list[Step]:
        self._ended = True
        error = error_body(502, failure.message, code=failure.code)
        return [Send(error), Finish(error)]

    def live(self, run: Run, stream: Literal["stdout", "stderr"], text: str) -> list[Step]:
        if self._current is None or not self._setting.live:
            return []
        return [self._chunk({LIVE: {"id": run.call_id, "stream": stream, "delta": text}})]

    def ran(self, run: Run, result: CodeResult) -> list[Step]:
        assert self._current is not None
        heard, code, shown_id = self._current
        self._current = None
        return [*self._call_over(heard, code, shown_id, result), *self._run_next()]

    # Rounds ------------------------------------------------------------------------------------

    @property
    def _closed(self) -> bool:
        most = self._plan.max_calls
        return most is not None and self._calls >= most

    def _ask(self) -> Ask:
        self._number += 1
        messages = [*self._setting.given, *self.history]
        body = chat_body(self._plan, messages, first=self._number == 1, closed=self._closed)
        body["model"] = self._setting.model or body.get("model")
        return Ask(body, self._number)

    def _round_over(self) -> list[Step]:
        """The model is done: what is ours of its calls is run, in order."""
        said = self._round
        self._finish = said.finish
        self._content.append(said.content)
        self._refusal.append(said.refusal)
        self._thoughts.append(said.thoughts)
        self._client_calls += said.theirs
        self._outputs, self._pictures, self._waiting = [], [], []
        steps: list[Step] = []
        for heard in said.ours:
            steps += self._call_read(heard)
        self.history.append(said.message())
        return [*steps, *self._run_next()]

    def _call_read(self, heard: Heard) -> list[Step]:
        code = CodeArguments().finish(heard.arguments)
        heard.sent = sendable(heard.arguments, code.shown)
        if self._closed:
            self._outputs.append(_tool_message(heard.id, TOO_MANY))
            return []
        self._calls += 1
        if code.problem:
            shown_id = self._setting.new_id("ci")
            told = refused(broken_call(code.problem))
            return self._call_over(heard, code.shown, shown_id, told)
        heard.code = code.shown
        self._waiting.append((heard, code.source))
        return []

    def _run_next(self) -> list[Step]:
        if self._waiting:
            heard, source = self._waiting.pop(0)
            shown_id = self._setting.new_id("ci")
            self._current = (heard, heard.code, shown_id)
            return [Run(shown_id, source)]
        order = {heard.id: number for number, heard in enumerate(self._round.ours)}
        self._outputs.sort(key=lambda message: order.get(message["tool_call_id"], 0))
        self.history += self._outputs
        if self._pictures and not self._round.theirs:
            self.history.append({"role": "user", "content": self._pictures})
        if not self._outputs or self._round.theirs:
            return self._end(self._finish)
        if self._number >= self._setting.max_rounds:
            return self._end("length")
        self._round = ChatRound(self._plan.name)
        return [self._ask()]

    def _call_over(self, heard: Heard, code: str, shown_id: str, result: CodeResult) -> list[Step]:
        self._outputs.append(_tool_message(heard.id, result.told))
        if self._setting.images:
            self._pictures += [
                {"type": "image_url", "image_url": {"url": each.url}}
                for each in result.pictures[:MODEL_PICTURES]
            ]
        shown = {
            "id": shown_id,
            "type": "code_interpreter_call",
            "status": result.status,
            "code": code,
            "container_id": self._setting.container_id,
            "outputs": result.outputs,
            "files": _files(result, self._setting.container_id),
        }
        self._shown.append(shown)
        return [self._chunk({SHOWN: [{"index": len(self._shown) - 1, **shown}]})]

    # Output ------------------------------------------------------------------------------------

    def _told(self, delta: Json, event: Mapping[str, Any]) -> list[Step]:
        if "role" in delta:
            if self._told_role:
                del delta["role"]
            self._told_role = True
        if not any(value is not None for value in delta.values()):
            return []
        return [self._chunk(delta, self._round.logprobs(event))]

    def _chunk(self, delta: Json, logprobs: Any = None) -> Send:
        if not self._told_role:
            self._told_role = True
            delta = {"role": "assistant", **delta}
        choice: Json = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        return Send({**self._base, "object": "chat.completion.chunk", "choices": [choice]})

    def _end(self, reason: str) -> list[Step]:
        self._ended = True
        if self._client_calls:
            reason = "tool_calls"
        elif reason in ("tool_calls", "function_call"):
            reason = "stop"
        steps: list[Step] = []
        if self._plan.stream:
            last = self._chunk({})
            last.event["choices"][0]["finish_reason"] = reason
            steps.append(last)
            if mapping(self._plan.body.get("stream_options")).get("include_usage"):
                chunk = {**self._base, "object": "chat.completion.chunk", "choices": []}
                steps.append(Send({**chunk, "usage": self._usage}))
        return [*steps, Finish(self._result(reason))]

    def _result(self, reason: str) -> Json:
        content = "".join(self._content)
        message: Json = {
            "role": "assistant",
            "content": content or None,
            "refusal": "".join(self._refusal) or None,
        }
        if thoughts := "".join(self._thoughts):
            message["reasoning_content"] = thoughts
        if self._client_calls:
            message["tool_calls"] = self._client_calls
        if self._shown:
            message[SHOWN] = self._shown
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        result = {**self._base, "object": "chat.completion", "choices": [choice]}
        if self._usage:
            result["usage"] = self._usage
        return result


def _tool_message(call_id: str, told: str) -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": told}


def _files(result: CodeResult, container_id: str) -> Sequence[Json]:
    """Every file of the container, and where it is downloaded."""
    named = {**{each.filename: each.file_id for each in result.pictures}, **(result.files or {})}
    return [
        {
            "id": file_id,
            "filename": path,
            "url": f"/v1/containers/{container_id}/files/{file_id}/content",
        }
        for path, file_id in named.items()
    ]
