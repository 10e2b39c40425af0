"""The nouns of the control plane, as they travel between store, use cases and faces.

All are frozen.  Times are seconds since the epoch.  What a runtime yields is in
`lap_runtimes.base`; what is stored of it is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from lap_runtimes.base import QuestionKind

SessionStatus = Literal["idle", "running", "requires_action", "terminated"]
TurnOutcome = Literal[
    "queued", "running", "requires_action", "completed", "failed", "cancelled", "expired"
]
OPEN_OUTCOMES: frozenset[str] = frozenset({"queued", "running", "requires_action"})

EventType = Literal[
    "user.message",
    "user.interrupt",
    "user.tool_confirmation",
    "user.custom_tool_result",
    "agent.message",
    "agent.thinking",
    "agent.tool_use",
    "agent.custom_tool_use",
    "agent.tool_result",
    "agent.file",
    "session.status_running",
    "session.status_idle",
    "session.status_terminated",
    "session.error",
    "session.usage",
    "session.handed_over",
]
"""Names of the Managed Agents API, and three of ours (`agent.file`, `session.usage`,
`session.handed_over`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who is calling, and so who owns what the call makes."""

    id: str
    """`local`, `key:NAME`, later `oidc:SUBJECT`, `schedule:ID`."""
    kind: Literal["local", "key", "oidc", "schedule"] = "local"
    chain: tuple[str, ...] = ()
    """Agents through whose sessions it calls, outermost first: proven by a nested credential."""


LOCAL = Principal(id="local")

SCOPE_KEY = "lap.principal"
"""Where the gate puts the principal of an HTTP request: into its ASGI scope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a runtime may be given; None: as much as comes."""

    max_turns: int | None = None
    """Turns at once."""
    turns_per_minute: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One registered, invocable agent."""

    name: str
    """`[a-z][a-z0-9_]{0,47}`, unique, never reassigned: its MCP tool name."""
    runtime: str
    """Name of the configured runtime."""
    ref: str
    """What the runtime calls it."""
    description: str = ""
    """Cleaned text; for a discovered agent prefixed with whose words these are."""
    input_schema: Mapping[str, Any] | None = None
    output_schema: Mapping[str, Any] | None = None
    source: Literal["file", "store", "discovery"] = "file"
    pinned: bool = False
    """Stays a tool of its own when there are more than `max_agent_tools`."""
    deadline: float = 24 * 3600
    """Seconds that a turn may take."""
    silence: float = 600
    """Seconds without a byte before a re-attach or an end."""
    pace: Pace = Pace()
    """Of its runtime: all its agents share it."""
    model_may_answer: bool = False
    """`answer_question` from a model may decide this agent's approvals."""
    cancel_on_disconnect: bool = False
    enabled: bool = True
    """`False`: its runtime cannot be used now; `problem` says why.  Shown in status only."""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One conversation of a principal with an agent."""

    id: str
    principal: str
    agent: str
    status: SessionStatus
    ref: Mapping[str, Any] = field(default_factory=dict)
    last_seq: int = 0
    turns: int = 0
    title: str = ""
    """First words of the first prompt."""
    created_at: float = 0.0
    updated_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One prompt to a session, and what became of it."""

    id: str
    session_id: str
    outcome: TurnOutcome
    number: int
    """From 1, in the order of acceptance."""
    prompt: str = ""
    first_seq: int = 0
    """`seq` of its `user.message`; 0 while queued."""
    last_seq: int = 0
    error: str | None = None
    created_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None

    @property
    def ended(self) -> bool:
        return self.outcome not in OPEN_OUTCOMES


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """One thing that happened in a session."""

    session_id: str
    seq: int
    """From 1, without gaps."""
    turn_id: str
    type: EventType
    payload: Mapping[str, Any]
    """JSON.  `agent.message`: {id, text, data?}; `agent.file`: {id, name, media_type, size,
    sha256, uri}; `session.status_idle`: {stop_reason: {type, question_ids?}};
    `session.error`: {message, kind?}; `session.handed_over`: {session, agent}, those that go on;
    the `user.message` with which they begin has {from_session: {session, agent}}.  Text over 64 kB
    keeps head and tail inline, with {blob: sha256, length} beside them."""
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of an open message, or a word on progress: shown live, never stored."""

    session_id: str
    turn_id: str
    kind: Literal["message", "thinking", "progress"]
    message_id: str
    text: str
    replace: bool = False
    """`text` is the whole open message so far (after a gap or a replay), not a piece of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a runtime needs before a turn can go on."""

    id: str
    """Ours (`qst_…`)."""
    session_id: str
    turn_id: str
    native_id: str
    kind: QuestionKind
    text: str
    status: Literal["open", "answered", "closed", "expired"]
    options: Sequence[str] = ()
    schema: Mapping[str, Any] | None = None
    tool: str | None = None
    tool_input: Mapping[str, Any] | None = None
    url: str | None = None
    asked_at: float = 0.0
    expires_at: float = 0.0
    answered_by: str = ""


def session_file_uri(session_id: str, name: str) -> str:
    """The address of a session's file; a name may have spaces and letters of any script."""
    return f"lap://sessions/{session_id}/files/{quote(name, safe='')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFile:
    """A file of a session, made by the agent or given to it; its bytes are a blob."""

    session_id: str
    name: str
    """Unique in its session: a second `a.png` is listed as `a-2.png`."""
    media_type: str
    size: int
    sha256: str
    turn_id: str
    origin: Literal["agent", "user"]
    at: float

    @property
    def uri(self) -> str:
        return session_file_uri(self.session_id, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a prompt came from: carried along nested calls."""

    principal: Principal = LOCAL
    chain: tuple[str, ...] = ()
    """Agents whose sessions the call came through, outermost first."""
    client: str = ""
    """Name of the MCP client, for the list of sessions."""
    from_session: str = ""
    """The session whose transcript the prompt brings along …"""
    from_agent: str = ""
    """… and its agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is wrong and does not stop the server: `lap_status` and `doctor` show it."""

    where: str
    """`lap.toml:12 runtimes.research.auth.bearer`, `runtime research`, `sandbox`."""
    message: str
    remedy: str = ""
    level: Literal["warning", "error"] = "error"
