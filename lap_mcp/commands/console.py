"""What commands share: results on stdout, words on stderr, one exit code for each kind of end."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import asdict, is_dataclass
from typing import Annotated, Any, NoReturn, TypeVar

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

_SCRUBBER: ContextVar[Scrubber | None] = ContextVar("scrubber", default=None)
"""Of the program that runs: whatever is printed goes through it."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
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
        for fault in config.faults:
            say(one_line(fault))
        raise typer.Exit(WRONG)
    return config


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` on an event loop; what it raises becomes words and an exit code."""
    try:
        return anyio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except ExceptionGroup as group:
        known, other = group.split((LapError, RuntimeFailure, SandboxError))
        if other is not None or known is None:
            raise
        fail(_first(known))
    except (LapError, RuntimeFailure, SandboxError) as error:
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
_TOOL = re.compile(rf"`?\b({'|'.join(_COMMANDS)})\b`?")


def fail(error: Exception) -> NoReturn:
    """Say what happened, and end with the code of its kind."""
    if isinstance(error, ConfigFaults):
        for fault in error.faults:
            say(one_line(fault))
    elif isinstance(error, ConfigError):
        say(one_line(error))
    else:
        say(_as_commands(str(error)))
    raise typer.Exit(exit_code(error))


def _as_commands(words: str) -> str:
    """The remedies of the control plane name tools; here they are commands."""
    return _TOOL.sub(lambda found: _COMMANDS[found[1]], words)


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
    sys.stdout.write(f"{_scrubbed(text)}{end}")
    sys.stdout.flush()


def put_json(value: Any) -> None:
    put(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


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
    if not sys.stdin.isatty():
        say(f"{question} Nobody is there to ask: give --yes to go ahead.")
        raise typer.Exit(WRONG)
    if not typer.confirm(question, err=True):
        say("Nothing was changed.")
        raise typer.Exit(FAILED)


def read_argument(value: str) -> str:
    """The argument itself, or standard input where it is `-`."""
    return sys.stdin.read() if value == "-" else value


def json_object(text: str, what: str) -> Mapping[str, Any]:
    """Raises: Invalid."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as exc:
        raise Invalid(f"{what} is not JSON: {exc.msg} at line {exc.lineno}.") from exc
    if not isinstance(value, dict):
        raise Invalid(f"{what} has to be a JSON object.")
    return value
