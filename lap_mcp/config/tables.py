"""The tables of `lap.toml`, as frozen models; what each key means is said here and nowhere else.

Reading files and the environment is in `load.py`.  What an adapter understands in its
`[runtimes.NAME]` table is its own `Config` model in `lap_runtimes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from lap_runtimes.config import Address, PlainHeaders, Secret
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from .units import Duration, Size

MiB = 1024 * 1024

Toolset = Literal["agents", "code", "sessions"]
TOOLSETS: tuple[Toolset, ...] = ("agents", "code", "sessions")


def _split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _of_an_object(schema: Any) -> Any:
    if isinstance(schema, Mapping) and schema.get("type", "object") != "object":
        raise ValueError('has to describe an object: `type = "object"`')
    return schema


def _absolute(path: str | None) -> str | None:
    if path is not None and not path.startswith(("/", "~/")):
        raise ValueError("has to be an absolute path: this program is started in any folder")
    return path


ObjectSchema = Annotated[Mapping[str, Any], BeforeValidator(_of_an_object)]

Texts = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""A list of texts; one text with commas in it is a list too, for variables and options."""


def _folder(path: Any) -> Any:
    if isinstance(path, str) and not path.startswith(("/", "~/")):
        raise ValueError("has to be an absolute path, or one below the home folder (~/…)")
    return path


Folder = Annotated[str, BeforeValidator(_folder)]


def _no_network(policy: Any) -> Any:
    if policy != "disabled":
        raise ValueError(
            'sandboxes have no network: only "disabled" is known until there is control over what '
            "may be reached"
        )
    return policy


NoNetwork = Annotated[Literal["disabled"], BeforeValidator(_no_network)]


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RuntimeTable(Table):
    """`[runtimes.NAME]`: one connection to a system that hosts agents.

    Keys that are not listed here are the adapter's (`url`, `auth`, …); they are kept in `settings`
    and validated with the adapter's own model.
    """

    kind: str
    """`a2a`, `openai_responses`, `http`, or one that an installed package registers."""
    discover: bool | None = None
    """List what the runtime hosts.  Unset: yes where it can, unless `[agents.…]` names its agents
    one by one."""
    include: Texts = ()
    """Patterns (`*`, `?`) of discovered names to take; empty: all."""
    exclude: Texts = ()
    """Patterns of discovered names to leave out."""
    trust: bool = False
    """Show changed names, descriptions and schemas without `lap-mcp agents accept`."""
    deadline: Duration = 24 * 3600.0
    """How long a turn of its agents may take."""
    silence: Duration = 600.0
    """How long a turn may be without a byte before it is attached again or ended."""
    max_turns: int | None = Field(None, ge=1, le=10_000)
    """Turns of its agents that run at once; others wait, first come, first served.  Unset: as many
    as `[limits]` lets through."""
    turns_per_minute: int | None = Field(None, ge=1, le=10_000)
    """Turns of its agents that begin within a minute; others wait, or are refused where that would
    take them past their deadline."""
    settings: Mapping[str, Any] = Field(default_factory=dict)


class AgentTable(Table):
    """`[agents.NAME]`: one agent, under the name of its tool."""

    runtime: str
    """Name of a `[runtimes.…]` table."""
    ref: str = ""
    """What the runtime calls it; empty: the only agent of its runtime."""
    description: str = ""
    pinned: bool = False
    """Stays a tool of its own when there are more agents than `mcp.max_agent_tools`."""
    deadline: Duration | None = None
    silence: Duration | None = None
    model_may_answer: bool = False
    """A model may decide this agent's approvals with `answer_question`."""
    cancel_on_disconnect: bool = False
    """A call that its client cancels ends the turn; otherwise it only detaches."""
    input_schema: ObjectSchema | None = None
    """JSON Schema of a structured input."""
    output_schema: ObjectSchema | None = None


class ModelTable(Table):
    """`[models.NAME]`: a model that clients of `/v1` may ask for, under this name.

    A name or an alias may have `*` in it."""

    base_url: Address
    """Where its server is, with `/v1` where it has that."""
    api_key: Secret | None = None
    """Sent as `Authorization: Bearer …` (with `anthropic` as `x-api-key`), to the origin of
    `base_url` only."""
    model: str | None = None
    """What its server calls it; unset: as the client asked for it."""
    api: Literal["responses", "chat", "anthropic"] = "responses"
    """What its server speaks: `responses` (and Chat Completions), or `chat` alone, into which
    requests of `/v1/responses` are then translated; `anthropic`: Messages, for clients of
    `/v1/messages` only."""
    aliases: Texts = ()
    """Other names that clients may ask for."""
    default: bool = False
    """Serves every name that no other table knows."""
    images: bool | None = None
    """The model can look at figures that its code draws.  Unset: no with `chat`, else yes."""
    headers: PlainHeaders = Field(default_factory=dict)
    """Fixed headers that are not secret."""
    ca_file: str | None = None
    """PEM bundle to trust in place of the system's."""
    connect_timeout: float = Field(10.0, gt=0)
    """Seconds."""
    silence: Duration = 600.0
    """How long its server may send nothing."""
    connections: int = Field(64, ge=1)
    """Free connections to it that are kept."""


class OpenAITable(Table):
    """`[openai]`: the OpenAI-compatible face of `lap-mcp serve`."""

    rounds: int = Field(32, ge=1, le=1000)
    """How often a model may be asked in one response."""
    code_timeout: Duration = 120.0
    """How long one piece of code may run."""
    live_output: bool = False
    """Send standard output while code runs, as an event of ours (`docs/openai.md`).  Some clients
    refuse events that they do not know."""
    max_memory: Literal["1g", "4g", "16g", "64g"] = "4g"
    """Largest `memory_limit` that a container may ask for."""
    max_file: Size = 50 * MiB
    """Largest upload."""


class AnthropicTable(Table):
    """`[anthropic]`: the Anthropic-compatible face of `lap-mcp serve`."""

    rounds: int = Field(10, ge=1, le=1000)
    """How often a model may be asked in one message; then it ends as `pause_turn`."""
    code_timeout: Duration = 120.0
    """How long one call may run."""


class SandboxTable(Table):
    """`[sandbox]`: where `code_interpreter` runs Python, and what one sandbox may use."""

    launcher: Literal["auto", "docker", "bubblewrap"] = "auto"
    """`docker`: containers of an engine.  `bubblewrap`: Linux without one.  `auto`: an engine that
    answers, else bubblewrap; decided once and remembered in `LAP_HOME`.  `lap-mcp serve` takes
    `auto` for `docker`."""
    image: str = "lap-sandbox:core"
    runtime: str | None = None
    """OCI runtime by name (`runsc`, `kata`); unset: the engine's default."""
    wheelhouse: Folder | None = None
    """A folder of wheels from which `%pip install NAME` works in a sandbox; absolute, or below the
    home folder (`~/…`)."""
    network_policy: NoNetwork = "disabled"
    """Sandboxes have no network; there is nothing else to choose yet."""
    warm: int = Field(1, ge=0, le=16)
    """Sandboxes kept ready; fewer where memory is short."""
    warm_age: Duration = 3600.0
    """How long one of them may wait before a new one takes its place."""
    memory: Size = 1024 * MiB
    cpus: float = Field(1.0, gt=0)
    pids: int = Field(128, ge=16)
    disk: Size = 256 * MiB
    """Size of `/mnt/data`; held in memory, so it counts against `memory`."""
    tmp: Size = 64 * MiB
    files: int = Field(20_000, ge=16)
    """Number of files and folders in `/mnt/data`."""
    file_size: Size = 256 * MiB
    printed: Size = 16 * MiB
    """Of what a cell prints, so much is left in a file, where it is more than an answer shows."""
    idle: Duration = 20 * 60.0
    """How long a sandbox may be without use before it gives up its container."""
    keep: Size = 4096 * MiB
    """Files and recorded cells kept for the sandboxes of one principal."""
    keep_each: Size = 512 * MiB
    """Files kept for one sandbox."""
    max_open: int = Field(16, ge=1, le=200)
    """Sandboxes open at the same time, of everybody together."""
    per_principal: int = Field(8, ge=1, le=200)
    mounts: Mapping[str, str] = Field(default_factory=dict)
    """Name to an absolute folder of the host: sandboxes read it as `/mnt/NAME`.  Not `/`, a home
    folder, the system's own ones, `LAP_HOME`, nor what has a socket in it."""


class McpTable(Table):
    """`[mcp]`: what MCP clients are shown."""

    toolsets: Annotated[tuple[Toolset, ...], BeforeValidator(_split)] = TOOLSETS
    read_only: bool = False
    """Show only tools that change nothing."""
    max_agent_tools: int = Field(24, ge=1)
    """With more agents than this, only pinned ones are tools of their own; `find_agents` and
    `call_agent` serve all."""
    folders: Texts = ()
    """Folders, besides the client's working folder, whose files may be given by path (stdio)."""
    output: Annotated[str | None, AfterValidator(_absolute)] = None
    """Folder into which `save_files` writes (stdio); unset: `lap-output` in the client's working
    folder."""
    hidden_files: bool = False
    """Allow files whose path has a part that starts with a dot."""
    ignored_files: bool = False
    """Allow files that git ignores."""


class LimitsTable(Table):
    """`[limits]`: hold in every mode."""

    turns_per_session: int = Field(50, ge=1)
    running_turns: int = Field(8, ge=1)
    """Turns that one principal may have running."""
    queue: int = Field(8, ge=0)
    """Prompts that wait in one session."""
    approval_expiry: Duration = 24 * 3600.0
    """How long a question stays open."""
    file_size: Size = 50 * MiB
    """Largest file given by path (stdio)."""


class ServerTable(Table):
    """`[server]`: `lap-mcp serve`."""

    host: str = "127.0.0.1"
    port: int = Field(8700, ge=0, le=65535)
    allowed_hosts: Texts = ()
    """Values of the `Host` header that are served, besides loopback names.  Needed before the
    server listens on anything but loopback."""
    allowed_origins: Texts = ()
    """Values of the `Origin` header that are served; none by default."""
    public_url: str | None = None
    """Where clients reach this server, if not at its own address (`https://lap.example.com`): links
    to files, and the lines that `lap-mcp serve` prints, begin with it."""


class StoreTable(Table):
    """`[store]`: where sessions, events and the catalogue are kept."""

    url: str | None = None
    """`sqlite:///PATH` or `postgresql://…`; unset: `lap.db` in `LAP_HOME`.  An address with a
    password in it is a secret: write `env:NAME` or `file:PATH`."""


class RetentionTable(Table):
    """`[retention]`: how long ended sessions and their files are kept."""

    days: int = Field(30, ge=1)


class LogsTable(Table):
    """`[logs]`: what goes to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"
    """`auto`: text on a terminal, else JSON lines."""


PLAIN_TABLES: Mapping[str, type[Table]] = {
    "sandbox": SandboxTable,
    "mcp": McpTable,
    "openai": OpenAITable,
    "anthropic": AnthropicTable,
    "limits": LimitsTable,
    "server": ServerTable,
    "store": StoreTable,
    "retention": RetentionTable,
    "logs": LogsTable,
}
"""Tables with fixed keys; `runtimes`, `agents` and `models` hold one table a name."""

TABLE_NAMES: tuple[str, ...] = ("runtimes", "agents", "models", *PLAIN_TABLES)
