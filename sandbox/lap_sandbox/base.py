"""What a sandbox is: one isolated, stateful Python environment, and what makes them.

Rule 1: this file imports nothing of ours.
Rule 2: whatever comes out of a sandbox is hostile.  A launcher validates before it returns.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

MiB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one sandbox may use.  Sizes in bytes, times in seconds."""

    memory: int = 1024 * MiB
    cpus: float = 1.0
    pids: int = 128
    disk: int = 256 * MiB
    """Size of `/mnt/data` (memory-backed: it counts against `memory`)."""
    tmp: int = 64 * MiB
    files: int = 20_000
    """Inodes of `/mnt/data`."""
    file_size: int = 256 * MiB
    open_files: int = 1024
    output_head: int = 256 * 1024
    """Bytes of each stream kept from the beginning of an execution …"""
    output_tail: int = 64 * 1024
    """… and from its end; what lies between is counted and dropped."""
    stdout_short: int = 4 * 1024
    """Bytes of stdout beyond which all of it is left in a file of the sandbox as well …"""
    stderr_short: int = 1024
    """… and of stderr: what a reader of the answer surely sees …"""
    whole: int = 16 * MiB
    """… and how many bytes such a file may have; 0: none is made."""
    images: int = 16
    """Rich outputs kept per execution."""
    image_size: int = 5 * MiB
    reported_files: int = 64
    """New and changed files reported per execution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One rich output: a figure, a `display()`, the representation of the last expression."""

    mime: str
    """`image/png`, `image/jpeg`, `image/svg+xml`, `text/html`, `text/markdown`, `text/latex`,
    `application/json`.  The magic bytes of images were checked by the host."""
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionError:
    name: str
    """Class name of the exception."""
    value: str
    traceback: str
    """The user's frames only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    path: str
    """Relative to `/mnt/data`, `/` between folders."""
    size: int
    modified: float
    """Seconds since the epoch, by the sandbox's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A file that holds everything that was printed to a stream."""

    path: str
    """As that of a `FileInfo`."""
    missing: int
    """Bytes of the end that had no room in it."""


Status = Literal["ok", "error", "timeout", "interrupted", "died", "out_of_memory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What one run of code did."""

    id: str
    status: Status
    """`error`: it raised.  `timeout`, `interrupted`: it was stopped.  `died`: the interpreter
    ended.  In words for the caller: `notice`."""
    stdout: str = ""
    stderr: str = ""
    stdout_dropped: int = 0
    """Bytes that were cut out of the middle."""
    stderr_dropped: int = 0
    stdout_left: Left | None = None
    """Where all of it is, if it is more than `Limits.stdout_short`; `None` also where there was no
    room for a file."""
    stderr_left: Left | None = None
    value: str | None = None
    """`repr` of the last expression, `None` where there is none."""
    outputs: Sequence[Output] = ()
    outputs_dropped: int = 0
    error: ExecutionError | None = None
    files: Sequence[FileInfo] = ()
    """New and changed since the execution before."""
    files_more: bool = False
    """More changed than `Limits.reported_files`."""
    state_lost: bool = False
    """Variables and imports are gone; files in `/mnt/data` are as they were, unless
    `files_lost`."""
    files_lost: bool = False
    notice: str = ""
    """One sentence where something needs saying: why it was stopped, what was kept."""
    duration: float = 0.0
    """Seconds, by the host's clock."""
    cpu: float = 0.0


OnOutput = Callable[[Literal["stdout", "stderr"], str], None]
"""Called with output as it comes.  Must not block."""


@runtime_checkable
class Sandbox(Protocol):
    """One environment.  Executions run one after the other; a second caller waits."""

    @property
    def alive(self) -> bool: ...

    async def execute(
        self, code: str, *, timeout: float, on_output: OnOutput | None = None
    ) -> Execution:
        """Run `code`.  Never raises for what the code does.  Cancelling the call interrupts the
        execution and keeps the state where the interpreter lets go within two seconds.

        Raises:
            SandboxGone: the environment ended (its engine stopped, it was closed).
            LimitReached: more code than one execution may have; nothing ran.
        """
        ...

    async def interrupt(self) -> None:
        """Stop what runs, by the same ladder as at its timeout: SIGINT first, which keeps the
        state.  Does not wait for it.  Nothing runs: no effect."""
        ...

    async def reset(self) -> None:
        """A fresh interpreter; files stay."""
        ...

    async def put(self, path: str, data: AsyncIterator[bytes] | bytes) -> FileInfo:
        """Write a file below `/mnt/data`; folders are made.

        Raises:
            BadPath: absolute, `..`, control characters, a link on the way.
            LimitReached: no room, too large, too many files.
        """
        ...

    async def get(self, path: str) -> bytes:
        """Read a regular file below `/mnt/data`.

        Raises:
            BadPath, NotFound, LimitReached
        """
        ...

    async def copy(self, path: str, write: Callable[[bytes], Awaitable[None]]) -> int:
        """Read a regular file in pieces: each goes to `write` as it comes.  Its size, which is
        less than it was where the file shrank meanwhile.

        Raises:
            BadPath, NotFound, LimitReached; what `write` raises
        """
        ...

    async def list(self, *, limit: int = 1000) -> Sequence[FileInfo]: ...

    async def delete(self, path: str) -> None: ...

    async def close(self) -> None:
        """End it.  Nothing of it is left when this returns."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of a preflight."""

    name: str
    level: Literal["ok", "warning", "error"]
    words: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """How far the launcher is with what it needs before it can open a sandbox."""

    ready: bool
    words: str
    """`sandbox image: step 4 of 11, installing pandas (38 s)`"""
    fraction: float | None = None
    error: str | None = None
    """Why it cannot get ready, with the remedy."""


@runtime_checkable
class Launcher(Protocol):
    """Makes sandboxes: `docker` is the product, others follow the same rules."""

    name: str

    def preparation(self) -> Preparation:
        """Where preparation stands.  Never blocks."""
        ...

    async def prepare(self) -> None:
        """Get ready: find the engine, build or fetch the image.  Idempotent, joins a run under
        way, progress through `preparation()`.

        Raises:
            LauncherUnavailable: with the remedy in words.
        """
        ...

    async def open(self, limits: Limits, *, labels: dict[str, str] | None = None) -> Sandbox:
        """A fresh sandbox, warm where one is waiting.

        Raises:
            LauncherUnavailable, LimitReached
        """
        ...

    async def preflight(self) -> Sequence[Check]:
        """What `lap-mcp doctor` prints."""
        ...

    async def reap(self) -> int:
        """Remove what earlier, dead servers left behind; how many."""
        ...

    async def aclose(self) -> None:
        """Close every sandbox that this launcher opened, and the warm ones."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A folder of the host that sandboxes may read."""

    source: Path
    """Absolute."""
    target: str
    """Where it is in a sandbox: absolute, in normal form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LauncherConfig:
    """What the operator may set, whatever the launcher."""

    limits: Limits = field(default_factory=Limits)
    warm: int = 1
    """Sandboxes kept ready; fewer where memory is short."""
    warm_age: float = 3600.0
    """Seconds after which one that nobody took is replaced by a new one."""
    life: float = 7 * 86_400.0
    """Seconds after which a container counts as left behind where nobody can look whether the
    server that started it lives: in another PID namespace, or on another machine."""
    image: str = "lap-sandbox:core"
    runtime: str | None = None
    """OCI runtime by name (`runsc`, `kata`); the engine's default where `None`."""
    idle_stop: float = 60.0
    """Seconds without a request after which everything in a sandbox is stopped (SIGSTOP) until
    the next one, so that what a cell left running costs nothing."""
    instance: str = "default"
    """Whose containers these are: one label value per `LAP_HOME`."""
    mounts: Sequence[Mount] = ()
    wheelhouse: Path | None = None
    """A folder of wheels from which `%pip install` works in a sandbox."""
    cache: Path | None = None
    """Where what is made of them may be kept; needed with `wheelhouse`."""
