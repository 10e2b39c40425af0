"""The servers that both sides call, each with how we are configured for it and how its vendor's SDK
is run against it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.surroundings import PYTHONPATH, Place, started

from .direct import ARN, REGION

KEY = "a-key-of-the-benchmarks"
CONFIG = """
[runtimes.it]
{runtime}

[agents.it]
runtime = "it"
ref = "{ref}"
description = "Says it again."

[limits]
running_turns = 1000

[logs]
level = "warning"
"""


class Lacking(Exception):
    """This machine has not what the server needs; in words."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A server that runs."""

    runtime: str
    """Our `[runtimes.it]`."""
    ref: str = ""
    """The agent there."""
    direct: Sequence[str]
    """Arguments of `benchmarks.runtimes.direct`."""
    python: str = sys.executable
    """The interpreter that has the vendor's SDK."""
    environ: Mapping[str, str] = field(default_factory=dict)

    def written(self, folder: Path) -> tuple[str, dict[str, str]]:
        """A configuration in `folder`, and the environment of a process that uses it."""
        folder.mkdir()
        config = folder / "lap.toml"
        config.write_text(CONFIG.format(runtime=self.runtime, ref=self.ref))
        config.chmod(0o600)
        return str(config), self.environment(folder)

    def environment(self, folder: Path) -> dict[str, str]:
        kept = {"PATH": os.environ["PATH"], "HOME": str(folder), "LAP_HOME": str(folder / "lap")}
        return {**kept, "PYTHONPATH": PYTHONPATH, **self.environ}


@contextmanager
def a2a(place: Place) -> Iterator[Peer]:
    """The example agent, made with a2a-sdk."""
    yield Peer(runtime=f'kind = "a2a"\nurl = "{place.agent}"', direct=("a2a", place.agent))


@contextmanager
def responses(place: Place) -> Iterator[Peer]:
    with _own("responses") as url:
        runtime = f'kind = "openai_responses"\nurl = "{url}/v1"\nmodel = "words"'
        yield Peer(runtime=runtime, direct=("responses", url))


@contextmanager
def agentcore(place: Place) -> Iterator[Peer]:
    """A real `BedrockAgentCoreApp`, behind what AWS puts in front of it."""
    with _own("agentcore") as url:
        keys = '{ access_key_id = "env:KEY", secret_access_key = "env:KEY" }'
        yield Peer(
            runtime=f'kind = "bedrock_agentcore"\nurl = "{url}"\nregion = "{REGION}"\naws = {keys}',
            ref=ARN,
            direct=("agentcore", url),
            environ={"KEY": KEY},
        )


@contextmanager
def langgraph(place: Place) -> Iterator[Peer]:
    """The real `langgraph dev`, and its SDK, both in an environment of their own."""
    from tests.runtimes import own_environment, real_cases

    with _made("langgraph"), real_cases.langgraph() as real:
        yield Peer(
            runtime=f'kind = "langgraph"\nurl = "{real.url}"',
            ref="words",
            direct=("langgraph", real.url),
            python=str(own_environment.environment("langgraph") / "python"),
        )


@contextmanager
def litellm(place: Place) -> Iterator[Peer]:
    """The real proxy, in an environment of its own, in front of the example agent."""
    from tests.canary import canary
    from tests.runtimes import real_cases

    with _made("litellm"), real_cases.litellm() as real:
        yield Peer(
            runtime=f'kind = "litellm"\nurl = "{real.url}"\nauth = {{ bearer = "env:KEY" }}',
            ref="words",
            direct=("a2a", f"{real.url}/a2a/words"),
            environ={"KEY": canary("litellm")},
        )


Serve = Callable[[Place], AbstractContextManager[Peer]]


@contextmanager
def _own(name: str) -> Iterator[str]:
    command = (sys.executable, "-m", "benchmarks.runtimes.servers", name)
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": PYTHONPATH, "KEY": KEY}
    with started(command, env=kept) as process:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        if not url:
            raise Lacking(f"the {name} server did not start; is the `bench` group installed?")
        yield url


@contextmanager
def _made(name: str) -> Iterator[None]:
    """Raises: Lacking where the server's environment cannot be made (it needs PyPI)."""
    from tests.runtimes.own_environment import environment

    try:
        environment(name)
    except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
        raise Lacking(f"its environment could not be made: {str(error)[-300:]}") from error
    yield
