"""A tour of LAP MCP by a real MCP client, over stdio.  Run it with `scripts/demo`.

Starts the example agent and the server, both with a home of their own that is deleted at the end,
and calls the server's tools as a harness would.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mcp.types as t
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.shared.exceptions import MCPError
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
LAP_MCP = BIN / "lap-mcp"

LAP_TOML = """
[runtimes.example]
kind = "a2a"
url = "{url}"

[agents.assistant]
runtime = "example"
description = "Keeps what it is told for the length of a conversation."
"""

SALES = """month,region,units,price
2026-01,north,120,9.5
2026-01,south,80,9.9
2026-02,north,150,9.5
2026-02,south,95,9.7
2026-03,north,170,9.2
2026-03,south,140,9.4
"""
LOAD = """
import pandas as pd
sales = pd.read_csv("sales.csv")
sales["revenue"] = sales.units * sales.price
sales.groupby("region").revenue.agg(["sum", "mean"]).round(1)
"""
PLOT = """
import matplotlib.pyplot as plt
table = sales.pivot(index="month", columns="region", values="revenue")
table.plot.bar(rot=0, title="Revenue by month", figsize=(6, 3.5))
plt.show()
"""
RAISES = """
def price_of(region):
    return sales.set_index("region").loc[region, "price"]

price_of("west")
"""
ENDLESS = """
steps = 0
while True:
    steps += 1
"""
STILL_THERE = 'f"{steps > 0=}, and sales still has {len(sales)} rows"'
ENDLESS_LIMIT = 1.0
"""Seconds."""
PREPARATION = 60.0
"""Seconds that the server may take until the sandbox is ready."""
LOG = "server.log"

NO_ENGINE = """\
Python cannot run here yet: [bold]neither bubblewrap nor a container engine is ready[/] (see above).
  Debian, Ubuntu   sudo apt install bubblewrap, or docker.io
  macOS            Docker Desktop, OrbStack or colima
Then start this again. Agents, sessions and everything else work without it."""


class DemoFailed(Exception):
    """A step did not do what it should; the message says what came instead."""


@dataclass
class Tour:
    """What is shown, and where it came from."""

    console: Console
    client: Client
    steps: int = 0
    began: float = field(default_factory=time.monotonic)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self.steps += 1
        self.console.print(f"\n[bold cyan]{self.steps}. {title}[/]")
        yield

    async def call(self, tool: str, arguments: dict[str, Any]) -> t.CallToolResult:
        """One tool call, shown as it goes over the wire and as a model reads the answer."""
        words = ", ".join(
            f"{key}=…" if key == "code" else f"{key}={_short(value)}"
            for key, value in arguments.items()
        )
        self.console.print(f"  [green]→[/] [bold]{tool}[/]({escape(words)})")
        if code := arguments.get("code"):
            self.console.print(Syntax(code.strip(), "python", padding=(0, 4), word_wrap=True))
        began = time.monotonic()
        result = await self.client.call_tool(tool, arguments)
        took = (time.monotonic() - began) * 1000
        text = text_of(result)
        self.console.print(
            Panel(
                Text(text),
                title=f"{took:.0f} ms",
                title_align="right",
                border_style="red" if result.is_error else "green",
            )
        )
        return result


def text_of(result: t.CallToolResult) -> str:
    return "\n".join(part.text for part in result.content if isinstance(part, t.TextContent))


def _short(value: Any) -> str:
    return textwrap.shorten(repr(value), 70, placeholder="…")


def expect(condition: object, result: t.CallToolResult) -> None:
    if not condition:
        raise DemoFailed(f"The answer is not what it should be:\n{text_of(result)}")


async def show_tools(tour: Tour) -> None:
    table = Table(show_edge=False, pad_edge=False, box=None, padding=(0, 2))
    table.add_column("tool", style="bold")
    table.add_column("what a model is told")
    for tool in (await tour.client.list_tools()).tools:
        words = textwrap.shorten(tool.description or "", 84, placeholder=" …")
        table.add_row(tool.name, escape(words))
    tour.console.print(table)


async def show_agent(tour: Tour) -> None:
    told = await tour.call("assistant", {"prompt": "remember the launch is on Tuesday"})
    expect(not told.is_error, told)
    found = re.search(r"ses_[0-9a-f]{32}", text_of(told))
    if found is None:
        raise DemoFailed(f"The answer names no session:\n{text_of(told)}")
    again = await tour.call("assistant", {"prompt": "recall", "session": found[0]})
    expect("Tuesday" in text_of(again) and not again.is_error, again)


async def show_computing(tour: Tour) -> Path:
    upload = {"name": "sales.csv", "base64": base64.b64encode(SALES.encode()).decode()}
    arguments = {"code": LOAD, "files": [upload]}
    first = await tour.call("code_interpreter", arguments)
    deadline = time.monotonic() + PREPARATION
    while "is being prepared" in text_of(first) and time.monotonic() < deadline:
        await asyncio.sleep(1)
        first = await tour.call("code_interpreter", arguments)
    expect("north" in text_of(first) and not first.is_error, first)
    second = await tour.call("code_interpreter", {"code": PLOT})
    images = [part for part in second.content if isinstance(part, t.ImageContent)]
    expect(images and not second.is_error, second)
    plot = save(base64.b64decode(images[0].data), Path.cwd(), "demo-plot", ".png")
    tour.console.print(
        f"  The plot that the model sees is saved here: [bold]{escape(str(plot))}[/]"
    )
    return plot


def save(data: bytes, folder: Path, stem: str, suffix: str) -> Path:
    """Write a new file: `stem.suffix`, else `stem-2.suffix` and so on.  Never overwrites."""
    number = 1
    while True:
        path = folder / f"{stem}{suffix if number == 1 else f'-{number}{suffix}'}"
        try:
            with path.open("xb") as file:
                file.write(data)
        except FileExistsError:
            number += 1
        else:
            return path


async def show_error(tour: Tour) -> None:
    raised = await tour.call("code_interpreter", {"code": RAISES})
    expect(raised.is_error and "KeyError" in text_of(raised), raised)


async def show_limit(tour: Tour) -> None:
    stopped = await tour.call("code_interpreter", {"code": ENDLESS, "timeout_s": ENDLESS_LIMIT})
    expect(stopped.is_error, stopped)
    kept = await tour.call("code_interpreter", {"code": STILL_THERE})
    expect("6 rows" in text_of(kept) and not kept.is_error, kept)


def show_how_to_add(console: Console) -> None:
    cursor = f'{{"mcpServers": {{"lap": {{"command": "{LAP_MCP}"}}}}}}'
    console.print("\n[bold cyan]Add it to your harness[/]")
    for harness, line in (
        ("Claude Code", f"claude mcp add --scope user lap -- {LAP_MCP}"),
        ("Codex", f"codex mcp add lap -- {LAP_MCP}"),
        ("Cursor (~/.cursor/mcp.json)", cursor),
    ):
        console.print(f"  {harness}")
        console.print(Text(f"    {line}", style="bold"), soft_wrap=True)
    console.print("  or let it write the entry, showing it first")
    install = f"    {LAP_MCP} install claude-code|codex|cursor|vscode|opencode"
    console.print(Text(install, style="bold"), soft_wrap=True)


@contextmanager
def example_agent() -> Iterator[str]:
    """The example A2A agent, ended with us; its address."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "a2a_agent.py"), "--port", "0", "--with-stdin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline().split()
        if said[:1] != ["serving"]:
            raise DemoFailed("The example agent did not start (its words are above).")
        yield said[1]
    finally:
        process.terminate()
        process.wait(10)


def settings(home: Path, url: str) -> dict[str, str]:
    """The environment of server and commands: nothing of the person's own is read or written."""
    config = home / "lap.toml"
    config.write_text(LAP_TOML.format(url=url))
    return {"LAP_CONFIG": str(config), "LAP_HOME": str(home / "lap")}


def engine_address() -> dict[str, str]:
    """Where the engine is and which launcher to take, as the shell says; an MCP client hands on
    little else."""
    names = ("DOCKER_", "LAP_SANDBOX__")
    return {name: value for name, value in os.environ.items() if name.startswith(names)}


def sandbox_ready(console: Console, environment: dict[str, str]) -> bool:
    """Build the sandbox image where that is still to do; its progress is one moving line."""
    command = [str(LAP_MCP), "sandbox", "build"]
    words = ""
    said: list[str] = []
    with (
        console.status("Getting the sandbox ready: a container engine, else bubblewrap") as status,
        subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as build,
    ):
        assert build.stderr is not None
        for line in build.stderr:
            # A pipe gets one line a step instead.
            if not console.is_terminal and line.split(",")[0] != words.split(",")[0]:
                console.print(Text(line.rstrip(), style="dim"))
            words = line.rstrip() or words
            status.update(Text(words))
            if not words.startswith("sandbox image:"):
                said.append(words)
    if build.returncode != 0 and console.is_terminal:
        console.print(Text("\n".join(said[-20:]), style="yellow"))
    return build.returncode == 0


async def tour(
    console: Console, home: Path, environment: dict[str, str], with_sandbox: bool
) -> None:
    server = StdioServerParameters(
        command=str(LAP_MCP), args=[], env=engine_address() | environment, cwd=Path.cwd()
    )
    with (home / LOG).open("w") as log:
        async with Client(stdio_client(server, errlog=log)) as client:
            await walk(Tour(console, client), with_sandbox)


async def walk(guide: Tour, with_sandbox: bool) -> None:
    with guide.step("What a harness is offered"):
        await show_tools(guide)
    with guide.step("A registered agent answers, and the same session goes on"):
        await show_agent(guide)
    if with_sandbox:
        with guide.step("Python over an uploaded CSV; the second call knows the first"):
            await show_computing(guide)
        with guide.step("A cell that raises"):
            await show_error(guide)
        with guide.step("A cell that never ends is stopped at its limit; its variables are kept"):
            await show_limit(guide)
    else:
        guide.console.print(Panel(NO_ENGINE, border_style="yellow"))
    show_how_to_add(guide.console)
    took = time.monotonic() - guide.began
    guide.console.print(f"\n[dim]{guide.steps} steps in {took:.1f} s[/]")


def show_failure(console: Console, failures: BaseExceptionGroup[Exception], home: Path) -> None:
    """In words, with what the server logged."""
    for failure in leaves(failures):
        console.print(Text(f"\nThe demo stopped: {failure}", style="bold red"))
    log = (home / LOG).read_text(errors="replace") if (home / LOG).exists() else ""
    if log.strip():
        console.print(Panel(Text(log.strip()[-3000:]), title="what the server logged"))


def leaves(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from leaves(each)
        else:
            yield each


def main() -> int:
    console = Console()
    failed = False
    with tempfile.TemporaryDirectory(prefix="lap-demo-") as home:
        try:
            with example_agent() as url:
                environment = settings(Path(home), url)
                with_sandbox = sandbox_ready(console, environment)
                asyncio.run(tour(console, Path(home), environment, with_sandbox))
        except* (DemoFailed, MCPError) as failures:
            show_failure(console, failures, Path(home))
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
