"""`lap-mcp agents check NAME`: whether an agent works from end to end, one stage after the other.

Each stage stands on the one before, so the first that fails says what to mend.  Nothing is left
running: a turn that asks or takes too long is cancelled.  Its session stays, as any other does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import anyio
import typer
from lap_runtimes.base import Runtime
from lap_runtimes.errors import RuntimeFailure

from lap_mcp.app import Program, Running, open_services
from lap_mcp.config import Config, Faulty, SecretResolver, one_line
from lap_mcp.control.connections import Connection
from lap_mcp.control.services import NewPrompt
from lap_mcp.errors import LapError, NotFound
from lap_mcp.model import LOCAL, Agent, Turn
from lap_mcp.plain_text import clean, shorten
from lap_mcp.plain_text import one_line as in_one_line

from .calling import ORIGIN
from .console import (
    FAILED,
    MISSING,
    OK,
    UNAVAILABLE,
    WRONG,
    Json,
    as_commands,
    json_object,
    patience,
    program,
    put,
    put_json,
    put_text,
    run,
    runtime_remedy,
)

PROMPT = "This is a test of the connection. Answer with one short sentence; change nothing."
REACH_SECONDS = 15.0
TURN_SECONDS = 120.0
_SIGNS = {"ok": "ok     ", "warning": "warning", "failed": "FAILED "}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What one stage found.  `code`: that of the program if this one failed."""

    name: Literal["configuration", "secret", "reach", "listed", "turn", "answer"]
    state: Literal["ok", "warning", "failed"]
    words: str
    remedy: str = ""
    code: int = OK


def check(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the agent.")],
    prompt: Annotated[str, typer.Option(help="What to ask it.")] = PROMPT,
    given: Annotated[
        str | None, typer.Option("--input", help="Structured input, a JSON object.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds for its turn.")] = TURN_SECONDS,
    as_json: Json = False,
) -> None:
    """Prove that an agent works: configuration, secret, reach, listing, and one real turn.

    Costs what one short turn costs.  Ends with 0 if the agent answered, 1 if its turn failed or
    gave no answer, 2 if the configuration or a secret is wrong, 3 if there is no such agent, 4 if
    its runtime cannot be reached.
    """
    started = program(context)
    config = started.read()
    started.set_up_logs(config)
    structured = None if given is None else json_object(given, "--input")
    asked = NewPrompt(text=prompt, input=structured)

    async def work() -> list[Stage]:
        stages: list[Stage] = []
        async with aclosing(checked(started, config, name, asked, timeout)) as found:
            async for stage in found:
                stage = replace(stage, remedy=as_commands(stage.remedy))
                stages.append(stage)
                if not as_json:
                    _show(stage)
        return stages

    stages = run(work)
    code = next((stage.code for stage in stages if stage.state == "failed"), OK)
    if as_json:
        shown = [
            {key: value for key, value in asdict(stage).items() if key != "code"}
            for stage in stages
        ]
        put_json({"agent": name, "works": code == OK, "stages": shown})
    raise typer.Exit(code)


def _show(stage: Stage) -> None:
    put_text(f"{_SIGNS[stage.state]}  {stage.name}: {stage.words}")
    if stage.remedy:
        put(f"         → {stage.remedy}")


async def checked(
    started: Program, config: Config, name: str, prompt: NewPrompt, timeout: float
) -> AsyncGenerator[Stage, None]:
    """The stages, as they are done; the last one is `answer`, or the one that failed."""
    if config.faults:
        words = "; ".join(one_line(fault) for fault in config.faults)
        yield Stage(name="configuration", state="failed", words=words, code=WRONG)
        return
    async with open_services(started, config) as running:
        connections = running.parts.registry.connections
        await connections.validate()
        found = await _find(running, name)
        if isinstance(found, Stage):
            yield found
            return
        agent, connection = found, connections.get(found.runtime)
        assert connection is not None, "the registry disables agents of unknown runtimes"
        steps: tuple[Callable[[], Awaitable[Sequence[Stage]]], ...] = (
            lambda: _described(started, agent, connection),
            lambda: _reached(agent, connections.runtime(agent.runtime)),
            lambda: _answered(running, agent, prompt, timeout),
        )
        for step in steps:
            for stage in await step():
                yield stage
                if stage.state == "failed":
                    return


async def _find(running: Running, name: str) -> Agent | Stage:
    """The agent; the runtimes are asked where it is not known yet."""
    registry = running.parts.registry
    try:
        if all(known.name != name for known in registry.agents()):
            with anyio.move_on_after(REACH_SECONDS):
                async with patience("asking the runtimes"):
                    await running.parts.refresher.ask_runtimes()
        registry.refreshed()
        agent = registry.agent(name)
    except NotFound as error:
        troubles = [f"{problem.where}: {problem.message}" for problem in registry.problems()]
        words = " ".join([error.message, *troubles])
        return Stage(
            name="configuration", state="failed", words=words, remedy=error.remedy, code=MISSING
        )
    if registry.connections.get(agent.runtime) is None:
        words = f"{name} needs the runtime {agent.runtime}, which is not configured."
        remedy = f"Add [runtimes.{agent.runtime}] to lap.toml."
        return Stage(name="configuration", state="failed", words=words, remedy=remedy, code=WRONG)
    return agent


async def _described(started: Program, agent: Agent, connection: Connection) -> Sequence[Stage]:
    """Configuration and secrets.  A missing secret also disables the runtime: it is told as what
    it is, not as a fault of the file."""
    resolver = started.resolver
    references = list(_references(connection.table.settings))
    faults = [_fault(resolver, each) for each in references] if connection.problems else []
    missing = [fault for fault in faults if fault is not None]
    if connection.problems and not missing:
        words = "; ".join(f"{p.where}: {p.message}" for p in connection.problems)
        remedy = " ".join(p.remedy for p in connection.problems).strip()
        wrong = Stage(name="configuration", state="failed", words=words, remedy=remedy, code=WRONG)
        return [wrong]
    called = f"called {agent.ref} there" if agent.ref else "the one that its address names"
    kind = connection.table.kind
    words = f"{agent.name} is on runtime {connection.name} ({kind}), {called}"
    right = Stage(name="configuration", state="ok", words=words)
    if missing:
        words = "; ".join(f"[runtimes.{connection.name}] {fault}" for fault in missing)
        remedy = " ".join(fault.remedy for fault in missing).strip()
        return [
            right,
            Stage(name="secret", state="failed", words=words, remedy=remedy, code=WRONG),
        ]
    words = f"{', '.join(references)} is there" if references else "none is configured"
    return [right, Stage(name="secret", state="ok", words=words)]


def _references(value: Any) -> list[str]:
    """Every `env:` and `file:` in a runtime's table."""
    if isinstance(value, Mapping):
        return [each for item in value.values() for each in _references(item)]
    if isinstance(value, list | tuple):
        return [each for item in value for each in _references(item)]
    is_one = isinstance(value, str) and value.startswith(("env:", "file:"))
    return [value] if is_one else []


def _fault(resolver: SecretResolver, reference: str) -> Faulty | None:
    try:
        resolver(reference)
    except Faulty as fault:
        return fault
    return None


async def _reached(agent: Agent, runtime: Runtime) -> Sequence[Stage]:
    try:
        with anyio.fail_after(REACH_SECONDS):
            words = await runtime.check()
    except (TimeoutError, RuntimeFailure) as error:
        return [_unreached(error)]
    return [Stage(name="reach", state="ok", words=words), await _listed(agent, runtime)]


async def _listed(agent: Agent, runtime: Runtime) -> Stage:
    """A warning at most: what a runtime does not list may answer all the same."""
    if not runtime.capabilities.discover:
        return Stage(name="listed", state="ok", words="this runtime lists no agents")
    try:
        with anyio.fail_after(REACH_SECONDS):
            infos = await runtime.agents()
    except (TimeoutError, RuntimeFailure) as error:
        words = f"the runtime does not say: {_unreached(error).words}"
        return Stage(name="listed", state="warning", words=words)
    if not agent.ref or any(info.ref == agent.ref for info in infos):
        words = f"one of {len(infos)} that the runtime lists"
        return Stage(name="listed", state="ok", words=words)
    known = in_one_line(", ".join(info.ref for info in infos) or "none", 300)
    return Stage(
        name="listed",
        state="warning",
        words=f"the runtime does not list {agent.ref}; it lists: {known}",
        remedy="If the turn fails too, correct `ref`.",
    )


def _unreached(error: Exception) -> Stage:
    known = error if isinstance(error, RuntimeFailure) else None
    words = known.message if known else f"no answer within {REACH_SECONDS:.0f} s"
    remedy = runtime_remedy(known)
    return Stage(name="reach", state="failed", words=words, remedy=remedy, code=UNAVAILABLE)


async def _answered(
    running: Running, agent: Agent, prompt: NewPrompt, timeout: float
) -> Sequence[Stage]:
    """One real turn, and what it said."""
    sessions = running.services.sessions
    try:
        accepted = await sessions.prompt(ORIGIN, agent.name, prompt)
    except LapError as error:
        words, remedy = error.message, error.remedy
        return [Stage(name="turn", state="failed", words=words, remedy=remedy, code=FAILED)]
    session, turn = accepted.session.id, accepted.turn
    async with patience("waiting for its answer"):
        turn = await sessions.wait(LOCAL, session, turn.id, timeout=timeout)
    stage = await _turn_stage(running, turn, timeout)
    if not turn.ended:
        await sessions.cancel(LOCAL, session)
    if stage.state == "failed":
        return [stage]
    text = clean((await sessions.content(LOCAL, session, turn.id)).text).strip()
    if text:
        words = in_one_line(shorten(text, 600)[0], 300)
        return [stage, Stage(name="answer", state="ok", words=words)]
    words = "the turn completed without a word"
    remedy = f"`lap-mcp sessions show {session}` shows its events."
    nothing = Stage(name="answer", state="failed", words=words, remedy=remedy, code=FAILED)
    return [stage, nothing]


async def _turn_stage(running: Running, turn: Turn, timeout: float) -> Stage:
    session = turn.session_id
    if turn.outcome == "completed":
        took = (turn.ended_at or 0.0) - (turn.started_at or 0.0)
        words = f"completed in {took:.1f} s, session {session}"
        return Stage(name="turn", state="ok", words=words)
    remedy = f"`lap-mcp sessions show {session}` shows its events."
    if turn.outcome == "requires_action":
        asked = await running.services.sessions.questions(LOCAL, session_id=session)
        told = "; ".join(f"{each.kind}: {each.text}" for each in asked)
        words = f"it asked instead of answering, and was cancelled: {in_one_line(told, 400)}"
        if asked:
            remedy = f"Ask with --prompt what needs no {asked[0].kind}."
    elif turn.ended:
        words = f"{turn.outcome}: {clean(turn.error or 'no reason was given')}"
    else:
        words = f"not finished after {timeout:.0f} s, and was cancelled"
        remedy = f"Give it longer with --timeout. {remedy}"
    return Stage(name="turn", state="failed", words=words, remedy=remedy, code=FAILED)
