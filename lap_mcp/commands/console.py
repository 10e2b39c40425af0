"""What commands share: results on stdout, words on stderr, one exit code for each kind of end."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO, TypeVar

import anyio
import typer
from lap_runtimes.errors import RuntimeFailure
from lap_sandbox.errors import LauncherUnavailable, SandboxError

from lap_mcp.app import Program
from lap_mcp.config import Config, ConfigFaults, one_line
from lap_mcp.errors import ConfigError, Invalid, LapError, NotFound, StoreError, Unavailable
from lap_mcp.scrub import Scrubber

T = TypeVar("T")

OK = 0
FAILED = 1
WRONG = 2
MISSING = 3
UNAVAILABLE = 4
INTERRUPTED = 130

EXIT_CODES = (
    "Exit codes: 0 done · 1 failed · 2 wrong usage or configuration · 3 no such thing · "
    "4 something needed is not available · 130 interrupted."
)

_RUNTIME_REMEDIES = {
    "unreachable": "Is it running, and is its address in lap.toml right?",
    "auth": "Is its secret right, and still valid?",
}

_SCRUBBER: ContextVar[Scrubber | None] = ContextVar("scrubber", default=None)
"""Of the program that runs: whatever is printed goes through it."""

_AS_JSON: ContextVar[bool] = ContextVar("as_json", default=False)
"""Whether whoever reads stdout was promised JSON: then a failure is told there too."""

TOLD = (LapError, RuntimeFailure, SandboxError, OSError, UnicodeError)
"""What has words for whoever runs a command; anything else is a fault of this program."""

log = logging.getLogger(__name__)


def _as_json(wanted: bool) -> bool:
    _AS_JSON.set(wanted)
    return wanted


Json = Annotated[
    bool,
    typer.Option(
        "--json", callback=_as_json, help='Print JSON; what fails as {"error": …, "exit_code": …}.'
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def program(context: typer.Context) -> Program:
    found = context.find_object(Program)
    assert found is not None
    _SCRUBBER.set(found.scrubber)
    return found


def read_config(context: typer.Context) -> Config:
    """The configuration; ends with code 2, one line for each fault, if anything is wrong.

    Logs are set up: warnings and worse, unless the configuration says more."""
    started = program(context)
    config = started.read()
    started.set_up_logs(config)
    for warning in config.warnings:
        say(f"warning: {warning.where}: {warning.message} {warning.remedy}")
    if config.faults:
        fail(ConfigFaults(config.faults))
    return config


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` on an event loop; what it raises becomes words and an exit code."""
    try:
        return anyio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except ExceptionGroup as group:
        known, other = group.split(TOLD)
        if other is not None or known is None:
            raise
        fail(_first(known))
    except TOLD as error:
        fail(error)


def _first(group: BaseExceptionGroup[Any]) -> Exception:
    found: Any = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, Exception)
    return found


_COMMANDS = {
    "list_sessions": "`lap-mcp sessions list`",
    "get_session": "`lap-mcp sessions show`",
    "cancel_session": "`lap-mcp sessions cancel`",
    "answer_question": "`lap-mcp questions answer`",
    "lap_status": "`lap-mcp doctor`",
}
_NEW_ONE = "Leave sandbox out to use a new one."
_TOOL = re.compile(rf"`?\b({'|'.join(_COMMANDS)})\b`?")


def fail(error: Exception) -> NoReturn:
    """Say what happened, and end with the code of its kind."""
    raise typer.Exit(told(error))


def told(error: Exception) -> int:
    """Say what happened; the exit code of its kind.

    Raises:
        OSError: whoever read stdout is gone; there is nobody to tell.
    """
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        raise error
    words, code = _words(error), exit_code(error)
    log.debug("ended by", exc_info=error)
    say(words)
    if _AS_JSON.get():
        put(_json_text({"error": words, "exit_code": code}, indent=None))
    return code


def _words(error: Exception) -> str:
    if isinstance(error, ConfigFaults):
        return "\n".join(one_line(fault) for fault in error.faults)
    if isinstance(error, ConfigError):
        return one_line(error)
    if isinstance(error, OSError):
        return system_words(error)
    if isinstance(error, UnicodeError):
        return f"This is not UTF-8 text: {error}."
    return as_commands(str(error))


def system_words(error: OSError) -> str:
    """What the operating system refused, and of which file."""
    name = error.filename if isinstance(error.filename, str) else ""
    why = (error.strerror or str(error) or type(error).__name__).lower()
    return f"{name or 'A file or an address'} cannot be used: {why}."


def as_commands(words: str) -> str:
    """The remedies of the control plane name tools; here they are commands."""
    words = words.replace(_NEW_ONE, "`lap-mcp sandbox list` shows yours.")
    return _TOOL.sub(lambda found: _COMMANDS[found[1]], words)


def runtime_remedy(error: RuntimeFailure | None) -> str:
    """What to look at where a runtime fails; without an error, it did not answer in time."""
    if error is None:
        return "Is it running?"
    return _RUNTIME_REMEDIES.get(error.kind, "")


def exit_code(error: Exception) -> int:
    if isinstance(error, ConfigError | Invalid):
        return WRONG
    if isinstance(error, NotFound):
        return MISSING
    if isinstance(error, Unavailable | StoreError | RuntimeFailure | LauncherUnavailable):
        return UNAVAILABLE
    return FAILED


def _scrubbed(text: str) -> str:
    """Without the secrets that this run has resolved: servers repeat what they were sent."""
    scrubber = _SCRUBBER.get()
    return text if scrubber is None else scrubber.text(text)


@asynccontextmanager
async def patience(words: str) -> AsyncIterator[None]:
    """Say `words` if what is inside takes more than a second."""

    async def speak() -> None:
        await anyio.sleep(1.0)
        say(f"{words} …")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(speak)
        yield
        tasks.cancel_scope.cancel()


def say(words: str) -> None:
    """Words for a person: stderr."""
    sys.stderr.write(f"{_scrubbed(words)}\n")
    sys.stderr.flush()


def put(text: str, end: str = "\n") -> None:
    """A result: stdout."""
    try:
        sys.stdout.write(f"{_scrubbed(text)}{end}")
        sys.stdout.flush()
    except OSError:
        sys.stdout = _nowhere()  # else what is left in it is tried once more at the end
        raise


def put_json(value: Any) -> None:
    put(_json_text(value, indent=2))


def _json_text(value: Any, *, indent: int | None) -> str:
    narrow = "utf" not in (sys.stdout.encoding or "").lower()
    return json.dumps(value, indent=indent, ensure_ascii=narrow, default=_plain)


def open_streams() -> None:
    """Where stderr is closed, nobody wants words.  Without a stdout there is no use in a command:
    ends with code 1."""
    if sys.stderr is None:
        sys.stderr = _nowhere()
    if sys.stdout is None:
        sys.exit("lap-mcp: stdout is closed.")
    _take_any_text()


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")  # until the end


def _take_any_text() -> None:
    """Let stdout and stderr show an escape for what their encoding does not have: where there is
    no locale, an arrow would end the program, and everywhere the name of a file that is no text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)


def put_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """A table for people; `empty` goes to stderr where there are no rows."""
    if not rows:
        say(empty)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Text from runtimes is data: no markup, no control characters.
        table.add_row(*(Text(_printable(_scrubbed(str(cell)))) for cell in row))
    wide = None if sys.stdout.isatty() else 200
    Console(width=wide, highlight=False).print(table)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)


def put_text(text: str, end: str = "\n") -> None:
    """Text of an agent or a sandbox: on a terminal without what could drive it."""
    put(_printable(text) if sys.stdout.isatty() else text, end=end)


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless `yes`.  Ends with code 1 where the answer is no, 2 where nobody can be asked."""
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        say(f"{question} Nobody is there to ask: give --yes to go ahead.")
        raise typer.Exit(WRONG)
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        say("\nNothing was changed.")
        raise typer.Exit(INTERRUPTED) from None
    if not agreed:
        say("Nothing was changed.")
        raise typer.Exit(FAILED)


def read_argument(value: str) -> str:
    """The argument itself, or standard input where it is `-`.  Raises: Invalid, UnicodeError."""
    return standard_input() if value == "-" else value


def standard_input() -> str:
    """Raises: Invalid (it is closed), UnicodeError."""
    if sys.stdin is None:
        raise Invalid("Standard input is closed.", remedy="Give a file or a text instead of `-`.")
    return sys.stdin.read()


def json_object(text: str, what: str) -> Mapping[str, Any]:
    """Raises: Invalid."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as exc:
        raise Invalid(f"{what} is not JSON: {exc.msg} at line {exc.lineno}.") from exc
    if not isinstance(value, dict):
        raise Invalid(f"{what} has to be a JSON object.")
    return value
