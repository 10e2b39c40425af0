"""`lap-mcp doctor`: what works, what does not, and what to do about it.  Changes nothing."""

from __future__ import annotations

import platform
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import asdict

import anyio
import typer
from lap_runtimes.errors import RuntimeFailure
from lap_sandbox.base import Check
from lap_sandbox.errors import SandboxError

from lap_mcp.app import VERSION, Parts, Program, open_parts
from lap_mcp.config import Config, one_line
from lap_mcp.control.connections import Connection
from lap_mcp.errors import LapError
from lap_mcp.sandbox_parts import sandbox_launcher

from .console import FAILED, OK, WRONG, Json, program, put, put_json, run, runtime_remedy

CHECK_SECONDS = 15.0
_SIGNS = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}


def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Check the configuration, the store, the sandbox and each runtime."""
    started = program(context)
    config = started.read()
    started.set_up_logs(config)

    async def work() -> list[Check]:
        found: list[Check] = []
        async with aclosing(_checks(started, config)) as checks:
            async for check in checks:
                found.append(check)
                if not as_json:
                    _show(check)
        return found

    checks = run(work)
    if as_json:
        put_json([asdict(check) for check in checks])
    failed = FAILED if any(check.level == "error" for check in checks) else OK
    raise typer.Exit(WRONG if config.faults else failed)


def _show(check: Check) -> None:
    put(f"{_SIGNS[check.level]}  {check.name}: {check.words}")
    if check.remedy:
        put(f"         → {check.remedy}")


async def _checks(started: Program, config: Config) -> AsyncGenerator[Check, None]:
    words = f"lap-mcp {VERSION}, Python {platform.python_version()}, {sys.executable}"
    yield Check(name="program", level="ok", words=words)
    async for check in _configuration(config):
        yield check
    try:
        async with open_parts(started, config, lenient=False) as parts:
            yield Check(name="store", level="ok", words=f"{parts.home} ({parts.database.dialect})")
            async for check in _runtimes(parts):
                yield check
    except LapError as error:
        yield Check(name="store", level="error", words=error.message, remedy=error.remedy)
    async for check in _sandbox(started, config):
        yield check


async def _configuration(config: Config) -> AsyncIterator[Check]:
    if config.file is None:
        yield Check(
            name="configuration",
            level="ok",
            words="there is no file yet, only the code interpreter works",
            remedy="`lap-mcp init` writes one to fill in.",
        )
    for fault in config.faults:
        yield Check(name="configuration", level="error", words=one_line(fault))
    for warning in config.warnings:
        yield Check(
            name="configuration",
            level="warning",
            words=f"{warning.where}: {warning.message}",
            remedy=warning.remedy,
        )
    if config.file is not None and not config.faults:
        yield Check(name="configuration", level="ok", words=str(config.file))


async def _runtimes(parts: Parts) -> AsyncIterator[Check]:
    connections = parts.registry.connections
    await connections.validate()
    for connection in connections.all():
        for problem in connection.problems:
            yield Check(
                name=f"runtime {connection.name}",
                level="error",
                words=f"{problem.where}: {problem.message}",
                remedy=problem.remedy,
            )
        if connection.runtime is not None:
            yield await _reach(connection)
    await parts.refresher.ask_runtimes()
    agents = parts.registry.agents()
    disabled = sum(not agent.enabled for agent in agents)
    words = f"{len(agents)} registered" + (f", {disabled} of them disabled" if disabled else "")
    yield Check(name="agents", level="ok", words=words)
    told = set(parts.config.problems)
    for connection in connections.all():
        told.update(connection.problems)
    for problem in parts.registry.problems():
        if problem not in told:
            yield Check(
                name=problem.where,
                level=problem.level,
                words=problem.message,
                remedy=problem.remedy,
            )


async def _reach(connection: Connection) -> Check:
    name = f"runtime {connection.name}"
    assert connection.runtime is not None
    try:
        with anyio.fail_after(CHECK_SECONDS):
            words = await connection.runtime.check()
    except TimeoutError:
        words = f"no answer within {CHECK_SECONDS:.0f} s"
        return Check(name=name, level="error", words=words, remedy=runtime_remedy(None))
    except RuntimeFailure as error:
        remedy = runtime_remedy(error)
        return Check(name=name, level="error", words=error.message, remedy=remedy)
    return Check(name=name, level="ok", words=words)


async def _sandbox(started: Program, config: Config) -> AsyncIterator[Check]:
    launcher = sandbox_launcher(config, started.here, config.home)
    try:
        with anyio.fail_after(CHECK_SECONDS):
            found = await launcher.preflight()
        for check in found:
            yield Check(
                name=f"sandbox {check.name}",
                level=check.level,
                words=check.words,
                remedy=check.remedy,
            )
    except TimeoutError:
        words = f"the engine did not answer within {CHECK_SECONDS:.0f} s"
        yield Check(name="sandbox", level="error", words=words, remedy="Restart the engine.")
    except SandboxError as error:
        yield Check(name="sandbox", level="error", words=str(error))
    finally:
        with anyio.move_on_after(CHECK_SECONDS, shield=True):
            await launcher.aclose()
