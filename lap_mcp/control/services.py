"""What a face may ask for: the use cases, as the faces see them.

Faces (MCP, HTTP, command line) depend on these shapes only; `app.py` fills them with the real
ones, tests with scripted ones.  Everything takes the principal that asks and answers for what it
owns; foreign and missing are the same `NotFound`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lap_runtimes.base import Capabilities
from lap_sandbox.base import Execution, FileInfo, Preparation

from lap_mcp.model import (
    Agent,
    Delta,
    Origin,
    Principal,
    Problem,
    Question,
    Session,
    SessionFile,
    StoredEvent,
    Turn,
)

from .changes import Changes

if TYPE_CHECKING:
    from .front import FrontDoor


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInput:
    """A file given with a prompt or an execution, as the caller wrote it: exactly one form.

    `path` is only ever set by a face that serves one local user over stdio."""

    uri: str = ""
    """`lap://sessions/{id}/files/{name}` or `lap://sandboxes/{id}/files/{path}`."""
    name: str = ""
    data: bytes | None = None
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPrompt:
    text: str
    input: Mapping[str, Any] | None = None
    files: Sequence[FileInput] = ()
    steer: bool = False
    """Put it into the running turn instead of queueing it."""
    from_session: str = ""
    """Id of a session whose transcript goes to the new one; its files only if `files` has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A prompt that was taken."""

    session: Session
    turn: Turn
    joined: bool = False
    """The same prompt to the same session was already running: this is that turn."""
    steered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAnswer:
    decision: Literal["allow", "deny"] | None = None
    option: str | None = None
    text: str = ""
    data: Mapping[str, Any] | None = None
    is_error: bool = False


Followed = StoredEvent | Delta


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnContent:
    """What a turn gave so far."""

    text: str
    """Its messages, the open one included, a blank line between."""
    files: Sequence[SessionFile]
    """Those that the agent made."""


class SessionsAPI(Protocol):
    async def prompt(
        self,
        origin: Origin,
        agent: str,
        prompt: NewPrompt,
        *,
        session_id: str | None = None,
    ) -> Accepted:
        """Store the prompt and have it driven in the background.  Returns at once.

        Raises:
            NotFound: no such agent or session.
            Invalid: the session belongs to another agent; a hand-over into a session; a cycle or
                depth over 3 (the chain is named); files that are refused.
            Conflict: an approval is open; the session that is handed over is being worked on.
            LimitReached: queue, turns a session, running turns a principal.
            Unavailable: the agent's runtime cannot be used; why.
        """
        ...

    async def get(self, principal: Principal, session_id: str) -> Session: ...

    async def turn(self, principal: Principal, session_id: str, turn_id: str) -> Turn: ...

    async def turns(self, principal: Principal, session_id: str) -> Sequence[Turn]: ...

    async def list(
        self,
        principal: Principal,
        *,
        agent: str | None = None,
        status: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> Sequence[Session]:
        """Newest first; `before` is the id of the last session of the page before."""
        ...

    async def events(
        self, principal: Principal, session_id: str, *, after: int = 0, limit: int = 1000
    ) -> Sequence[StoredEvent]: ...

    def follow(
        self, principal: Principal, session_id: str, *, after: int = 0
    ) -> AbstractAsyncContextManager[AsyncIterator[Followed]]:
        """Stored events after `after`, then live ones and deltas, until the caller leaves.  Works
        for a turn that another process drives (without its deltas, with its checkpoints)."""
        ...

    async def wait(
        self, principal: Principal, session_id: str, turn_id: str, *, timeout: float
    ) -> Turn:
        """The turn, once it ended or stopped for questions, or as it is after `timeout` seconds."""
        ...

    async def content(self, principal: Principal, session_id: str, turn_id: str) -> TurnContent:
        """What the turn gave so far, whole."""
        ...

    async def questions(
        self,
        principal: Principal,
        *,
        session_id: str | None = None,
        status: str | None = "open",
    ) -> Sequence[Question]: ...

    async def answer(
        self, principal: Principal, question_id: str, answer: NewAnswer, *, by: str
    ) -> Turn:
        """Answer an open question; `by` says who decided (`person`, `model`, `cli`).

        Raises:
            NotFound, Conflict (no longer open), Invalid (not an answer to this kind or schema).
        """
        ...

    async def cancel(
        self, principal: Principal, session_id: str, *, turn_id: str | None = None
    ) -> Session:
        """End the running turn and drop queued ones; returns when that is done or, with a runtime
        that does not react within its deadline, says so in the turn's error.

        `turn_id`: end this one only, running or queued; the others go on.
        """
        ...

    async def files(self, principal: Principal, session_id: str) -> Sequence[SessionFile]: ...

    async def file(
        self, principal: Principal, session_id: str, name: str
    ) -> tuple[SessionFile, bytes]: ...


class RegistryAPI(Protocol):
    def agents(self) -> Sequence[Agent]:
        """Every registered agent, enabled or not, sorted by name.  From memory: never waits."""
        ...

    def agent(self, name: str) -> Agent:
        """Raises: NotFound, with the nearest names."""
        ...

    async def capabilities(self, agent: Agent) -> Capabilities | None:
        """What its runtime can do; `None` where that cannot be used now.  Waits for the adapter to
        be imported, never for the runtime."""
        ...

    def runtimes(self) -> Sequence[Mapping[str, Any]]:
        """Configured runtimes: {name, kind, url, state, capabilities}, without secrets."""
        ...

    def problems(self) -> Sequence[Problem]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxView:
    id: str
    principal: str
    created_at: float
    used_at: float
    executions: int
    busy: bool
    open: bool = True
    """It has a container in this process; else it is opened again when it is used."""
    files: int = 0
    size: int = 0
    """Of its kept files, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePart:
    """Some bytes of a kept file: one version of it, however it changes meanwhile."""

    path: str
    size: int
    """Of the whole file."""
    sha256: str
    start: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRun:
    """An execution and where its files can be read."""

    sandbox_id: str
    execution: Execution
    fresh: bool
    """The sandbox was opened for this execution."""
    uris: Mapping[str, str] = field(default_factory=dict)
    """Path in `/mnt/data` to `lap://sandboxes/…` for new and changed files."""
    placed: Sequence[str] = ()
    """Paths of the files that the caller gave."""
    reopened: bool = False
    """Its container was replaced before this execution: files are back, variables are gone,
    unless they were replayed."""
    notes: Sequence[str] = ()
    """Sentences for the caller: what was put back, what a replay did."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Path to SHA-256, for the new and changed files that are kept."""
    not_kept: Mapping[str, str] = field(default_factory=dict)
    """Path to why, for files that would be lost with the container."""


class SandboxesAPI(Protocol):
    def preparation(self) -> Preparation: ...

    async def run(
        self,
        principal: Principal,
        code: str,
        *,
        sandbox_id: str | None = None,
        scope: str | None = None,
        files: Sequence[FileInput] = (),
        timeout: float = 45.0,
        replay: bool = False,
        on_output: Callable[[Literal["stdout", "stderr"], str], None] | None = None,
    ) -> SandboxRun:
        """Run code in the named sandbox, else in the default one of `scope` (one MCP connection,
        never a principal), else in a new one.  A sandbox whose container is gone gets a new one
        with all kept files; `replay` then runs its recorded cells again first.

        Raises:
            Unavailable: engine down, image not ready (how far it is), with the remedy.
            Conflict: the sandbox is open in another process; which.
            LimitReached: all are busy; when to try again.
            NotFound, Invalid
        """
        ...

    async def list(self, principal: Principal) -> Sequence[SandboxView]:
        """Last used first, the open ones and those that can be opened again."""
        ...

    async def files(
        self, principal: Principal, sandbox_id: str, *, after: str = "", limit: int = 1000
    ) -> Sequence[FileInfo]:
        """By path, those after `after`; at most `limit`."""
        ...

    async def file(self, principal: Principal, sandbox_id: str, path: str) -> bytes:
        """The whole file, as the last answer that names it said."""
        ...

    async def part(
        self, principal: Principal, sandbox_id: str, path: str, start: int, size: int
    ) -> FilePart:
        """`size` bytes of a kept file from `start` on, fewer at its end."""
        ...

    async def release(self, scope: str) -> None:
        """The connection ended: close its default sandbox."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A file that was written on the user's machine."""

    uri: str
    path: str
    size: int


class OutputAPI(Protocol):
    async def save(self, principal: Principal, uris: Sequence[str]) -> Sequence[Saved]:
        """Save files of sandboxes and sessions as new files of the local user.

        Raises:
            Invalid: an address or a name is refused; nothing is saved.
            NotFound, Unavailable, LimitReached
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    sessions: SessionsAPI
    registry: RegistryAPI
    sandboxes: SandboxesAPI
    changes: Changes
    status: Callable[[], Mapping[str, Any]]
    """What `lap_status` shows: {version, home, config, store, runtimes, agents, sandbox,
    problems: [{where, message, remedy}]}.  Quick; from memory."""
    output: OutputAPI | None = None
    """Where a local user's files are saved; `None`: nowhere."""
    front: FrontDoor | None = None
    """Containers, uploads and responses; `None` where no HTTP front door is served."""
