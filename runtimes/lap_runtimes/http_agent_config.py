"""The configuration of the `http` kind: what is sent, and how the answer is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lap_runtimes.config import HTTPRuntimeConfig
from lap_runtimes.http_template import Path, Predicate, check_variables, variables_in


def _path(value: Any) -> Any:
    return Path.parse(value) if isinstance(value, str) else value


def _predicate(value: Any) -> Any:
    return Predicate.parse(value) if isinstance(value, str) else value


PathField = Annotated[Path, BeforeValidator(_path)]
PredicateField = Annotated[Predicate, BeforeValidator(_predicate)]
_AFTERWARDS = ("attach_request", "cancel_request", "poll_request")
"""Requests that are made when the prompt is no longer at hand."""
_STRICT = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class RequestTemplate(BaseModel):
    """One request.  `path` is below `url`; variables in it are percent-encoded."""

    model_config = _STRICT

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    path: str = ""
    headers: Mapping[str, str] = Field(default_factory=dict)
    body: Any = None
    """Any JSON; None sends no body."""

    def variables(self) -> set[str]:
        return {*variables_in(self.path), *variables_in(self.headers), *variables_in(self.body)}


class UsagePaths(BaseModel):
    """Where an answer says what it used."""

    model_config = _STRICT

    input_tokens: PathField | None = None
    output_tokens: PathField | None = None


class AnswerShape(BaseModel):
    """How an answer is read.  Paths and predicates look at the JSON body, or at each event."""

    model_config = _STRICT

    form: Literal["json", "ndjson", "sse"] = "json"
    text: PathField | None = None
    """The whole text.  In a stream, what the deltas should add up to."""
    delta: PathField | None = None
    """More of the text (streams only)."""
    delta_when: PredicateField | None = None
    """Which events carry a delta; unset: each in which the path finds a string."""
    data: PathField | None = None
    """Structured output."""
    done: PredicateField | None = None
    """The event that ends the turn; unset: the end of the stream does."""
    error: PathField | None = Path(("error",))
    """Where this finds something, the turn failed, with the words in it."""
    ref: Mapping[str, PathField] = Field(default_factory=dict)
    """What to keep for later requests, as `${ref.NAME}`."""
    usage: UsagePaths | None = None


class HTTPAgentConfig(HTTPRuntimeConfig):
    """`request` starts a turn; `continue_request` replaces it from a session's second turn on;
    `attach_request` gives a turn's stream again from its beginning; `cancel_request` ends it."""

    request: RequestTemplate
    answer: AnswerShape
    continue_request: RequestTemplate | None = None
    attach_request: RequestTemplate | None = None
    cancel_request: RequestTemplate | None = None
    poll_request: RequestTemplate | None = None
    """Looks at work that goes on after the answer to `request`, until `answer.done` holds."""
    poll_interval: float = Field(1.0, gt=0)
    """Seconds between two looks."""
    check_path: str | None = None
    """What `lap-mcp doctor` reads (`GET`); unset: `OPTIONS` on `url`."""
    idempotent: bool = False
    """The same request with the same `${turn_id}` is the same turn there."""
    on_disconnect: Literal["continues", "aborts", "unknown"] = "unknown"
    """What the agent does when the connection is closed."""

    @model_validator(mode="after")
    def _fits_together(self) -> HTTPAgentConfig:
        shape = self.answer
        if shape.form == "json" and shape.delta is not None:
            raise ValueError("answer.delta: only streams have deltas; set answer.form, or use text")
        if shape.text is None and shape.delta is None and shape.data is None:
            raise ValueError('answer.text: say where the text is, e.g. text = "output.text"')
        if shape.delta_when is not None and shape.delta is None:
            raise ValueError("answer.delta_when: needs answer.delta")
        if self.poll_request is not None and (shape.form != "json" or shape.done is None):
            raise ValueError('poll_request: needs answer.done, and answer.form = "json"')
        for name in (*_AFTERWARDS, "request", "continue_request"):
            self._check_request(name, getattr(self, name))
        named = self.request.variables()
        if self.idempotent and not named & {"turn_id", "turn_uuid"}:
            raise ValueError("idempotent: needs ${turn_id} or ${turn_uuid} in request")
        if any(name.startswith("ref.") for name in named):
            raise ValueError("request: the first turn has no ${ref.…}; use continue_request")
        return self

    def _check_request(self, name: str, request: RequestTemplate | None) -> None:
        if request is None:
            return
        refs = {key: "" for key in self.answer.ref}
        check_variables(f"{name}.path", request.path, refs)
        check_variables(f"{name}.body", request.body, refs)
        for header, value in request.headers.items():
            check_variables(f"{name}.headers.{header}", value, refs)
            if {"prompt", "input", "messages"} & set(variables_in(value)):
                raise ValueError(f"{name}.headers.{header}: a prompt does not go into a header")
        if "nested" in set(variables_in(request.path)):
            raise ValueError(f"{name}.path: a key does not go into an address; use a header")
        if request.method == "GET" and request.body is not None:
            raise ValueError(f"{name}.body: a GET has none; put variables into {name}.path")
        if name in _AFTERWARDS:
            gone = sorted({"prompt", "input", "messages", "agent", "nested"} & request.variables())
            if gone:
                raise ValueError(f"{name}: ${{{gone[0]}}} is not known any more at that time")
