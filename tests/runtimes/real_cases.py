"""The same cases with the real server of each kind, in an environment of its own (tier 2)."""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.canary import canary
from tests.runtimes import case_databricks, case_langgraph, case_litellm
from tests.runtimes.bench import Bench, Case, adapter_of
from tests.runtimes.litellm_server import example_agent_app
from tests.runtimes.own_environment import SERVERS, START_SECONDS, environment, free_port, started
from tests.runtimes.serving import address, listening, proxied, serving


@dataclass(frozen=True, slots=True)
class Real:
    """A server that runs: where, and how many turns it has ended before their time."""

    url: str
    cancelled: Callable[[], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RealCase(Case):
    """`server` runs it, once for all tests; `app` is of no use."""

    server: Callable[[], AbstractContextManager[Real]]

    @asynccontextmanager
    async def bench(self) -> AsyncIterator[Bench]:
        real = RUNNING[self.server]
        before = real.cancelled()
        listener = listening()
        url = address(listener)
        async with proxied(real.url, listener) as proxy:
            adapter = adapter_of(self.kind)
            settings = {"auth": {"bearer": "env:KEY"}, "url": url + self.path, **self.settings}
            context = {"resolve_secret": lambda reference: canary(self.slot or self.kind)}
            runtime = adapter(adapter.Config.model_validate(settings, context=context))
            try:
                yield Bench(
                    runtime=runtime,
                    proxy=proxy,
                    server=real,
                    cancelled=lambda: real.cancelled() - before,
                )
            finally:
                await runtime.aclose()


RUNNING: dict[Any, Real] = {}
"""By what starts them: servers that run now."""


def _none(url: str) -> Any:
    raise AssertionError("a real server is no application of ours")


@contextmanager
def folder_of(name: str) -> Iterator[Path]:
    """A copy of the server's own files, to run it in."""
    with tempfile.TemporaryDirectory(prefix=f"lap-{name}-") as made:
        place = Path(made) / name
        shutil.copytree(SERVERS / name, place)
        yield place


def asked(method: str, url: str, body: Any = None) -> Any:
    with answered(method, url, body) as answer:
        return json.load(answer)


def answered(method: str, url: str, body: Any = None, *, seconds: float = 10) -> Any:
    request = urllib.request.Request(
        url,
        method=method,
        data=json.dumps(body).encode() if body is not None else None,
        headers={"Content-Type": "application/json"},
    )
    return urllib.request.urlopen(request, timeout=seconds)


@contextmanager
def langgraph() -> Iterator[Real]:
    programs, port = environment("langgraph"), free_port()
    url = f"http://127.0.0.1:{port}"

    def interrupted() -> int:
        threads = asked("POST", f"{url}/threads/search", {"limit": 1000})
        runs = [r for t in threads for r in asked("GET", f"{url}/threads/{t['thread_id']}/runs")]
        return sum(run["status"] == "interrupted" for run in runs)

    with folder_of("langgraph") as folder:
        command = [str(programs / "langgraph"), "dev", "--no-browser", "--no-reload"]
        where = ["--host", "127.0.0.1", "--port", str(port)]
        env = {"LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1"}
        env["PATH"] = f"{programs}:/usr/bin:/bin"
        with started([*command, *where], folder=folder, ready=f"{url}/ok", env=env):
            yield Real(url, interrupted)


@contextmanager
def durable() -> Iterator[Real]:
    with own_program("databricks_durable", "api/invocations") as url:
        yield Real(url, lambda: 0)


@contextmanager
def mlflow() -> Iterator[Real]:
    with own_program("mlflow", "health") as url:
        # Its first call sets up what it traces with, which takes a while.
        said = {"input": [{"role": "user", "content": "hello"}], "stream": True}
        body = {**said, "context": {"conversation_id": "first"}}
        with answered("POST", f"{url}/responses", body, seconds=START_SECONDS) as answer:
            assert b"you said" in answer.read()
        yield Real(url, lambda: int(asked("GET", f"{url}/cancelled")))


@contextmanager
def litellm() -> Iterator[Real]:
    """The proxy, and behind it a real A2A agent."""
    programs, port = environment("litellm"), free_port()
    url = f"http://127.0.0.1:{port}"
    listener = listening()
    behind = address(listener)
    app, agent = example_agent_app(behind)
    with serving(app, listener), folder_of("litellm") as folder:
        config = (folder / "config.yaml").read_text().replace("http://agent.example", behind)
        (folder / "config.yaml").write_text(config)
        command = [str(programs / "litellm"), "--config", "config.yaml"]
        where = ["--host", "127.0.0.1", "--port", str(port)]
        env = {"LITELLM_MASTER_KEY": canary("litellm"), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        ready = f"{url}/health/liveliness"
        with started([*command, *where], folder=folder, ready=ready, env=env):
            yield Real(url, lambda: len(agent.cancelled))


@contextmanager
def own_program(name: str, ready: str, **env: str) -> Iterator[str]:
    """`servers/NAME/server.py PORT`, in its environment."""
    programs, port = environment(name), free_port()
    url = f"http://127.0.0.1:{port}"
    with folder_of(name) as folder:
        command = [str(programs / "python"), "server.py", str(port)]
        with started(command, folder=folder, ready=f"{url}/{ready}", env=env):
            yield url


REAL_CASES: list[RealCase] = [
    RealCase(id="langgraph-dev", app=_none, server=langgraph, **case_langgraph.SKILLS),
    RealCase(id="databricks-durable", app=_none, server=durable, **case_databricks.DURABLE),
    RealCase(id="databricks-mlflow", app=_none, server=mlflow, **case_databricks.APP),
    RealCase(id="litellm-proxy", app=_none, server=litellm, **case_litellm.SKILLS),
]
