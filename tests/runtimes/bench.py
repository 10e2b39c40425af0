"""A runtime under test, the real server behind it and the proxy between: what every adapter's cases
are made of.  The cases themselves are in `cases.py` and in one `case_<kind>.py` a kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

from lap_runtimes.base import Runtime
from lap_runtimes.kinds import load

from tests.canary import canary
from tests.runtimes.serving import address, listening, proxied, serving


@cache
def adapter_of(kind: str) -> type[Any]:
    return load(kind)


class Line(Protocol):
    """What leads to the agent: a proxy's connections, or the processes of a local program."""

    @property
    def accepted(self) -> int: ...

    def cut(self) -> None: ...

    def stall(self) -> None: ...

    async def until_closed(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class Bench:
    """A runtime, the server behind it, and the proxy between."""

    runtime: Runtime
    proxy: Line
    server: Any
    cancelled: Callable[[], int]
    """How many turns the server has ended before their time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`app(url)` makes the server: its ASGI application, itself, its count of cancelled turns."""

    id: str
    kind: str
    app: Callable[[str], tuple[Any, Any, Callable[[], int]]]
    slot: str = ""
    """Canary slot of the credential; empty: the one named like the kind."""
    settings: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    ask: str | None = None
    """A prompt that makes the agent ask."""
    ask_kind: str = ""
    file: str | None = None
    file_names: tuple[str, ...] = ("a.txt", "a.csv")
    """What the file that it makes may be called."""
    one_connection: bool = True
    """A turn is one stream; False: many short requests, which a cut does not end."""
    at_once: int = 10
    """How many turns it is asked for at a time; fewer where each is a program."""

    def __post_init__(self) -> None:
        # Imported while the tests are collected: it reads files, which an event loop may not.
        adapter_of(self.kind)

    @asynccontextmanager
    async def bench(self) -> AsyncIterator[Bench]:
        listener = listening()
        url = address(listener)
        app, server, cancelled = self.app(url)
        with serving(app) as direct:
            async with proxied(direct, listener) as proxy:
                adapter = adapter_of(self.kind)
                settings = {"auth": {"bearer": "env:KEY"}, "url": url + self.path, **self.settings}
                secret = canary(self.slot or self.kind)
                config = adapter.Config.model_validate(
                    settings, context={"resolve_secret": lambda reference: secret}
                )
                runtime = adapter(config)
                try:
                    yield Bench(runtime=runtime, proxy=proxy, server=server, cancelled=cancelled)
                finally:
                    await runtime.aclose()
