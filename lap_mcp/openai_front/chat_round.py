"""One answer of a Chat Completions upstream, while it comes.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .wire import Json, mapping, sequence


@dataclass(slots=True)
class Heard:
    """A call of ours."""

    id: str
    name: str
    arguments: Any = ""
    code: str = ""
    sent: str = ""
    """The arguments as they go back upstream."""


class ChatRound:
    """`feed` gives what of each chunk is for the client."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.ours: list[Heard] = []
        self.theirs: list[Json] = []
        self._by_index: dict[int, Heard | Json] = {}
        self._order: list[Heard | Json] = []
        self._parts: dict[str, list[str]] = {"content": [], "refusal": [], "reasoning_content": []}
        self.finish = ""

    @property
    def content(self) -> str:
        return "".join(self._parts["content"])

    @property
    def refusal(self) -> str:
        return "".join(self._parts["refusal"])

    @property
    def thoughts(self) -> str:
        return "".join(self._parts["reasoning_content"])

    def feed(self, chunk: Mapping[str, Any], *, first_call: int) -> Json:
        """`first_call`: how many calls the client was told in earlier rounds."""
        choices = sequence(chunk.get("choices"))
        choice = mapping(choices[0]) if choices else {}
        if choice.get("finish_reason"):
            self.finish = str(choice["finish_reason"])
        delta = dict(mapping(choice.get("message")) or mapping(choice.get("delta")))
        calls = [
            told
            for number, piece in enumerate(sequence(delta.pop("tool_calls", None)))
            if (told := self._call(number, mapping(piece), first_call)) is not None
        ]
        for key, parts in self._parts.items():
            if isinstance(delta.get(key), str):
                parts.append(delta[key])
        if delta.get("content") == "" or delta.get("content", "") is None:
            delta.pop("content")
        if calls:
            delta["tool_calls"] = calls
        return delta

    def logprobs(self, chunk: Mapping[str, Any]) -> Any:
        choices = sequence(chunk.get("choices"))
        return mapping(choices[0]).get("logprobs") if choices else None

    def message(self) -> Json:
        """What the model said, as it goes back upstream."""
        said: Json = {"role": "assistant", "content": self.content or None}
        if self.thoughts:
            said["reasoning_content"] = self.thoughts
        calls = [_as_call(call) if isinstance(call, Heard) else call for call in self._order]
        if calls:
            said["tool_calls"] = calls
        return said

    def _call(self, number: int, piece: Json, first_call: int) -> Json | None:
        """A piece of a call; what the client is told of it, with its own numbering."""
        key = index if isinstance(index := piece.get("index"), int) else number
        inner = mapping(piece.get("function"))
        call = self._by_index.get(key)
        if call is None:
            call = self._by_index[key] = self._begun(key, piece, inner)
        more = inner.get("arguments")
        if isinstance(call, Heard):
            call.arguments = more if isinstance(more, dict) else f"{call.arguments}{more or ''}"
            return None
        if isinstance(more, str) and "function" in call:
            call["function"]["arguments"] += more
        position = next(n for n, each in enumerate(self.theirs) if each is call)
        return {**piece, "index": first_call + position}

    def _begun(self, key: int, piece: Json, inner: Json) -> Heard | Json:
        call: Heard | Json
        if inner.get("name") == self._name:
            call = Heard(str(piece.get("id") or f"call_{key}"), self._name)
            self.ours.append(call)
        else:
            call = {name: value for name, value in piece.items() if name != "index"}
            call = {"type": "function", "id": f"call_{key}", **call}
            if "custom" not in call:
                call["function"] = {**inner, "arguments": ""}
            self.theirs.append(call)
        self._order.append(call)
        return call


def _as_call(heard: Heard) -> Json:
    function = {"name": heard.name, "arguments": heard.sent}
    return {"id": heard.id, "type": "function", "function": function}
