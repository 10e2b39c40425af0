"""What is measured here, as processes: the model's server, `lap-mcp serve` in front of it, and
LiteLLM's proxy and SDK, each in an environment of its own that is made when it is first wanted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from benchmarks.surroundings import LAP_MCP, ROOT, Place, started

from .wire_client import Wire

PROXY = "litellm[proxy]==1.108.7"
"""The newest whose proxy installs: later ones want packages that are on no registry."""
SDK = "litellm==1.109.1"
_HOME = ROOT / ".cache" / "bench-litellm"
_SECONDS = 600.0
_MODEL = (sys.executable, "-m", "benchmarks.openai_front.model_server")
_OURS = """
[models.m]
base_url = "{url}"

[models.claude]
base_url = "{url}"
api = "anthropic"

[openai]
rounds = 5

[sandbox]
image = "{image}"
warm = {warm}

[logs]
level = "warning"
"""
_THEIRS = """
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "{url}", api_key: none}}
general_settings: {{master_key: {key}}}
"""
_KEY = "sk-bench"


@dataclass(frozen=True)
class Served:
    """A server, and what opens it."""

    port: int
    key: str
    pid: int
    home: Path

    def wire(self) -> Wire:
        return Wire(self.port, self.key)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


async def _line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    with anyio.fail_after(60):
        said = await anyio.to_thread.run_sync(process.stdout.readline)
    if not said:
        raise RuntimeError("it ended before it served; its stderr says why")
    return str(said.decode().strip())


@asynccontextmanager
async def model(place: Place) -> AsyncIterator[Served]:
    """The model's server: fixed answers, at once."""
    with started(_MODEL, env=place.environ) as process:
        yield Served(int(await _line(process)), "", process.pid, place.folder)


@asynccontextmanager
async def ours(
    place: Place, url: str, name: str, *, warm: int = 0, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Served]:
    """`lap-mcp serve` in front of a model's server.  `name` of its folder."""
    folder = place.folder / name
    folder.mkdir()
    config = folder / "lap.toml"
    config.write_text(_OURS.format(url=url, image=place.image, warm=warm))
    config.chmod(0o600)
    home = folder / "home"
    env = {**place.environ, "LAP_HOME": str(home), **(environ or {})}
    command = [str(LAP_MCP), "--config", str(config), "serve", "--port", "0"]
    with started(command, env=env) as process, _ending(process):
        words = await _line(process)
        port = int(words.split()[-1].split(":")[2].split("/")[0])
        yield Served(port, (home / "serve.key").read_text().strip(), process.pid, home)


@contextmanager
def _ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """A server goes on when its stdin is closed."""
    try:
        yield
    finally:
        process.terminate()


def _made(requirement: str) -> Path:
    """The interpreter of an environment with that and nothing else."""
    folder = _HOME / requirement.replace("[", "-").replace("]", "")
    stamp = folder / "made"
    if not stamp.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "-q", "-q"]
        subprocess.run([*pip, requirement], check=True, stdout=sys.stderr)
        stamp.touch()
    return folder / "bin"


def _their_environ(place: Place) -> dict[str, str]:
    """What keeps LiteLLM from asking the internet for prices, and from talking."""
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    return {"PATH": os.environ["PATH"], "HOME": str(place.folder), **quiet}


@asynccontextmanager
async def proxy(place: Place, url: str) -> AsyncIterator[Served]:
    """LiteLLM's proxy in front of a model's server: one worker, no database, no callbacks."""
    where = await anyio.to_thread.run_sync(_made, PROXY)
    config = place.folder / "litellm.yaml"
    config.write_text(_THEIRS.format(url=url, key=_KEY))
    port = _free_port()
    command = [str(where / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
    options: dict[str, Any] = {"env": _their_environ(place), "stderr": subprocess.DEVNULL}
    with started([*command, "--port", str(port)], **options) as process, _ending(process):
        await _until_open(port, process)
        yield Served(port, _KEY, process.pid, place.folder)


def _free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def _until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    with anyio.fail_after(180):
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"LiteLLM's proxy ended with {process.returncode}")
            try:
                async with await anyio.connect_tcp("127.0.0.1", port):
                    return
            except OSError:
                await anyio.sleep(0.2)


class Interception:
    """LiteLLM's interception in a process of its own (`litellm_process.py`)."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process

    async def ask(self, **order: Any) -> dict[str, Any]:
        """Raises: RuntimeError, with LiteLLM's words."""
        with anyio.fail_after(_SECONDS):
            said = await anyio.to_thread.run_sync(self._exchange, order)
        found: dict[str, Any] = json.loads(said or '{"error": "it ended"}')
        if "error" in found:
            raise RuntimeError(found["error"])
        return found

    def _exchange(self, order: Mapping[str, Any]) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@asynccontextmanager
async def interception(place: Place) -> AsyncIterator[Interception]:
    where = await anyio.to_thread.run_sync(_made, SDK)
    program = Path(__file__).with_name("litellm_process.py")
    options: dict[str, Any] = {"env": _their_environ(place), "stderr": subprocess.DEVNULL}
    with started([str(where / "python"), str(program)], **options) as process:
        yield Interception(process)
