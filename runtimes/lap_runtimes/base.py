"""What a runtime is.  Every adapter, wrapper and scripted stand-in has this one shape.

Rule 1: this file imports nothing of ours.
Rule 2: what only one vendor says has no word here; its adapter drops it or keeps it in `data`.
Rule 3: adapters do not persist, retry or schedule.  The session engine does, and relies on what
        `Capabilities` states; a capability that is claimed and not kept is a bug of the adapter.

A turn goes like this: the engine stores the turn, calls `start`, and reads events until `Done`.
If the stream ends without `Done`, or the server dies, the engine calls `attach` with the last
stored `ref` and `cursor`.  Leaving the `async with` block closes our side of the stream and
nothing else: only `cancel` ends the runtime's work.

How a stream ends: with `Done`, whatever the runtime decided, failures included.  A stream that is
lost just stops, or raises `Unavailable` or `ProtocolError`; only then is it attached to again.
`Rejected` says that the request itself was refused.  Entering the block does not wait for the
runtime: what `start` and `attach` have to refuse comes as the first thing of the stream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

Ref = Mapping[str, Any]
"""What continues, cancels and re-attaches a session at its runtime: run ids, parent message ids,
threads.  Opaque to everybody but its adapter; JSON, at most `MAX_REF_BYTES` when encoded."""

MAX_REF_BYTES = 8 * 1024
MAX_FILE_BYTES = 50 * 1024 * 1024
"""Largest file carried in either direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a runtime truly can do.  Static per adapter and configuration."""

    discover: bool = False
    """`agents()` lists what the runtime hosts."""
    stream: bool = True
    """Events arrive while the agent works, not only at the end."""
    answer: Literal["in_stream", "resume", "none"] = "none"
    """How a question is answered: by `answer()` while the stream goes on, or by a new `start`."""
    conversation: Literal["runtime", "caller", "none"] = "runtime"
    """Who keeps what was said in a session.  `runtime`: its `ref` is enough.  `caller`: each start
    carries it in `Turn.history`.  `none`: every turn stands alone, and a second one is refused."""
    attach: Literal["cursor", "history", "none"] = "none"
    """`cursor`: replay after a stored event's cursor.  `history`: the whole turn again, events
    recognisable by `id`.  `none`: a lost stream is a lost turn."""
    cancel: Literal["remote", "disconnect", "none"] = "none"
    """`remote`: `cancel()` stops the work.  `disconnect`: closing the stream does.  `none`: the
    runtime may work on after the turn ended on our side."""
    on_disconnect: Literal["continues", "aborts", "unknown"] = "unknown"
    idempotent_start: bool = False
    """`start` with the same `turn.id` is the same start: the runtime takes an id of ours."""
    process_bound: bool = False
    """A running turn lives in a process or socket of ours and ends with it.  Its session may be
    one that can be loaded again; `Done.session_gone` says when it is not."""
    files_in: bool = False
    files_out: bool = False
    usage: bool = False
    steer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentInfo:
    """One agent as its runtime describes it.  All text is the runtime's own words: data."""

    ref: str
    """What `Turn.agent` takes."""
    name: str
    description: str = ""
    input_schema: Mapping[str, Any] | None = None
    """JSON Schema (2020-12) of a structured input, where the agent declares one."""
    output_schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFile:
    """A file that goes to the agent with a prompt; its bytes are read when they are sent."""

    name: str
    """A plain file name: no folders, no control characters."""
    media_type: str
    size: int
    read: Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a person or a model asks of an agent."""

    text: str
    input: Mapping[str, Any] | None = None
    """Structured input for an agent that declares an `input_schema`."""
    files: Sequence[PromptFile] = ()


QuestionKind = Literal["approval", "input", "tool_result", "auth"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a runtime needs before it can go on."""

    id: str
    """The runtime's id for it, unique in its session."""
    kind: QuestionKind
    text: str
    options: Sequence[str] = ()
    """Choices the runtime offers, in its own words; empty for a plain allow/deny or free text."""
    schema: Mapping[str, Any] | None = None
    tool: str | None = None
    """The tool that wants to run (`approval`) or whose result is asked for (`tool_result`)."""
    tool_input: Mapping[str, Any] | None = None
    url: str | None = None
    """Where a person signs in (`auth`).  Never opened by us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question, answered.  Where a question has options, an adapter takes an `option` or a
    `decision`, and chooses the first option that means the decision."""

    question_id: str
    decision: Literal["allow", "deny"] | None = None
    """For `approval`; `deny` declines a question of any other kind too."""
    option: str | None = None
    """One of `Question.options`, where it has some."""
    text: str = ""
    """For `input`; the reason, for a denied `approval`; the output, for `tool_result`."""
    data: Mapping[str, Any] | None = None
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Answers to all questions that were open when the turn stopped for them."""

    answers: Sequence[Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class PastMessage:
    """Something said earlier in a session, for a runtime that keeps no conversation."""

    role: Literal["user", "agent"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One start.  Stored before `start` is called."""

    id: str
    """Ours (`trn_` and 32 hex digits).  An id that the runtime lets its client choose for a run or
    a message is derived from it, so that a repeated start is the same start."""
    session_id: str
    """Ours (`ses_` and 32 hex digits); the same rule, for threads and conversations."""
    agent: str
    """`AgentInfo.ref`."""
    input: Prompt | Answers
    ref: Ref = field(default_factory=dict)
    """The last `ref` of the session; empty at its first turn."""
    history: Sequence[PastMessage] | None = None
    """What was said before this turn, oldest first, for `conversation="caller"`; None: not given,
    and an adapter that needs it for a second turn raises `Unsupported`."""
    nested: Callable[[], Awaitable[str]] | None = None
    """Makes a credential with which the agent may call the server that started this turn, while
    the turn runs.  For agents whose configuration asks for it; goes to the configured origin only.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of what a stream yields."""

    id: str | None = None
    """The runtime's own id, the same live and in its history: how a replay is recognised.  An
    adapter with `attach="history"` gives one to every event that is stored."""
    ref: Ref | None = None
    """Replaces the session's ref, stored in the same transaction as this event."""
    cursor: str | None = None
    """Where a replay may start so that this event is the last one not repeated.  Never on a delta:
    after a loss the open message is replayed from its beginning."""
    more: bool = False
    """The next event came with this one and follows without a wait: both may be stored at once."""


def together(events: Sequence[Event]) -> Sequence[Event]:
    """Events that came at once, to be yielded one after the other without a wait between them."""
    if len(events) < 2:
        return events
    return [*(replace(event, more=True) for event in events[:-1]), events[-1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The runtime has taken the prompt.  Carries the first `ref`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Event):
    """Bytes arrived and said nothing.  Resets the silence timer; neither stored nor shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """A word on what is going on.  Shown live, never stored."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDelta(Event):
    """More of an open message.  Shown live, never stored; a `Message` with its id closes it."""

    message_id: str
    """Unique in the session."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Event):
    """A finished message of the agent, whole."""

    message_id: str
    text: str
    data: Any = None
    """Structured output, where the agent gives any (JSON)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingDelta(Event):
    """More of an open piece of reasoning; a `Thinking` with its id closes it."""

    message_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking(Event):
    """A finished piece of the agent's reasoning, as far as the runtime shows it."""

    message_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse(Event):
    """The agent used a tool of its own."""

    tool_use_id: str
    name: str
    input: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult(Event):
    """What a tool of the agent's own answered."""

    tool_use_id: str
    text: str
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class File(Event):
    """A file that the agent made, with its bytes: a vendor's link may be gone tomorrow."""

    file_id: str
    name: str
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Event):
    """The agent waits for an answer.  With `answer="in_stream"` the stream goes on after it; with
    `resume` it ends with `Done(outcome="requires_action")`."""

    question: Question


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionClosed(Event):
    """The runtime no longer waits for this answer (it was given elsewhere, or expired)."""

    question_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Event):
    """What the turn used so far; a later one replaces an earlier one of the same turn."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Event):
    """The last event of a stream."""

    outcome: Literal["completed", "failed", "cancelled", "requires_action"]
    error: str | None = None
    """For `failed`: what happened, in words, without secrets."""
    error_kind: str | None = None
    """For `failed`: an `errors.Kind`, where one fits."""
    request_id: str | None = None
    """For `failed`: the vendor's id for the request, where its wire names one."""
    session_gone: bool = False
    """The runtime says that the session cannot be continued."""


EventStream = AbstractAsyncContextManager[AsyncIterator[Event]]


@runtime_checkable
class Runtime(Protocol):
    """One configured connection to a system that hosts agents.

    Constructed as `Class(config)`, where `Class.Config` is a frozen pydantic model; registered by
    kind in the entry-point group `lap_mcp.runtimes`.  Construction does no I/O.  Every method
    raises `errors.RuntimeFailure` and nothing else that is expected; a method whose capability is
    not claimed raises `errors.Unsupported` before it sends a byte.
    """

    kind: ClassVar[str]

    @property
    def capabilities(self) -> Capabilities: ...

    async def check(self) -> str:
        """Reach the runtime, start nothing.  Returns a few words (`lap-mcp doctor` prints them)."""
        ...

    async def agents(self) -> Sequence[AgentInfo]:
        """What the runtime hosts."""
        ...

    def start(self, turn: Turn) -> EventStream:
        """Start a turn.  A start whose bytes were sent is never repeated by the adapter, unless
        `capabilities.idempotent_start`."""
        ...

    def attach(self, ref: Ref, cursor: str | None) -> EventStream:
        """The stream of a turn that was started, again: after `cursor`, or the whole turn where
        there is none.  A turn that ended meanwhile gives its remaining events and `Done`."""
        ...

    async def answer(self, ref: Ref, answer: Answer) -> None:
        """Answer a question while its stream goes on (`answer="in_stream"`)."""
        ...

    async def steer(self, ref: Ref, prompt: Prompt) -> None:
        """Put a message into the running turn."""
        ...

    async def cancel(self, ref: Ref) -> None:
        """End the running turn with the runtime's own verb.  Ended already is not an error."""
        ...

    async def aclose(self) -> None:
        """Close connections and end processes.  Sessions at the runtime are left as they are."""
        ...
