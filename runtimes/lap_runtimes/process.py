"""Programs that an adapter starts and talks to, a line a message, over their stdin and stdout.

A program gets an empty environment plus what its configuration lists, a working folder, and a
process group of its own under `process_guard.py`, which ends all of it when it is closed and when
we die.  Every line, wait and buffer has a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo

from lap_runtimes.config import RuntimeConfig, resolve_secret
from lap_runtimes.errors import ProtocolError, Unavailable
from lap_runtimes.http_errors import clean
from lap_runtimes.process_guard import CANNOT_START

MAX_LINE = 72 * 1024 * 1024
"""Bytes of one line: an inline file of `MAX_FILE_BYTES` as base64, and its frame."""
MAX_STDERR = 8 * 1024
"""Bytes kept of what it wrote to stderr last; the rest is read and dropped."""
MAX_NOISE = 1000
"""Lines that are no messages, in a row, before it is no use to go on."""
SEND_SECONDS = 30.0
"""For a message to be taken; more, and the program does not read its stdin."""
EOF_SECONDS = 0.5
"""What a program gets to end by itself when its stdin is closed, before SIGTERM."""
NESTED = "${nested}"
"""In a value of `env`: a key with which the program may call our server while its turn runs."""
_Message = TypeVar("_Message")
_SEEN_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL")


def _value(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str) and value.startswith(("env:", "file:")):
        found = resolve_secret(value, info)
        return SecretStr(found) if isinstance(found, str) else found
    return value


def _inherited(names: Any, info: ValidationInfo) -> Any:
    if isinstance(names, Mapping):
        return names
    if not isinstance(names, (list, tuple)) or not all(isinstance(each, str) for each in names):
        raise ValueError('is a list of names, e.g. ["PATH", "HOME"]')
    read = (info.context or {}).get("read_variable")
    if names and read is None:
        raise ValueError("a name to inherit needs a reader in the validation context")
    for name in names:
        if any(word in name.upper() for word in _SEEN_SECRET):
            raise ValueError(
                f'{name} looks like a secret; write env = {{ {name} = "env:{name}" }}, '
                "so that its value is kept out of logs and events"
            )
    return {name: value for name in names if (value := read(name)) is not None}  # type: ignore[misc]


def _absolute(folder: str) -> str:
    if not Path(folder).is_absolute():
        raise ValueError("write an absolute path")
    return folder


class ProcessConfig(RuntimeConfig):
    """Base of the adapters that start a program."""

    command: tuple[str, ...] = ()
    """The program and its arguments.  Without a slash it is looked up in the PATH of `inherit` or
    `env`."""
    env: Mapping[str, Annotated[str | SecretStr, BeforeValidator(_value)]] = Field(
        default_factory=dict
    )
    """Its environment: plain values, and secrets as `env:NAME` or `file:PATH`.  `${nested}` in a
    value is a key for the turn, which then has a program of its own."""
    inherit: Annotated[Mapping[str, str], BeforeValidator(_inherited)] = Field(default_factory=dict)
    """Names of variables that it gets as we have them (`PATH`, `HOME`); no others are passed on."""
    folder: Annotated[str, AfterValidator(_absolute)] | None = None
    """Its working folder; unset: an empty one of its own, removed when it ends."""
    start_seconds: float = Field(60.0, gt=0)
    """How long it may take until it answers its first message."""
    stop_seconds: float = Field(2.0, gt=0, le=4)
    """Between SIGTERM and SIGKILL."""

    @property
    def starts_process(self) -> bool:
        return bool(self.command)

    @property
    def nests(self) -> bool:
        return any(isinstance(each, str) and NESTED in each for each in self.env.values())

    def environment(self) -> dict[str, str]:
        """Without what holds the key of a turn, where there is no turn."""
        given = {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in self.env.items()
            if isinstance(value, SecretStr) or NESTED not in value
        }
        return {**self.inherit, **given}

    def secrets(self) -> list[str]:
        values = (v.get_secret_value() for v in self.env.values() if isinstance(v, SecretStr))
        return [value for value in values if len(value) >= 8]


class LineReader:
    """Bytes in, lines out.  Raises `ProtocolError` for one over `limit` bytes."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._held: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        *whole, rest = chunk.split(b"\n")
        lines = []
        for piece in whole:
            self._hold(piece)
            lines.append(b"".join(self._held))
            self._held, self._size = [], 0
        self._hold(rest)
        return lines

    def _hold(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            raise ProtocolError(
                f"the program wrote a line of more than {self._limit} bytes, which is not read"
            )
        if piece:
            self._held.append(piece)


class Process:
    """A running program.  Made by `start`; its owner calls `aclose`."""

    def __init__(
        self,
        config: ProcessConfig,
        transport: asyncio.SubprocessTransport,
        process: asyncio.subprocess.Process,
        lifeline: int,
        made: str | None,
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._config = config
        self._transport = transport
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._lifeline: int | None = lifeline
        self._made = made
        self._kept: str | None = None
        self._lines: deque[bytes] = deque()
        self._reader = LineReader()
        self._sending = anyio.Lock()
        self._tail = bytearray()
        self._drained = asyncio.get_running_loop().create_task(
            self._drain(process.stderr), name=f"stderr of {config.command[0]}"
        )

    @property
    def folder(self) -> str:
        folder = self._made or self._config.folder
        assert folder is not None
        return folder

    @property
    def where(self) -> str:
        """How it is called in messages."""
        return Path(self._config.command[0]).name

    async def receive(self) -> bytes | None:
        """The next line without its end; None: it closed its stdout.  A line cut off by that is
        dropped.  Raises `ProtocolError`."""
        while not self._lines:
            chunk = await self._stdout.read(256 * 1024)
            if not chunk:
                return None
            self._lines.extend(self._reader.feed(chunk))
        return self._lines.popleft()

    async def message(self, parse: Callable[[bytes], _Message | None]) -> _Message | None:
        """The next line that is a message, for which `parse` gives one; others are passed over.
        None: it closed its stdout.  Raises `ProtocolError`."""
        noise = 0
        while (line := await self.receive()) is not None:
            found = parse(line)
            if found is not None:
                return found
            noise += bool(line.strip())
            if noise > MAX_NOISE:
                raise ProtocolError(f"{self.where} writes to its stdout what is no JSON-RPC")
        return None

    async def send(self, line: bytes) -> None:
        """Raises `Unavailable`: it has ended, or does not read."""
        try:
            with anyio.fail_after(SEND_SECONDS):
                async with self._sending:
                    self._stdin.write(line + b"\n")
                    await self._stdin.drain()
        except TimeoutError as exc:
            words = f"{self.where} has not read its input for {SEND_SECONDS:g} s"
            raise Unavailable(words) from exc
        except (OSError, RuntimeError) as exc:
            raise Unavailable(f"{self.where} reads no more") from exc

    async def keep(self, name: str, data: bytes) -> str:
        """A file for the program to read, until it is closed; its path.  `name` is a plain one."""
        if self._kept is None:
            self._kept = await anyio.to_thread.run_sync(_private_folder)
        folder = await anyio.to_thread.run_sync(lambda: tempfile.mkdtemp(dir=self._kept))
        path = anyio.Path(folder, name)
        await path.write_bytes(data)
        return str(path)

    async def end(self) -> str:
        """How it ended, in words, once its stdout is closed: waits a little for its exit code."""
        with anyio.move_on_after(EOF_SECONDS + self._config.stop_seconds):
            await self._process.wait()
            await asyncio.wait([self._drained], timeout=EOF_SECONDS)
        code = self._process.returncode
        if code is None:
            how = "closed its output"
        elif code == CANNOT_START:
            how = "could not be started"
        elif code > 128:
            how = f"was ended by signal {code - 128}"
        else:
            how = f"ended with exit code {code}"
        said = clean(self.scrub(self._tail.decode("utf-8", "replace")))
        return f"{self.where} {how}" + (f": {said}" if said else "")

    def scrub(self, text: str) -> str:
        """Without the secrets that it was given, should it repeat them."""
        for secret in self._config.secrets():
            text = text.replace(secret, "[secret]")
        return text

    async def aclose(self) -> None:
        """Close its stdin, and end what of it does not end by that.  Nobody may be in `receive`."""
        with anyio.CancelScope(shield=True):
            with contextlib.suppress(OSError, RuntimeError):
                self._stdin.close()
            await self._ended_within(EOF_SECONDS)
            if self._lifeline is not None:
                os.close(self._lifeline)
                self._lifeline = None
            await self._ended_within(self._config.stop_seconds + 1)
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                await self._ended_within(1)
            self._transport.close()
            self._drained.cancel()
            await asyncio.wait([self._drained])
            for folder in (self._made, self._kept):
                if folder is not None:
                    await anyio.to_thread.run_sync(shutil.rmtree, folder, True)

    async def _ended_within(self, seconds: float) -> None:
        """Its output is read on, and dropped: a pipe that is full keeps `wait` from returning."""
        with anyio.move_on_after(seconds):
            while await self._stdout.read(256 * 1024):
                pass
            await self._process.wait()

    async def _drain(self, stderr: asyncio.StreamReader) -> None:
        while chunk := await stderr.read(64 * 1024):
            self._tail += chunk
            del self._tail[:-MAX_STDERR]


async def start(config: ProcessConfig) -> Process:
    """Raises `Unavailable`, as nothing that was sent: it cannot be started; why."""
    environment = config.environment()
    made: str | None = None
    if config.folder is None:
        made = await anyio.to_thread.run_sync(_private_folder)
    folder = made or config.folder
    reading, writing = os.pipe()
    try:
        await anyio.to_thread.run_sync(_check, config, environment)
        loop = asyncio.get_running_loop()
        guard = Path(__file__).with_name("process_guard.py")
        transport, protocol = await loop.subprocess_exec(
            lambda: asyncio.subprocess.SubprocessStreamProtocol(limit=2**20, loop=loop),
            *(sys.executable, "-I", "-S", str(guard), str(reading), str(config.stop_seconds)),
            "given" if "LC_CTYPE" in environment else "added",
            *config.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            cwd=folder,
            pass_fds=(reading,),
            start_new_session=True,
        )
    except BaseException as exc:
        os.close(writing)
        if made is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(shutil.rmtree, made, True)
        if isinstance(exc, OSError):
            words = f"{config.command[0]}: {exc.strerror or exc}"
            raise Unavailable(words, sent=False) from exc
        raise
    finally:
        os.close(reading)
    process = asyncio.subprocess.Process(transport, protocol, loop)
    return Process(config, transport, process, writing, made)


def _private_folder() -> str:
    return tempfile.mkdtemp(prefix="lap-agent-")


def _check(config: ProcessConfig, environment: Mapping[str, str]) -> None:
    """What can be said in better words before the start than after it."""
    if config.folder is not None and not Path(config.folder).is_dir():
        raise Unavailable(f"the working folder {config.folder} is not there", sent=False)
    name = config.command[0]
    path = environment.get("PATH", os.defpath)
    if shutil.which(name, path=path) is None:
        remedy = "is the path right, and may it be executed?"
        if "/" not in name:
            remedy = 'write its absolute path, or inherit = ["PATH"]'
        raise Unavailable(f"{name}: there is no such program; {remedy}", sent=False)
